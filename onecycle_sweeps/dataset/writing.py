"""The arrays of a cache as they are written: images that come decoded in pieces never lie in memory together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from onecycle_sweeps.dataset.progress import progress
from onecycle_sweeps.dataset.source import Undecoded

# Pixels that are decoded and written at a time.
CHUNK_BYTES = 2**23


def write_part(
    folder: Path, part: str, pictures: np.ndarray | Undecoded, numbers: np.ndarray
) -> dict[str, tuple[int, ...]]:
    """Write the arrays of one part; returns the shape of each, and that of images which are not kept.

    Those leave int64 (N, C, 2) in their place: over each image's channels the sums of the values and of their squares.
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
    """All images in order, a few at a time: memory holds no more of them."""
    every, size = np.arange(pictures.shape[0]), 1 + CHUNK_BYTES // math.prod(pictures.shape[1:])
    with progress("decoding", len(every), "images") as count:
        for chunk in pictures.read([every[i : i + size] for i in range(0, len(every), size)], None):
            count(len(chunk))
            yield chunk


def _sums(chunk: np.ndarray) -> np.ndarray:
    values = chunk.reshape(*chunk.shape[:2], -1)
    squares = np.einsum("ncp,ncp->nc", values, values, dtype=np.int64)
    return np.stack([values.sum(2, dtype=np.int64), squares], axis=2)


def _write(path: Path, shape: tuple[int, ...], dtype: np.dtype, chunks: Iterable[np.ndarray]) -> None:
    """Write an array that comes in pieces. np.save would lose the reason of a failure, such as a full disk."""
    with path.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.data)
        flush(file)


def flush(file: IO[Any]) -> None:
    """Make what was written to a file durable."""
    file.flush()
    os.fsync(file.fileno())
