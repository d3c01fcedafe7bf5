"""CIFAR-10 and CIFAR-100 from torchvision's layout: <root>/cifar-10-batches-py/* and <root>/cifar-100-python/*."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onecycle_sweeps.images import Source

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

NAMES = ("CIFAR10", "CIFAR100")


def load(root: str, name: str, download: bool = False) -> Source:
    """Read both parts with torchvision: uint8 (50,000, 3, 32, 32) and (10,000, 3, 32, 32); CIFAR-100's fine labels.

    Raises FileNotFoundError for missing files (with their folder and how to get them), ValueError for a file that is
    not the published one, OSError if a download fails.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    from torchvision import datasets

    kind: type[CIFAR10] = getattr(datasets, name)
    folder = Path(root).absolute() / kind.base_folder
    if download and _missing(kind, folder):
        _download(kind, Path(root))
    if missing := _missing(kind, folder):
        packed = folder.with_name(kind.filename)
        raise FileNotFoundError(
            f"{name}: no {', '.join(missing)} in {folder}: "
            + (f"unpack {packed} there with tar, or " if packed.exists() else "")
            + "set data.root or ONECYCLE_DATA to the folder that holds "
            f"{kind.base_folder}, or data.download=true where there is internet"
        )
    # Pickles can run code, so only the published files are opened.
    for file, checksum in _files(kind).items():
        _check(folder / file, checksum)
    train, test = (kind(root, train=part) for part in (True, False))
    images = [np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)) for part in (train, test)]
    return Source(images[0], np.array(train.targets), images[1], np.array(test.targets), tuple(train.classes))


def _files(kind: type[CIFAR10]) -> dict[str, str]:
    """The files of a data set, each with its published MD5 checksum."""
    return {file: md5 for file, md5 in kind.train_list + kind.test_list} | {kind.meta["filename"]: kind.meta["md5"]}


def _missing(kind: type[CIFAR10], folder: Path) -> list[str]:
    return [file for file in _files(kind) if not (folder / file).is_file()]


def _download(kind: type[CIFAR10], root: Path) -> None:
    try:
        kind(root, download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{kind.__name__} could not be downloaded into {root.absolute()}: {reason}") from error


def _check(path: Path, checksum: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != checksum:
        raise ValueError(f"{path} is corrupt: its MD5 checksum must be {checksum}, got {found}")
