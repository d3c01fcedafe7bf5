"""The decoded arrays of a source on disk: written completely or not at all, and mapped by each reader."""

from __future__ import annotations

import filecmp
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from onecycle_sweeps import files
from onecycle_sweeps.files import Damaged
from onecycle_sweeps.images.arrays import Source, Undecoded, check, images, labels
from onecycle_sweeps.terminal import counting

# Images are decoded and written in chunks of about this many bytes.
CHUNK_BYTES = 2**23


def locked(folder: Path) -> IO[bytes]:
    """Lock a cache folder until the returned file is closed, or this process ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return files.lock(folder.with_name(f"{folder.name}.lock"))


def ensure(load: Callable[[], Source], folder: Path, check_files: Callable[[], None], *, afresh: bool) -> None:
    """Decode the source into `folder` unless that has been done and `afresh` is false; the caller holds its lock.

    `check_files` is called after decoding and raises if the source's files have changed. Of images that the cache does
    not keep, only sums are written (`_write_part`).
    Raises ValueError for arrays that do not fit together, OSError if they cannot be written, and what `load` and
    `check_files` raise.
    """
    if folder.is_dir() and not afresh and is_current(folder / "source.json"):
        return
    source = load()
    check(source)
    # Nobody else writes here under the lock, so an existing folder was left by a process that was killed.
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        shapes = {}
        for part in source.parts:
            shapes |= _write_part(unfinished, part, images(source, part), labels(source, part))
        skipped = {reason: list(names) for reason, names in source.skipped.items()}
        content = {"class_names": source.class_names, "shapes": shapes, "skipped": skipped}
        files.write_json(unfinished / "source.json", content)
        check_files()
        _put_in_place(unfinished, folder)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise OSError(error.errno, f"cannot write the data cache: {error.strerror or error}", str(folder)) from error


def _write_part(
    folder: Path, part: str, pictures: np.ndarray | Undecoded, numbers: np.ndarray
) -> dict[str, tuple[int, ...]]:
    """Write the arrays of one part; returns the shape of each, and of the images even if they are not kept.

    Of those, int64 (N, C, 2) is written: for each channel the sum of its values and the sum of their squares.
    """
    shapes = {f"{part}_images": pictures.shape, f"{part}_labels": numbers.shape}
    _write(folder / f"{part}_labels.npy", numbers.shape, np.dtype(np.int64), [numbers])
    decoded = [pictures] if isinstance(pictures, np.ndarray) else _decoded(pictures)
    if isinstance(pictures, np.ndarray) or pictures.kept:
        _write(folder / f"{part}_images.npy", pictures.shape, np.dtype(np.uint8), decoded)
        return shapes
    sums = (*pictures.shape[:2], 2)
    _write(folder / f"{part}_sums.npy", sums, np.dtype(np.int64), map(_sums, decoded))
    return shapes | {f"{part}_sums": sums}


def _decoded(pictures: Undecoded) -> Iterator[np.ndarray]:
    """All images in order, in chunks, so that few of them are in memory at a time."""
    every, size = np.arange(pictures.shape[0]), 1 + CHUNK_BYTES // math.prod(pictures.shape[1:])
    with counting("decoding", len(every), "images") as count:
        for chunk in pictures.read([every[i : i + size] for i in range(0, len(every), size)], None):
            count(len(chunk))
            yield chunk


def _sums(chunk: np.ndarray) -> np.ndarray:
    values = chunk.reshape(*chunk.shape[:2], -1)
    squares = np.einsum("ncp,ncp->nc", values, values, dtype=np.int64)
    return np.stack([values.sum(2, dtype=np.int64), squares], axis=2)


def _write(path: Path, dimensions: tuple[int, ...], dtype: np.dtype, chunks: Iterable[np.ndarray]) -> None:
    """Write an array in chunks; np.save would hide the reason of a failure, such as a full disk."""
    with path.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": dimensions}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.data)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Replace the cache unless its content is the same; other processes keep the arrays that they have mapped."""
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
    files.sync_folder(folder.parent)


def has_val(folder: Path) -> bool:
    """Whether the source has a validation part."""
    return "val_labels" in read_json(folder / "source.json")["shapes"]


def skipped(folder: Path) -> dict[str, list[str]]:
    """The names of the files that the source's loader skipped, by reason."""
    return read_json(folder / "source.json")["skipped"]


def is_current(path: Path) -> bool:
    """Whether a JSON file of a cache has the current format; one of an earlier format has to be written again.

    A damaged file counts as current, so that the damage is reported where it is read. Raises UnknownFormat for a format
    of a later version.
    """
    try:
        found = files.read_json_with_format(path)
    except Damaged:
        return True
    return found is None or found[0] == files.FORMAT


def shape(folder: Path, name: str) -> tuple[int, ...]:
    """The shape of one of the source's arrays, even if the cache does not keep it."""
    return tuple(read_json(folder / "source.json")["shapes"][name])


def keeps_pixels(folder: Path) -> bool:
    """Whether the cache has the decoded images, not only their sums."""
    return "train_sums" not in read_json(folder / "source.json")["shapes"]


def mapped(folder: Path, name: str) -> np.ndarray:
    """Map one array of the cache, copy-on-write, so that all processes share its pages.

    Raises ValueError, with the file and what to do, if it is missing, truncated or of another shape.
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
        content = files.read_json(path)
    except Damaged as error:
        raise _damaged(path) from error
    if content is None:
        raise _damaged(path)
    return content


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged or missing: delete {path.parent}, and the next run decodes the data again")
