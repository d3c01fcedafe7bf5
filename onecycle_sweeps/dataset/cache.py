"""The decoded arrays of a source on disk: written whole or not at all, mapped by every process that reads them."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from onecycle_sweeps import locks, storage
from onecycle_sweeps.dataset.source import Source, check, images, labels
from onecycle_sweeps.dataset.writing import write_part
from onecycle_sweeps.storage import Damaged


def locked(folder: Path) -> IO[bytes]:
    """Hold the lock of a cache folder until what is returned is closed; a process that dies gives it back."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return locks.take(folder.with_name(f"{folder.name}.lock"))


def ensure(load: Callable[[], Source], folder: Path, check_files: Callable[[], None], *, afresh: bool) -> None:
    """Decode the source into `folder` unless it is there and `afresh` is false; to be called under its lock.

    `check_files` is called once all is decoded, and raises where the source's files changed meanwhile. Images that are
    not to be kept leave the sums of their pixels and of the squares, int64 (N, C, 2), in their place.
    Raises ValueError for arrays that do not fit together, OSError where the disk refuses them, and what `load` and
    `check_files` raise.
    """
    if folder.is_dir() and not afresh and is_current(folder / "source.json"):
        return
    source = load()
    check(source)
    # Under the lock this name is ours: what lies there was left by a process that was killed.
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        shapes = {}
        for part in source.parts:
            shapes |= write_part(unfinished, part, images(source, part), labels(source, part))
        skipped = {reason: list(names) for reason, names in source.skipped.items()}
        content = {"class_names": source.class_names, "shapes": shapes, "skipped": skipped}
        storage.write_json(unfinished / "source.json", content)
        check_files()
        _put_in_place(unfinished, folder)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise OSError(error.errno, f"cannot write the data cache: {error.strerror or error}", str(folder)) from error


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Let what was decoded take its place, unless the same is there: processes that have it mapped keep it."""
    names = [path.name for path in unfinished.iterdir()]
    if folder.is_dir():
        if set(filecmp.cmpfiles(unfinished, folder, names, shallow=False)[0]) == set(names):
            shutil.rmtree(unfinished)
            return
        replaced = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(folder, replaced)
        os.rename(unfinished, folder)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        os.rename(unfinished, folder)
    storage.sync_folder(folder.parent)


def has_val(folder: Path) -> bool:
    """Whether the source has a validation part of its own."""
    return "val_labels" in read_json(folder / "source.json")["shapes"]


def skipped(folder: Path) -> dict[str, list[str]]:
    """The names of the files that the source's loader passed over, by the reason."""
    return read_json(folder / "source.json")["skipped"]


def is_current(path: Path) -> bool:
    """Whether a JSON file of a cache has the format of today, or is damaged: what is earlier is made again.

    Raises OtherFormat for a format that is not known.
    """
    try:
        found = storage.load_json(path)
    except Damaged:
        return True
    return found is None or found[0] == storage.FORMAT


def shape(folder: Path, name: str) -> tuple[int, ...]:
    """The shape of one of the source's arrays, of images that are not in the cache too."""
    return tuple(read_json(folder / "source.json")["shapes"][name])


def keeps_pixels(folder: Path) -> bool:
    """Whether the cache holds the decoded images, or only the sums over each."""
    return "train_sums" not in read_json(folder / "source.json")["shapes"]


def mapped(folder: Path, name: str) -> np.ndarray:
    """Map one array of the cache, copy-on-write: all processes share its pages.

    Raises ValueError, with the file and what to do, for one that is missing, truncated or not what was written.
    """
    path = folder / f"{name}.npy"
    expected = shape(folder, name)
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path) from error
    if array.shape != expected or array.dtype != (np.uint8 if name.endswith("images") else np.int64):
        raise _damaged(path)
    return array


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON file of the cache; raises ValueError, with the file and what to do, for a damaged one."""
    try:
        content = storage.read_json(path)
    except Damaged as error:
        raise _damaged(path) from error
    if content is None:
        raise _damaged(path)
    return content


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged or missing: delete the folder {path.parent}, the next run decodes it again")
