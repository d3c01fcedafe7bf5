"""MNIST and Fashion-MNIST from the idx files of torchvision's layout: <root>/<name>/raw/*-ubyte."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from onecycle_sweeps.images import Source

# The data sets of this layout, and their classes in torchvision's words.
CLASSES = {
    "MNIST": (
        *("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four"),
        *("5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine"),
    ),
    "FashionMNIST": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
IMAGES, LABELS = 2051, 2049  # magic numbers: unsigned bytes in 3 dimensions, and in 1


def load(root: str, name: str, download: bool = False) -> Source:
    """Read both parts: uint8 images (N, H, W). torchvision is used only to download.

    Raises FileNotFoundError for missing files (with their folder and how to get them), ValueError for a corrupt file,
    OSError if a download fails.
    """
    if name not in CLASSES:
        raise ValueError(f"name must be one of {', '.join(CLASSES)}, got {name!r}")
    folder = Path(root).absolute() / name / "raw"
    if download and _missing(folder):
        _download(Path(root), name)
    if missing := _missing(folder):
        packed = [file for file in missing if (folder / f"{file}.gz").exists()]
        raise FileNotFoundError(
            f"{name}: no {', '.join(missing)} in {folder}: "
            + ("unpack the .gz files there with gunzip, or " if packed else "")
            + "set data.root or ONECYCLE_DATA to the folder that holds "
            f"{name}/raw, or data.download=true where there is internet"
        )
    (train_images, train_labels), (test_images, test_labels) = (_part(folder, part) for part in ("train", "t10k"))
    return Source(train_images, train_labels, test_images, test_labels, CLASSES[name])


def _missing(folder: Path) -> list[str]:
    files = (f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return [file for file in files if not (folder / file).is_file()]


def _download(root: Path, name: str) -> None:
    from torchvision import datasets

    try:
        getattr(datasets, name)(root, download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{name} could not be downloaded into {root.absolute()}: {reason}") from error


def _part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a part; raises ValueError unless each image has a label in 0..9."""
    path = folder / f"{part}-labels-idx1-ubyte"
    labels, images = _array(path, LABELS), _array(folder / f"{part}-images-idx3-ubyte", IMAGES)
    if len(labels) != len(images):
        raise ValueError(
            f"{path} is corrupt: it must hold one label for each of {len(images)} images, got {len(labels)}"
        )
    if labels.max() > 9:
        raise ValueError(f"{path} is corrupt: labels must lie in 0..9, got {labels.max()}")
    return images, labels


def _array(path: Path, magic: int) -> np.ndarray:
    """An idx file's bytes, in the dimensions that its header states in big-endian words after the magic number."""
    length = 4 + 4 * (magic % 256)
    with path.open("rb") as file:
        header = file.read(length)
    found, *dimensions = (int.from_bytes(header[i : i + 4]) for i in range(0, length, 4))
    if found != magic or len(header) < length:
        raise ValueError(f"{path} is corrupt: it must begin with a header of magic number {magic}, got {found}")
    expected, size = length + math.prod(dimensions), path.stat().st_size
    if size != expected or not all(dimensions):
        raise ValueError(f"{path} is corrupt: its header states {dimensions}, {expected} bytes in all, got {size}")
    return np.fromfile(path, np.uint8, offset=length).reshape(dimensions)
