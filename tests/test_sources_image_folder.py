"""Class folders and tar archives become one data set, or are refused in one line that names the path."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onecycle_sweeps.images import Source, prepare
from onecycle_sweeps.sources import image_folder
from photographs import classes, encoded, laid, packed, picture, pixels, source, square

PNG = encoded(picture(0))
PARTS = classes("train/", "val/")


def refused(root: Path, **options) -> str:
    """The one line with which a tree is refused."""
    with pytest.raises(ValueError) as raised:
        source(root, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def names_of(images) -> list[str]:
    """The names of a part's files in the order of its samples."""
    return images.read.args[1]


@pytest.mark.slow
@pytest.mark.parametrize("official", ["val", "test"])
def test_train_and_official_part_are_read_in_the_order_of_class_and_name(tmp_path: Path, official: str):
    files = classes("train/", f"{official}/", names=("bees", "Wasps", "ants"))
    found = source(laid(tmp_path / "set", files))
    assert found.class_names == ("Wasps", "ants", "bees")
    for images, labels, part in (
        (found.train_images, found.train_labels, "train"),
        (found.test_images, found.test_labels, official),
    ):
        names = [f"{part}/{name}/{number}.png" for name in found.class_names for number in range(3)]
        assert np.asarray(labels).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        np.testing.assert_array_equal(pixels(images, 2), [square(files[name]) for name in names])


def test_classes_without_parts_have_no_official_test_part(tmp_path: Path):
    found = source(laid(tmp_path / "set", classes("")))
    assert (len(found.train_labels), len(found.test_labels), found.class_names) == (6, 0, ("ants", "bees"))
    assert pixels(found.test_images).shape == (0, 3, 8, 8)


def test_train_alone_has_no_official_test_part(tmp_path: Path):
    found = source(laid(tmp_path / "set", classes("train/")))
    assert (len(found.train_labels), len(found.test_labels)) == (6, 0)


USUAL = [("train", "val", "test"), ("Train", "VALID", "Testing"), ("training", "Validation", "TEST")]


@pytest.mark.parametrize("names", USUAL)
def test_parts_are_recognised_by_their_usual_names_in_any_case(tmp_path: Path, names: tuple[str, str, str]):
    train, val, test = names
    for official in (val, test):
        found = source(laid(tmp_path / official, classes(f"{train}/", f"{official}/")))
        assert found.class_names == ("ants", "bees") and found.parts == ("train", "test")
        assert names_of(found.train_images)[0] == f"{train}/ants/0.png"
        assert names_of(found.test_images)[0] == f"{official}/ants/0.png"
    whole = source(laid(tmp_path / "set", classes(*(f"{name}/" for name in names))))
    assert whole.parts == ("train", "val", "test")
    for images, name in ((whole.train_images, train), (whole.val_images, val), (whole.test_images, test)):
        assert names_of(images)[0] == f"{name}/ants/0.png"


@pytest.mark.parametrize(("part", "other"), [("val", "test"), ("test", "val")])
def test_test_part_picks_the_official_part_and_leaves_the_other_out(tmp_path: Path, part: str, other: str):
    found = source(laid(tmp_path / "set", classes("train/", "val/", "test/")), test_part=part)
    assert found.parts == ("train", "test") and names_of(found.test_images)[0] == f"{part}/ants/0.png"
    ((reason, names),) = found.skipped.items()
    assert "test_part" in reason and len(names) == 6 and all(name.startswith(f"{other}/") for name in names)


@pytest.mark.parametrize("tops", [("train/", "val/"), ("",)])
def test_a_test_part_that_is_not_there_is_refused(tmp_path: Path, tops: tuple[str, ...]):
    message = refused(laid(tmp_path / "set", classes(*tops)), test_part="test")
    assert "data.test_part=test" in message and f"{tmp_path}/set" in message


@pytest.mark.parametrize(
    ("tops", "named"),
    [
        (("Train/", "training/", "val/"), ["Train/, training/, val/", "Train/ and training/"]),
        (("train/", "val/", "valid/"), ["train/, val/, valid/", "val/ and valid/"]),
        (("Val/", "testing/"), ["Val/, testing/", "train/"]),
        (("Test/",), ["Test/", "train/"]),
        (("train/", "val/", "extra/"), ["extra/, train/, val/", "extra/ may be a part or a class"]),
        (("Training/", "dev/"), ["Training/, dev/", "dev/ may be a part or a class"]),
        (("train_images/", "val_images/"), ["train_images/ and val_images/", "ants/ and bees/"]),
        (("ants/train/", "ants/val/", "bees/train/"), ["ants/", "train/, val/", "train/ants/"]),
        (("train/x/train/", "train/x/test/", "val/"), ["x/", "test/, train/", "train/x/"]),
    ],
)
def test_an_ambiguous_tree_is_refused_with_the_folders_found(tmp_path: Path, tops: tuple[str, ...], named: list[str]):
    message = refused(laid(tmp_path / "set", classes(*tops)))
    assert message.startswith(f"{tmp_path}/set") and all(folders in message for folders in named)


def test_parts_without_class_folders_are_not_taken_for_classes(tmp_path: Path):
    message = refused(laid(tmp_path / "set", classes("", names=("Train", "Val"))))
    assert message.startswith(f"{tmp_path}/set/Train/ ") and "two classes" in message and message.endswith("got 0")


@pytest.mark.parametrize("inner", [("images",), ("2023", "spare")])
def test_classes_may_have_folders_of_their_own(tmp_path: Path, inner: tuple[str, ...]):
    files = classes("", names=(f"ants/{inner[0]}", f"bees/{inner[-1]}"))
    assert source(laid(tmp_path / "set", files)).class_names == ("ants", "bees")


def test_folders_without_images_may_lie_beside_parts(tmp_path: Path):
    found = source(laid(tmp_path / "set", PARTS | {"docs/about.txt": b"x", "empty/": b""}))
    assert found.parts == ("train", "test") and found.skipped == {"no image": ["docs/about.txt"]}


@pytest.mark.parametrize("kind", ["", "tar", "tar.gz"])
def test_what_pillow_identifies_is_an_image_whatever_its_name(tmp_path: Path, kind: str):
    jpeg = encoded(picture(1), "JPEG")
    named = {"3.jfif": jpeg, "4": PNG, "5.dat": jpeg, "6.jp2": encoded(picture(2), "JPEG2000"), "7.JFIF": jpeg}
    files = PARTS | {f"train/ants/{name}": content for name, content in named.items()}
    files |= {
        "train/ants/notes.txt": b"a note",
        "val/bees/Thumbs.db": b"\xd0\xcf\x11\xe0",
        "LICENSE": b"x",
    }
    root = packed(tmp_path / f"set.{kind}", files, f"w:{kind[4:]}") if kind else laid(tmp_path / "set", files)
    found = source(root)
    assert names_of(found.train_images)[:8] == [f"train/ants/{n}" for n in sorted(["0.png", "1.png", "2.png", *named])]
    assert pixels(found.train_images).shape == (11, 3, 8, 8)
    assert found.skipped == {"no image": ["LICENSE", "train/ants/notes.txt", "val/bees/Thumbs.db"]}


def test_postscript_is_passed_over_since_it_runs_as_a_program(tmp_path: Path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    found = source(laid(tmp_path / "set", PARTS | {"train/ants/3.eps": eps, "train/bees/3": eps}))
    assert len(found.train_labels) == 6 and found.skipped == {"no image": ["train/ants/3.eps", "train/bees/3"]}


def test_an_outer_folder_is_ignored(tmp_path: Path):
    root = laid(tmp_path / "set", {f"photos/2024/{name}": content for name, content in PARTS.items()})
    assert len(source(root).train_labels) == len(source(root).test_labels) == 6


def test_images_in_folders_below_a_class_belong_to_it(tmp_path: Path):
    root = laid(tmp_path / "set", PARTS | {"train/ants/more/of/them.png": PNG})
    assert names_of(source(root).train_images)[3] == "train/ants/more/of/them.png"


def test_hidden_files_and_files_that_are_no_images_are_passed_over(tmp_path: Path):
    litter = ["train/.DS_Store", "train/ants/.DS_Store", "train/ants/._0.png", "train/ants/Thumbs.db", "train/a.txt"]
    litter += ["README.png", ".git/x.png", "train/.ipynb_checkpoints/x.png", "__MACOSX/train/ants/0.png"]
    root = laid(tmp_path / "set", PARTS | dict.fromkeys(litter, b"litter"))
    assert names_of(source(root).train_images) == sorted(name for name in PARTS if name.startswith("train"))


def test_file_extensions_count_in_any_case(tmp_path: Path):
    root = laid(tmp_path / "set", PARTS | {"train/ants/3.JPG": encoded(picture(1), "JPEG"), "train/ants/4.Tiff": PNG})
    assert len(source(root).train_labels) == 8


def test_links_to_classes_and_to_images_are_followed(tmp_path: Path):
    elsewhere = laid(tmp_path / "elsewhere", {"x.png": PNG, "y.png": PNG})
    root = laid(tmp_path / "set", PARTS | {"train/": b"", "val/wasps/0.png": PNG})
    (root / "train" / "wasps").symlink_to(elsewhere)
    (root / "val" / "wasps" / "1.png").symlink_to(elsewhere / "x.png")
    found = source(root)
    assert names_of(found.train_images)[6:] == ["train/wasps/x.png", "train/wasps/y.png"]
    np.testing.assert_array_equal(pixels(found.test_images)[7], square(PNG))


def circle(root: Path) -> None:
    (root / "train" / "ants" / "again").symlink_to(root / "train")


@pytest.mark.parametrize(
    ("files", "change", "named"),
    [
        ({"val/wasps/1.png": PNG}, None, ["class wasps is in", "/val/ but not in", "/train/"]),
        ({"train/wasps/1.png": PNG}, None, ["class wasps is in", "/train/ but not in", "/val/"]),
        ({"train/wasps/": b""}, None, ["class folder", "/train/wasps/", "no image"]),
        ({"val/wasps/notes.txt": b"x"}, None, ["class folder", "/val/wasps/", "no image"]),
        ({"train/1.png": PNG}, None, ["/train/1.png", "class folder"]),
        ({}, circle, ["/train/ants/again", "links to a folder"]),
        ({}, lambda root: (root / "train").rename(root / "tra"), ["tra/, val/", "tra/ may be a part or a class"]),
    ],
)
def test_folders_that_make_no_data_set_are_refused_by_name(
    tmp_path: Path, files: dict[str, bytes], change: Callable[[Path], None] | None, named: list[str]
):
    root = laid(tmp_path / "set", PARTS | files)
    if change:
        change(root)
    message = refused(root)
    assert str(root) in message and all(words in message for words in named)


@pytest.mark.parametrize(
    ("files", "path", "named"),
    [
        ({"ants/1.png": PNG}, "", ["two classes", "got 1: ants/"]),
        ({"train/ants/1.png": PNG, "val/ants/1.png": PNG}, "/train/", ["two classes", "got 1: ants/"]),
        ({"1.png": PNG, "2.png": PNG}, "", ["two classes", "got 0"]),
        ({"/": b""}, "", ["two classes", "got 0"]),
        (classes("") | {"1.png": PNG}, "/1.png", ["class folder"]),
    ],
)
def test_fewer_than_two_classes_and_images_of_none_are_refused(
    tmp_path: Path, files: dict[str, bytes], path: str, named: list[str]
):
    root = tmp_path / "set"
    root.mkdir()
    message = refused(laid(root, {name: content for name, content in files.items() if name != "/"}))
    assert message.startswith(f"{root}{path} ") and all(words in message for words in named)


def test_a_missing_path_is_reported_in_full_with_a_remedy(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/data/photos.*data\.path.*data\.root"):
        image_folder.load("data", "photos", 8)


@pytest.mark.parametrize(("option", "value"), [("size", 0), ("size", 2.5), ("size", True), ("test_part", "train")])
def test_values_out_of_range_are_refused(tmp_path: Path, option: str, value):
    root = laid(tmp_path / "set", PARTS)
    with pytest.raises(ValueError, match=f"^{option} .*{value!r}"):
        image_folder.load(str(tmp_path), root.name, **{"size": 8, option: value})


def test_names_that_are_not_valid_text_can_still_be_printed(tmp_path: Path):
    root = laid(tmp_path / "set", classes("", names=("a\udcff", "b")) | {"b/\udcfe.png": b"no image"})
    found = source(root)
    assert found.class_names == ("a\\udcff", "b")
    with pytest.raises(ValueError, match=r"b/\\udcfe.png: "):
        pixels(found.train_images)


def test_every_image_that_cannot_be_read_is_named(tmp_path: Path):
    bad = {f"train/ants/bad{number}.png": b"no image" for number in range(7)}
    found = source(laid(tmp_path / "set", PARTS | bad))
    with pytest.raises(ValueError) as raised:
        pixels(found.train_images, 2)
    message = str(raised.value)
    assert "7 images" in message and "2 more" in message and "\n" not in message
    named = [f"{tmp_path}/set/train/ants/bad{number}.png" for number in range(5)]
    assert message.count("bad") == 5 and all(path in message for path in named)


def test_a_file_that_only_looks_like_an_archive_is_refused(tmp_path: Path):
    for name, content in (("a.zip", b"PK\x03\x04" + bytes(2000)), ("a.tar", b""), ("a.tar.gz", b"\x1f\x8b\x08")):
        (tmp_path / name).write_bytes(content)
        message = refused(tmp_path / name)
        assert message.startswith(f"{tmp_path / name} ") and ".tar, .tar.gz or .tar.xz" in message
    assert not tarfile.is_tarfile(tmp_path / "a.zip")


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
        (member("/etc/passwd.png"), "outside"),
        (member("../../outside.png"), "outside"),
        (member("train/ants/../../../outside.png"), "outside"),
        (member("..", tarfile.DIRTYPE), "outside"),
        (member("train/ants/link.png", tarfile.SYMTYPE, "/etc/passwd"), "link"),
        (member("train/ants/link.png", tarfile.LNKTYPE, "train/ants/0.png"), "link"),
        (member("train/wasps", tarfile.SYMTYPE, "ants"), "link"),
        (member("train/ants/fifo.png", tarfile.FIFOTYPE), "special file"),
        (member("train/ants/disk.png", tarfile.BLKTYPE), "special file"),
        (member("train/ants/tty.png", tarfile.CHRTYPE), "special file"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_members_that_are_not_files_in_their_places_are_refused_by_name(
    tmp_path: Path, bad: tarfile.TarInfo, what: str
):
    archive = packed(tmp_path / "set.tar", PARTS)
    with tarfile.open(archive, "a") as tar:
        tar.addfile(bad)
    message = refused(archive)
    assert message.startswith(f"{archive} ") and f"'{bad.name}'" in message and what in message


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
    with pytest.raises(ValueError, match=f"^cannot read {archive}/val/bees/bad.jpg: "):
        pixels(source(archive).test_images)


def test_a_compressed_archive_must_fit_into_the_cache(tmp_path: Path):
    archive = packed(tmp_path / "set.tar.gz", PARTS, "w:gz")
    message = refused(archive, max_cached_gb=0)
    assert message.startswith(f"{archive} ") and "compressed" in message and "data.max_cached_gb=0" in message
