"""Photographs are decoded once, by processes of their own, into a cache that is whole or not there."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from onecycle_sweeps.images import Facts, Source, batches, load, prepare
from onecycle_sweeps.sources import image_folder
from onecycle_sweeps.sources.image_folder import EXTENSIONS
from photographs import classes, encoded, laid, picture, source

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
    with pytest.raises(ValueError, match=r"^val_fraction must be above 0 for a data set without an official test part"):
        prepare(read, folder, **WHOLE)
    assert not folder.exists()
    facts = prepare(read, folder, val_fraction=0.25, split_seed=0, classes=None)
    data = load(folder, facts, "cpu")
    assert (facts.train, facts.val, facts.test, data.test) == (15, 5, 0, None)
    assert sorted(torch.cat([data.train.index, data.val.index]).tolist()) == list(range(20))
    with pytest.raises(ValueError, match=r"^val_fraction must be above 0"):
        prepare(read, folder, **WHOLE)


def test_an_image_that_cannot_be_read_is_named_and_no_cache_is_left(tmp_path: Path):
    photos = laid(tmp_path / "photos", classes("train/", "val/"))
    Image.new("1", (10_000, 9_000)).save(photos / "val" / "bees" / "bomb.png")
    with pytest.raises(
        ValueError, match=rf"^cannot read {photos}/val/bees/bomb.png: Image size \(90000000 pixels\) exc"
    ):
        prepare(partial(source, photos), tmp_path / "cache", **WHOLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache.lock", "photos"]


def cached(real_data: Path, path: str, size: int, folder: Path) -> tuple[Facts, Source]:
    if not (real_data / path).exists():
        pytest.skip(f"no {path} in {real_data}")
    read = partial(image_folder.load, str(real_data), path, size)
    return prepare(read, folder, **WHOLE), read()


@pytest.mark.slow
def test_ants_and_bees_are_pillows_and_torchvisions_own(real_data: Path, tmp_path: Path):
    facts, found = cached(real_data, "hymenoptera_data", 64, tmp_path / "cache")
    assert (facts.train, facts.val, facts.num_classes, found.class_names) == (245, 153, 2, ("ants", "bees"))
    data = load(tmp_path / "cache", facts, "cpu")
    square = Compose([Resize(64), CenterCrop(64), PILToTensor()])
    for split, part in ((data.train, "train"), (data.val, "val")):
        folder = str(real_data / "hymenoptera_data" / part)
        # torchvision's own endings leave out the .gif among the ants.
        theirs = ImageFolder(folder, square, is_valid_file=lambda path: path.lower().endswith(EXTENSIONS))
        assert split.labels.tolist() == theirs.targets
        for number in range(0, len(theirs), 10):
            assert torch.equal(split.images[number], theirs[number][0])


@pytest.mark.slow
def test_cifar10_in_an_archive_is_decoded_once_and_then_at_hand(real_data: Path, tmp_path: Path):
    facts, _ = cached(real_data, "cifar10_jpeg.tar", 32, tmp_path / "cache")
    assert (facts.train, facts.val, facts.num_classes) == (50_000, 10_000, 10)
    data = load(tmp_path / "cache", facts, "cpu")
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.val.labels).tolist() == [1000] * 10
    # The published statistics of CIFAR-10, which JPEG hardly moves.
    np.testing.assert_allclose(facts.mean, (125.3, 123.0, 113.9), atol=0.2)
    np.testing.assert_allclose(facts.std, (63.0, 62.1, 66.7), atol=0.6)
    again = prepare(lambda: pytest.fail("decoded twice"), tmp_path / "cache", **WHOLE)
    images, _ = next(batches(load(tmp_path / "cache", again, "cpu").train, 128, 0))
    assert again == facts and images.shape == (128, 3, 32, 32)
