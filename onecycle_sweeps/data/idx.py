"""MNIST and Fashion-MNIST from the idx files of torchvision's layout: <root>/<name>/raw/*-ubyte."""

from __future__ import annotations

import math
from pathlib import Path

from onecycle_sweeps.dataset import Source

NAMES = ("MNIST", "FashionMNIST")
IMAGES, LABELS = 2051, 2049  # magic numbers: unsigned bytes in 3 dimensions, and in 1


def load(root: str, name: str, download: bool = False) -> Source:
    """Read both parts with torchvision: uint8 images (N, H, W), of any number and size.

    Raises FileNotFoundError for missing files (where they were looked for, how to get them), ValueError with the path
    of a file that is corrupt, OSError where a download fails.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
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
    for part in ("train", "t10k"):
        _check(folder, part)

    from torchvision import datasets

    train, test = (getattr(datasets, name)(root, train=part) for part in (True, False))
    return Source(train.data, train.targets, test.data, test.targets, tuple(train.classes))


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


def _check(folder: Path, part: str) -> None:
    """Compare the headers of a part's two files with their sizes and with each other, and the labels with 0..9."""
    images, labels = folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte"
    count, pictures = _dimensions(labels, LABELS)[0], _dimensions(images, IMAGES)[0]
    if count != pictures:
        raise ValueError(f"{labels} is corrupt: it must hold one label for each of {pictures} images, got {count}")
    highest = max(labels.read_bytes()[8:], default=0)
    if highest > 9:
        raise ValueError(f"{labels} is corrupt: labels must lie in 0..9, got {highest}")


def _dimensions(path: Path, magic: int) -> list[int]:
    """The dimensions that an idx file's header states, in big-endian words of 4 bytes after the magic number."""
    length = 4 + 4 * (magic % 256)
    with path.open("rb") as file:
        header = file.read(length)
    found, *dimensions = (int.from_bytes(header[i : i + 4]) for i in range(0, length, 4))
    if found != magic or len(header) < length:
        raise ValueError(f"{path} is corrupt: it must begin with a header of magic number {magic}, got {found}")
    expected, size = length + math.prod(dimensions), path.stat().st_size
    if size != expected or not all(dimensions):
        raise ValueError(f"{path} is corrupt: its header states {dimensions}, {expected} bytes in all, got {size}")
    return dimensions
