"""A tar archive is the folder that it was made of; it is read in place, and a bad one is refused by name."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from onecycle_sweeps.images import Source, prepare
from photographs import classes, laid, packed, pixels, source

PARTS = classes("train/", "val/")


def assert_same(one: Source, other: Source) -> None:
    assert one.class_names == other.class_names
    for part in ("train", "test"):
        assert getattr(one, f"{part}_labels").tolist() == getattr(other, f"{part}_labels").tolist()
        first, second = (pixels(getattr(each, f"{part}_images"), 2) for each in (one, other))
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "prefix"), [("", ""), ("", "./"), ("gz", "photos/"), ("xz", "")])
def test_an_archive_is_the_folder_it_was_made_of(tmp_path: Path, kind: str, prefix: str):
    shuffled = dict(sorted(PARTS.items(), key=lambda item: item[1]))
    archive = packed(tmp_path / f"set.tar.{kind}".strip("."), shuffled, f"w:{kind}", prefix)
    assert_same(source(archive), source(laid(tmp_path / "set", PARTS)))


def test_nothing_of_an_archive_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    archive = packed(tmp_path / "set.tar.gz", PARTS | {"train/ants/.hidden": b"x", "train/notes.txt": b"x"}, "w:gz")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    pixels(source(archive).train_images)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["empty", "set.tar.gz"]


def test_a_later_member_of_the_same_name_counts(tmp_path: Path):
    first, second = PARTS["train/ants/0.png"], PARTS["train/ants/1.png"]
    archive = packed(tmp_path / "set.tar", PARTS)
    with tarfile.open(archive, "a") as tar:
        member = tarfile.TarInfo("train/ants/0.png")
        member.size = len(second)
        tar.addfile(member, io.BytesIO(second))
    found = pixels(source(archive).train_images)
    np.testing.assert_array_equal(found[0], found[1])
    assert first != second


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (member("/etc/passwd.png"), "lies outside of it"),
        (member("../../outside.png"), "lies outside of it"),
        (member("train/ants/../../../outside.png"), "lies outside of it"),
        (member("..", tarfile.DIRTYPE), "lies outside of it"),
        (member("train/ants/link.png", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (member("train/ants/link.png", tarfile.LNKTYPE, "train/ants/0.png"), "is a link"),
        (member("train/wasps", tarfile.SYMTYPE, "ants"), "is a link"),
        (member("train/ants/fifo.png", tarfile.FIFOTYPE), "is a special file"),
        (member("train/ants/disk.png", tarfile.BLKTYPE), "is a special file"),
        (member("train/ants/tty.png", tarfile.CHRTYPE), "is a special file"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_members_that_are_not_files_in_their_places_are_refused_by_name(
    tmp_path: Path, bad: tarfile.TarInfo, what: str
):
    archive = packed(tmp_path / "set.tar", PARTS)
    with tarfile.open(archive, "a") as tar:
        tar.addfile(bad)
    with pytest.raises(ValueError, match=f"^{archive} is refused: its member '{bad.name}' {what}"):
        source(archive)


@pytest.mark.parametrize("kind", ["", "gz", "xz"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.58])
def test_an_archive_cut_short_anywhere_is_named(tmp_path: Path, kind: str, share: float):
    archive = packed(tmp_path / "set.tar", PARTS, f"w:{kind}")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"^{archive} is (damaged or cut short: |neither a folder)[^\n]*$"):
        found = source(archive)
        pixels(found.train_images)


def test_an_archive_cut_between_two_members_is_named(tmp_path: Path):
    archive = packed(tmp_path / "set.tar", PARTS)
    with tarfile.open(archive) as tar:
        cut = tar.getmembers()[-2].offset
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(ValueError, match=f"{archive} is damaged or cut short: no end mark at byte {cut}"):
        source(archive)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path):
    archive = packed(tmp_path / "set.tar", PARTS)
    with tarfile.open(archive) as tar:
        offset = tar.getmembers()[5].offset
    content = bytearray(archive.read_bytes())
    content[offset] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=f"{archive} is damaged or cut short: no header at byte {offset}"):
        source(archive)


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_a_bit_that_was_lost_in_a_compressed_archive_is_noticed(tmp_path: Path, kind: str):
    archive = packed(tmp_path / "set.tar", PARTS, f"w:{kind}")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 16
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=f"{archive} is (damaged|neither)|cannot read .*{archive}"):
        prepare(lambda: source(archive), tmp_path / "cache", val_fraction=0, split_seed=0, classes=None)
    assert not (tmp_path / "cache").exists()


def test_a_member_that_cannot_be_read_is_named_with_its_archive(tmp_path: Path):
    archive = packed(tmp_path / "set.tar", PARTS | {"val/bees/bad.jpg": b"no image"})
    with pytest.raises(ValueError, match=f"^cannot read {archive}/val/bees/bad.jpg: it is no image"):
        pixels(source(archive).test_images)


def test_a_compressed_archive_must_fit_into_the_cache(tmp_path: Path):
    archive = packed(tmp_path / "set.tar.gz", PARTS, "w:gz")
    with pytest.raises(ValueError, match=f"{archive} must be a .tar that is not compressed: .* data.max_cached_gb=0,"):
        source(archive, max_cached_gb=0)
