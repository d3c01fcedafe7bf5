"""CIFAR from torchvision's files: small ones of the same layout, under checksums of their own."""

import hashlib
import pickle
import re
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from torchvision import datasets

from onecycle_sweeps.images import load, prepare
from onecycle_sweeps.sources import cifar
from photographs import laid
from real_trials import composed

NAMES = {
    "CIFAR10": [f"class {number}" for number in range(10)],
    "CIFAR100": [f"fine {number}" for number in range(100)],
}


def batch(name: str, seed: int) -> bytes:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, len(NAMES[name]), 4).tolist()
    more = {"labels": labels} if name == "CIFAR10" else {"fine_labels": labels, "coarse_labels": [0] * 4}
    return pickle.dumps({"data": draw.integers(0, 256, (4, 3072), dtype=np.uint8), **more})


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """The name of a data set, and the folder of its files, of 4 images each."""
    name = request.param
    kind = getattr(datasets, name)
    files = [file for file, _ in kind.train_list + kind.test_list]
    content = {file: batch(name, seed) for seed, file in enumerate(files)}
    content[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: NAMES[name]})
    published = {file: hashlib.md5(data).hexdigest() for file, data in content.items()}
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [[file, published[file]] for file, _ in getattr(kind, part)])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": published[kind.meta["filename"]]})
    return name, laid(tmp_path / kind.base_folder, content)


def test_all_batches_are_read_with_their_own_labels(small):
    name, folder = small
    source = cifar.load(str(folder.parent), name)
    assert source.class_names == tuple(NAMES[name])
    kind = getattr(datasets, name)
    for images, labels, files in (
        (source.train_images, source.train_labels, kind.train_list),
        (source.test_images, source.test_labels, kind.test_list),
    ):
        batches = [pickle.loads((folder / file).read_bytes()) for file, _ in files]
        expected = np.concatenate([one["data"] for one in batches]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(images, expected)
        assert np.asarray(labels).tolist() == [
            label for one in batches for label in one.get("labels") or one["fine_labels"]
        ]


def test_cifar_can_be_prepared_and_loaded(small, tmp_path):
    name, folder = small
    read = partial(cifar.load, str(folder.parent), name)
    facts = prepare(read, tmp_path / "cache", val_fraction=0, split_seed=0, classes=None)
    assert (facts.in_channels, facts.height, facts.width, facts.num_classes) == (3, 32, 32, len(NAMES[name]))
    assert load(tmp_path / "cache", facts, 128, "cpu").train.images.shape == (facts.train, 3, 32, 32)


def test_missing_files_are_reported_with_their_folder_and_a_remedy(small, monkeypatch):
    name, folder = small
    gone = sorted(folder.iterdir())[-1]
    gone.unlink()
    monkeypatch.chdir(folder.parent)
    with pytest.raises(FileNotFoundError) as raised:
        cifar.load(".", name)
    message = str(raised.value)
    assert message.startswith(f"{name}: no {gone.name} in {folder}: set data.root or ONECYCLE_DATA")
    assert f"holds {folder.name}, or data.download=true" in message and "\n" not in message


def test_a_packed_archive_is_to_be_unpacked(small):
    name, folder = small
    folder.rename(folder.with_name("elsewhere"))
    packed = folder.parent / getattr(datasets, name).filename
    packed.touch()
    with pytest.raises(FileNotFoundError, match=f"in {folder}: unpack {packed} there with tar, or set data.root"):
        cifar.load(str(folder.parent), name)


def test_a_file_that_is_not_the_published_one_is_named_and_not_unpickled(small):
    name, folder = small
    for file in folder.iterdir():
        whole = file.read_bytes()
        file.write_bytes(b"cos\nabort\n(tR.")
        message = f"{re.escape(str(file))} is corrupt: its MD5 checksum must be [0-9a-f]{{32}}, got [0-9a-f]{{32}}"
        with pytest.raises(ValueError, match=f"^{message}$"):
            cifar.load(str(folder.parent), name)
        file.write_bytes(whole)


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="name must be one of CIFAR10, CIFAR100, got 'SVHN'"):
        cifar.load(str(tmp_path), "SVHN")


def test_download_fetches_what_is_missing(small, tmp_path, monkeypatch):
    name, folder = small
    kind, mirror = getattr(datasets, name), tmp_path / "mirror"
    mirror.mkdir()
    with tarfile.open(mirror / kind.filename, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5((mirror / kind.filename).read_bytes()).hexdigest())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(mirror)))
    monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{kind.filename}")
    with server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        source = cifar.load(str(tmp_path / "target"), name, download=True)
        server.shutdown()
    assert source.train_images.shape[0] == 4 * len(kind.train_list)


def test_a_failed_download_is_reported_in_one_line(small, tmp_path, monkeypatch):
    name, _ = small
    monkeypatch.setattr(getattr(datasets, name), "url", f"{(tmp_path / 'nowhere').as_uri()}/x.tar.gz")
    with pytest.raises(OSError, match=f"^{name} could not be downloaded into {tmp_path}/target: [^\n]*nowhere[^\n]*$"):
        cifar.load(str(tmp_path / "target"), name, download=True)


@pytest.mark.parametrize("name", NAMES)
def test_all_files_are_fingerprinted(name):
    node, kind = composed(f"data={name.lower()}").data, getattr(datasets, name)
    files = [file for file, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
    assert (node.name, sorted(node.files)) == (name, sorted(f"{kind.base_folder}/{file}" for file in files))
