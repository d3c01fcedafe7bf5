"""MNIST and Fashion-MNIST from idx files, the digits of scikit-learn, and what all groups of data have in common."""

import gzip
import hashlib
import math
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torchvision import datasets

from onecycle_sweeps.images import load, prepare
from onecycle_sweeps.sources import digits, idx
from photographs import idx_bytes
from real_trials import CONF, composed

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A tiny MNIST of 6 training and 4 test images of 3x5 pixels."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 4)):
        images = np.arange(count * 15).reshape(count, 3, 5) + count
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(count)))
    return folder


def test_idx_files_of_any_size_are_read_as_written(raw):
    source = idx.load(str(raw.parents[1]), "MNIST")
    np.testing.assert_array_equal(source.train_images, np.arange(90).reshape(6, 3, 5) + 6)
    np.testing.assert_array_equal(source.test_images, np.arange(60).reshape(4, 3, 5) + 4)
    np.testing.assert_array_equal(source.train_labels, np.arange(6))
    np.testing.assert_array_equal(source.test_labels, np.arange(4))
    assert len(source.class_names) == 10


def test_idx_files_are_read_without_torch(raw):
    reading = f"import sys; from onecycle_sweeps.sources import idx; idx.load({str(raw.parents[1])!r}, 'MNIST')"
    seen = subprocess.run([sys.executable, "-c", f"{reading}; print('torch' in sys.modules)"], stdout=subprocess.PIPE)
    assert seen.stdout == b"False\n"


def test_missing_files_are_reported_with_their_folder_and_a_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as raised:
        idx.load("data", "FashionMNIST")
    message = str(raised.value)
    assert f"in {tmp_path}/data/FashionMNIST/raw" in message
    assert all(word in message for word in (IMAGES, LABELS, "data.root", "ONECYCLE_DATA", "data.download=true"))
    assert "\n" not in message


def test_only_the_missing_file_is_named(raw):
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"MNIST: no t10k-labels-idx1-ubyte in "):
        idx.load(str(raw.parents[1]), "MNIST")


def test_packed_files_are_to_be_unpacked(raw):
    (raw / IMAGES).rename(raw / f"{IMAGES}.gz")
    with pytest.raises(FileNotFoundError, match=f"no {IMAGES} in {raw}: unpack the .gz files"):
        idx.load(str(raw.parents[1]), "MNIST")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, idx_bytes(np.zeros((6, 3, 5)))[:-1], r"states \[6, 3, 5\], 106 bytes in all, got 105"),
        (IMAGES, idx_bytes(np.zeros((6, 3, 5))) + b"\0", "106 bytes in all, got 107"),
        (IMAGES, idx_bytes(np.zeros((6, 15))), "magic number 2051, got 2050"),
        (IMAGES, idx_bytes(np.zeros((6, 3, 5)))[:10], "magic number 2051"),
        (IMAGES, b"", "magic number 2051, got 0"),
        (IMAGES, idx_bytes(np.zeros((0, 3, 5))), r"states \[0, 3, 5\]"),
        (LABELS, b"<html>not found</html>", "magic number 2049"),
        (LABELS, gzip.compress(idx_bytes(np.arange(6)), mtime=0), "magic number 2049"),
        (LABELS, idx_bytes(np.arange(5)), "one label for each of 6 images, got 5"),
        (LABELS, idx_bytes(np.arange(6))[:-2], r"states \[6\], 14 bytes in all, got 12"),
        (LABELS, idx_bytes(np.arange(6) + 7), "labels must lie in 0..9, got 12"),
    ],
)
def test_a_corrupt_file_is_named_with_what_is_wrong(raw, name, content, message):
    (raw / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{raw / name} is corrupt: .*{message}"):
        idx.load(str(raw.parents[1]), "MNIST")


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="name must be one of MNIST, FashionMNIST, got 'EMNIST'"):
        idx.load(str(tmp_path), "EMNIST")


def test_download_fetches_what_is_missing(raw, tmp_path, monkeypatch):
    mirror, target = tmp_path / "mirror", tmp_path / "target"
    mirror.mkdir()
    resources = []
    for file in sorted(raw.iterdir()):
        packed = gzip.compress(file.read_bytes())
        (mirror / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(mirror)))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    with server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert idx.load(str(target), "MNIST", download=True).train_images.shape == (6, 3, 5)
        server.shutdown()


def test_a_failed_download_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{(tmp_path / 'nowhere').as_uri()}/"])
    with pytest.raises(OSError, match=f"^MNIST could not be downloaded into {tmp_path}: [^\n]*nowhere[^\n]*$"):
        idx.load(str(tmp_path), "MNIST", download=True)


def test_digits_are_scikit_learns_stretched_to_bytes():
    from sklearn.datasets import load_digits

    source, (pixels, _) = digits.load(), load_digits(return_X_y=True)
    train, test = np.asarray(source.train_images), np.asarray(source.test_images)
    assert (train.shape, test.shape) == ((1437, 8, 8), (360, 8, 8))
    assert (train.min(), train.max()) == (0, 255)
    back = np.rint(np.concatenate([train, test]).reshape(-1, 64) * (16 / 255))
    assert sorted(map(tuple, back)) == sorted(map(tuple, pixels))


def test_digits_have_one_split_with_all_classes_in_proportion():
    first, second = digits.load(), digits.load()
    np.testing.assert_array_equal(first.test_images, second.test_images)
    counts = [np.bincount(labels) for labels in (first.train_labels, first.test_labels)]
    np.testing.assert_allclose(counts[0] / 1437, counts[1] / 360, atol=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FashionMNIST", "MNIST"])
def test_real_idx_data_equals_torchvisions_own_tensors(real_data, tmp_path, name):
    if not (real_data / name / "raw").is_dir():
        pytest.skip(f"no {name}/raw in {real_data}")
    facts = prepare(
        partial(idx.load, str(real_data), name), tmp_path / "cache", val_fraction=0, split_seed=0, classes=None
    )
    data = load(tmp_path / "cache", facts, 128, "cpu")
    for split, train in ((data.train, True), (data.val, False)):
        theirs = getattr(datasets, name)(real_data, train=train)
        assert torch.equal(split.images[:, 0], theirs.data)
        assert torch.equal(split.labels, theirs.targets)
        assert torch.equal(split.index, torch.arange(len(theirs)))
        assert idx.CLASSES[name] == tuple(theirs.classes)
    pixels = data.train.images.numpy()
    assert math.isclose(facts.mean[0], pixels.mean(dtype=np.float64), rel_tol=1e-12)
    assert math.isclose(facts.std[0], pixels.std(dtype=np.float64), rel_tol=1e-12)


@pytest.mark.slow
def test_fashion_mnist_has_the_published_statistics(real_data, tmp_path):
    source = partial(idx.load, str(real_data), "FashionMNIST")
    facts = prepare(source, tmp_path / "cache", val_fraction=0, split_seed=0, classes=None)
    assert (facts.train, facts.val, facts.num_classes) == (60_000, 10_000, 10)
    assert (round(facts.mean[0] / 255, 4), round(facts.std[0] / 255, 4)) == (0.2860, 0.3530)


OF_IMAGES = [file for file in sorted((CONF / "data").glob("*.yaml")) if "\naugment:" in file.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("file", OF_IMAGES, ids=lambda file: file.stem)
def test_every_yaml_of_images_uses_the_whole_official_parts(file: Path):
    node = composed(f"data={file.stem}").data
    assert (node.val_fraction, node.split_seed, node.classes) == (0, 0, None)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_all_idx_files_are_fingerprinted(name):
    node = composed(f"data={name}").data
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    assert node.files == [f"{node.name}/raw/{name}" for name in names]
