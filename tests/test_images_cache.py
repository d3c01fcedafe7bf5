"""Photographs are decoded into a cache by processes of their own, or in every epoch if the cache would be too large."""

import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from onecycle_sweeps import trial
from onecycle_sweeps.images import Facts, ImageBatches, Source, batches, cache, evaluation_batches, load, prepare
from onecycle_sweeps.sources import image_folder
from onecycle_sweeps.sources.image_folder import EXTENSIONS
from onecycle_sweeps.trial import Stopped, TrialFailed
from photographs import classes, encoded, laid, packed, picture, source
from real_trials import made, outcome, planned, stop_after

WHOLE = {"val_fraction": 0, "split_seed": 0, "classes": None}
PREPARE = """
import sys
from pathlib import Path
from onecycle_sweeps.sources import image_folder
from onecycle_sweeps.sources.image_folder import EXTENSIONS
from onecycle_sweeps.images import prepare

folder = Path(sys.argv[1])

def load():
    with (folder / "decoded").open("a") as file:
        file.write("once\\n")
    return image_folder.load(str(folder), "photos", 256)

print("begins", flush=True)
facts = prepare(load, folder / "cache", val_fraction=0, split_seed=0, classes=None)
print(facts.train, facts.val, "torch" in sys.modules)
"""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """400 photographs that take their time, in two parts."""
    content = encoded(picture(0, 300, 300), "JPEG")
    names = [f"{part}/{name}/{i}.jpg" for part in ("train", "val") for name in ("ants", "bees") for i in range(100)]
    return laid(tmp_path / "photos", dict.fromkeys(names, content))


def child(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PREPARE, str(folder)], stdout=subprocess.PIPE, text=True)


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_two_processes_at_once_decode_once_and_without_torch(many: Path):
    both = [child(many.parent) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["begins\n200 200 False\n"] * 2
    assert (many.parent / "decoded").read_text() == "once\n"


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_no_half_cache_and_no_process(many: Path):
    folder, half = many.parent / "cache", many.parent / "cache.tmp" / "train_images.npy"
    with child(many.parent) as process:
        until(lambda: half.exists() and half.stat().st_size > 2**20)
        decoders = children(process.pid)
        process.send_signal(signal.SIGKILL)
    assert decoders and not folder.exists()
    until(lambda: all(map(ended, decoders)))
    assert prepare(partial(source, many, 256), folder, **WHOLE).train == 200
    assert not half.exists()


def test_without_an_official_test_part_some_must_be_held_out(tmp_path: Path):
    photos = laid(tmp_path / "photos", classes("", each=10))
    read, folder = partial(source, photos), tmp_path / "cache"
    with pytest.raises(ValueError, match=r"^val_fraction must be above 0 .*\btest part\b"):
        prepare(read, folder, **WHOLE)
    assert not folder.exists()
    facts = prepare(read, folder, val_fraction=0.25, split_seed=0, classes=None)
    data = load(folder, facts, 32, "cpu")
    assert (facts.train, facts.val, facts.test, data.test) == (15, 5, 0, None)
    assert sorted(torch.cat([data.train.index, data.val.index]).tolist()) == list(range(20))
    with pytest.raises(ValueError, match=r"^val_fraction must be above 0"):
        prepare(read, folder, **WHOLE)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_named_and_no_cache_is_left(tmp_path: Path):
    photos = laid(tmp_path / "photos", classes("train/", "val/"))
    Image.new("1", (10_000, 9_000)).save(photos / "val" / "bees" / "bomb.png")
    with pytest.raises(ValueError, match=rf"^cannot read {photos}/val/bees/bomb.png: .*\b90000000 pixels\b"):
        prepare(partial(source, photos), tmp_path / "cache", **WHOLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache.lock", "photos"]


def cached(real_data: Path, path: str, size: int, folder: Path) -> tuple[Facts, list[Source]]:
    """What is known of a set that is decoded into a folder, and each source that was read for it."""
    if not (real_data / path).exists():
        pytest.skip(f"no {path} in {real_data}")
    found: list[Source] = []

    def read() -> Source:
        found.append(image_folder.load(str(real_data), path, size))
        return found[-1]

    return prepare(read, folder, **WHOLE), found


@pytest.mark.slow
def test_ants_and_bees_are_pillows_and_torchvisions_own(real_data: Path, tmp_path: Path):
    facts, (found,) = cached(real_data, "hymenoptera_data", 64, tmp_path / "cache")
    assert (facts.train, facts.val, facts.num_classes, found.class_names) == (245, 153, 2, ("ants", "bees"))
    data = load(tmp_path / "cache", facts, 32, "cpu")
    square = Compose([Resize(64), CenterCrop(64), PILToTensor()])
    for split, part in ((data.train, "train"), (data.val, "val")):
        folder = str(real_data / "hymenoptera_data" / part)
        # torchvision's own endings leave out the .gif among the ants.
        theirs = ImageFolder(folder, square, is_valid_file=lambda path: path.lower().endswith(EXTENSIONS))
        assert split.labels.tolist() == theirs.targets
        for number in range(0, len(theirs), 10):
            assert torch.equal(split.images[number], theirs[number][0])


@pytest.mark.slow
def test_a_tenth_of_cifar10_in_an_archive_is_decoded_once_and_then_at_hand(real_data: Path, tmp_path: Path):
    thinned(real_data / "cifar10_jpeg.tar", tmp_path / "cifar10_jpeg.tar", 10)
    facts, _ = cached(tmp_path, "cifar10_jpeg.tar", 32, tmp_path / "cache")
    assert (facts.train, facts.val, facts.num_classes) == (5_000, 1_000, 10)
    data = load(tmp_path / "cache", facts, 32, "cpu")
    assert torch.bincount(data.train.labels).tolist() == [500] * 10
    assert torch.bincount(data.val.labels).tolist() == [100] * 10
    # The published statistics of CIFAR-10, from which JPEG and the choice of images hardly move these.
    np.testing.assert_allclose(facts.mean, (125.3, 123.0, 113.9), atol=0.8)
    np.testing.assert_allclose(facts.std, (63.0, 62.1, 66.7), atol=0.8)
    again = prepare(lambda: pytest.fail("decoded twice"), tmp_path / "cache", **WHOLE)
    images, _ = next(batches(load(tmp_path / "cache", again, 32, "cpu").train, 128, 0))
    assert again == facts and images.shape == (128, 3, 32, 32)


def thinned(archive: Path, path: Path, each: int) -> None:
    """Write an archive that has one of `each` files of every folder of another archive."""
    count = Counter[str]()
    with tarfile.open(archive) as source, tarfile.open(path, "w") as kept:
        for member in filter(tarfile.TarInfo.isfile, source):
            folder = member.name.rpartition("/")[0]
            if count[folder] % each == 0:
                kept.addfile(member, source.extractfile(member))
            count[folder] += 1


BOUNDS = {"kept": 8.0, "undecoded": 0.0}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return laid(tmp_path / "photos", classes("train/", each=20) | classes("val/", each=5))


def prepared(photos: Path, bound: str, **split) -> tuple[ImageBatches, Path]:
    folder = photos.parent / f"cache {bound}"
    read = partial(source, photos, max_cached_gb=BOUNDS[bound])
    facts = prepare(read, folder, **({"val_fraction": 0, "split_seed": 0, "classes": None} | split))
    return load(folder, facts, 32, "cpu", read), folder


def assert_same(one: Iterator, other: Iterator) -> None:
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def decoding_processes() -> list[int]:
    """The ids of the decoding processes that this process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "decoding.py" in (path / "cmdline").read_text():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("split", [{}, {"val_fraction": 0.3, "split_seed": 4, "classes": [1, 0]}])
def test_facts_and_batches_are_those_of_a_set_that_is_kept(photos: Path, split):
    (kept, _), (undecoded, _) = prepared(photos, "kept", **split), prepared(photos, "undecoded", **split)
    assert undecoded.facts == kept.facts
    for start, batch_size in ((0, 7), (9, 4)):
        streams = (islice(batches(data.train, batch_size, 3, start), 12) for data in (kept, undecoded))
        assert_same(*streams)
    assert_same(*(evaluation_batches(data.val, 4) for data in (kept, undecoded)))


@pytest.mark.slow
def test_more_processes_give_the_same_batches(photos: Path, monkeypatch: pytest.MonkeyPatch):
    data, _ = prepared(photos, "undecoded")
    alone = [images for images, _ in islice(batches(data.train, 5, 0), 6)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together = [images for images, _ in islice(batches(data.train, 5, 0), 6)]
    assert all(map(torch.equal, alone, together))


@pytest.mark.slow
def test_the_cache_of_a_set_that_is_not_kept_has_sums_and_no_pixels(photos: Path):
    (kept, pixels), (_, sums) = prepared(photos, "kept"), prepared(photos, "undecoded")
    assert sorted(path.name for path in sums.glob("train*")) == ["train_labels.npy", "train_sums.npy"]
    images = kept.train.images.numpy().astype(np.int64)
    expected = np.stack([images.sum((2, 3)), (images**2).sum((2, 3))], axis=2)
    np.testing.assert_array_equal(np.load(sums / "train_sums.npy"), expected)
    assert sorted(path.name for path in pixels.glob("train*")) == ["train_images.npy", "train_labels.npy"]


@pytest.mark.slow
def test_a_decoding_process_lives_no_longer_than_its_stream(photos: Path):
    data, _ = prepared(photos, "undecoded")
    assert decoding_processes() == []
    stream = batches(data.train, 4, 0)
    next(stream)
    assert len(decoding_processes()) == torch.get_num_threads()
    del stream
    assert decoding_processes() == []


@pytest.mark.slow
def test_a_killed_decoding_process_is_reported_with_its_signal(photos: Path):
    data, _ = prepared(photos, "undecoded")
    stream = batches(data.train, 4, 0)
    next(stream)
    os.kill(decoding_processes()[0], signal.SIGKILL)
    with pytest.raises(ValueError, match=r"decoding process .*signal 9 \(SIGKILL\).*out of memory$"):
        list(islice(stream, 3))


@pytest.mark.slow
def test_a_missing_image_is_named_at_once(photos: Path):
    data, _ = prepared(photos, "undecoded")
    gone = photos / "train" / "ants" / "3.png"
    gone.unlink()
    with pytest.raises(ValueError, match=f"^cannot read {gone}: No such file or directory$"):
        list(islice(batches(data.train, 20, 0), 3))


@pytest.mark.slow
@pytest.mark.parametrize("pack", [False, True], ids=["folder", "archive"])
def test_photographs_that_changed_since_are_noticed(photos: Path, pack: bool):
    _, folder = prepared(photos, "undecoded")
    facts = Facts.from_json(cache.read_json(next(folder.glob("split-*.json"))))
    laid(photos, classes("train/", names=("ants",), each=21))
    path = packed(photos.with_suffix(".tar"), files_of(photos)) if pack else photos
    with pytest.raises(ValueError, match=f"^{folder} .*train images"):
        load(folder, facts, 32, "cpu", partial(source, path, max_cached_gb=0))


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


@pytest.mark.slow
def test_a_bound_that_was_raised_asks_for_a_new_cache(photos: Path):
    data, folder = prepared(photos, "undecoded")
    with pytest.raises(ValueError, match=f"^{folder} .*pixels.*: delete it"):
        load(folder, data.facts, 32, "cpu", partial(source, photos))
    with pytest.raises(ValueError, match=f"^{folder} keeps no pixels"):
        load(folder, data.facts, 32, "cpu")


def asked(photos: Path, bound: float) -> tuple[str, ...]:
    data = ("data=image_folder", f"data.path={photos}", "data.size=16", f"data.max_cached_gb={bound}")
    return (*data, "epochs=3", "batch_size=8", "max_lr=0.1", "save_model=true", "checkpoint_minutes=1e-9")


@pytest.mark.slow
def test_a_trial_ends_alike_kept_or_not_and_stopped_anywhere(photos: Path, tmp_path: Path):
    whole = made(tmp_path / "kept", *asked(photos, 8))
    trial.run(whole)
    for step in (1, 7):
        stopped = made(tmp_path / f"stopped {step}", *asked(photos, 0))
        assert stopped.signature == whole.signature
        with pytest.raises(Stopped):
            trial.run(stopped, stop_after(step))
        trial.run(stopped)
        assert outcome(stopped) == outcome(whole)
    assert decoding_processes() == []


@pytest.mark.slow
def test_a_trial_whose_photographs_changed_fails_with_that_cause(photos: Path, tmp_path: Path):
    folder = made(tmp_path / "runs", *asked(photos, 0))
    (photos / "train" / "ants" / "3.png").unlink()
    with pytest.raises(TrialFailed, match=rf"{photos} \(train/ants/3.png\) changed since .* start the command"):
        trial.run(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda photos: photos.rename(photos.with_name("moved")), True),
        (lambda photos: laid(photos, {".DS_Store": b"x", "train/.DS_Store": b"x"}), True),
        (lambda photos: laid(photos, {"train/ants/0.png": (photos / "train/ants/1.png").read_bytes() + b"\0"}), False),
        (lambda photos: laid(photos, {"train/ants/x.png": (photos / "train/ants/1.png").read_bytes()}), False),
        (lambda photos: packed(photos.with_suffix(".tar"), files_of(photos)), False),
    ],
    ids=["moved", "hidden files", "another size", "one more", "packed"],
)
def test_photographs_are_identified_by_name_and_content_not_by_place(
    photos: Path, tmp_path: Path, change: Callable[[Path], Path], same: bool
):
    before = planned(tmp_path / "runs", *asked(photos, 8)).signature
    assert (planned(tmp_path / "runs", *asked(change(photos), 8)).signature == before) is same
