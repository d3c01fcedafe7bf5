"""The decoded arrays of a source on disk: written whole or not at all, mapped by every process that reads them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Source:
    """A data set as its loader read it, before any filter or split.

    Images are uint8 of shape (N, C, H, W) or (N, H, W), labels whole numbers of shape (N,) that count from 0 and
    index `class_names`.
    """

    train_images: np.ndarray | Tensor
    train_labels: np.ndarray | Tensor
    test_images: np.ndarray | Tensor
    test_labels: np.ndarray | Tensor
    class_names: tuple[str, ...]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder; a process that dies gives it back."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure(load: Callable[[], Source], folder: Path) -> None:
    """Decode the source into `folder` unless it is there; to be called under its lock.

    Raises ValueError for arrays that do not fit together, OSError where the disk refuses them, and what `load` raises.
    """
    if folder.is_dir():
        return
    source = load()
    arrays = {name: _checked(source, name) for name in ARRAYS}
    _check_agreement(arrays, len(source.class_names))
    # Under the lock this name is ours: what lies there was left by a process that was killed.
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        for name, array in arrays.items():
            with (unfinished / f"{name}.npy").open("wb") as file:
                # np.save would lose the reason, such as a full disk.
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(array.data)
                _flush(file)
        shapes = {name: array.shape for name, array in arrays.items()}
        write_json(unfinished / "source.json", {"class_names": source.class_names, "shapes": shapes})
        os.rename(unfinished, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OSError(error.errno, f"cannot write the data cache: {error.strerror or error}", str(folder)) from error


def mapped(folder: Path, name: str) -> np.ndarray:
    """Map one array of the cache, copy-on-write: all processes share its pages.

    Raises ValueError, with the file and what to do, for one that is missing, truncated or not what was written.
    """
    path = folder / f"{name}.npy"
    shape = tuple(read_json(folder / "source.json")["shapes"][name])
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path) from error
    if array.shape != shape or array.dtype != (np.uint8 if name.endswith("images") else np.int64):
        raise _damaged(path)
    return array


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON file of the cache; raises ValueError, with the file and what to do, for a damaged one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file so that a reader sees all of it or none."""
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w") as file:
        json.dump(content, file)
        _flush(file)
    os.replace(unfinished, path)
    _sync_folder(path.parent)


def _checked(source: Source, name: str) -> np.ndarray:
    array = np.ascontiguousarray(getattr(source, name))
    if name.endswith("labels"):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"{name} must be whole numbers of shape (N,), got {array.dtype} of shape {array.shape}")
        return array.astype(np.int64, copy=False)
    if array.ndim not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(
            f"{name} must be uint8 of shape (N, C, H, W) or (N, H, W), got {array.dtype} of shape {array.shape}"
        )
    return array if array.ndim == 4 else array[:, None]


def _check_agreement(arrays: dict[str, np.ndarray], num_classes: int) -> None:
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if len(images) != len(labels):
            raise ValueError(f"{part}_images and {part}_labels must be as many, got {len(images)} and {len(labels)}")
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong):
            raise ValueError(f"{part}_labels must lie in 0..{num_classes - 1}, got {wrong[0]}")
    train, test = arrays["train_images"].shape[1:], arrays["test_images"].shape[1:]
    if train != test:
        raise ValueError(f"train_images and test_images must have one (C, H, W), got {train} and {test}")


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged or missing: delete the folder {path.parent}, the next run decodes it again")


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
