"""A data set as its loader hands it over, and what is asked of its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Undecoded:
    """Images that lie encoded somewhere and are decoded as they are read, with the shape (N, C, H, W) they then have.

    `read(batches, processes)` gives the uint8 images at each array of positions in turn, one batch ahead, with as many
    processes (None: all cores); it raises ValueError, with the path, for an image that cannot be read. The cache keeps
    the pixels if `kept`; if not, each epoch decodes them again.
    """

    shape: tuple[int, int, int, int]
    kept: bool
    read: Callable[[Iterable[np.ndarray], int | None], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Source:
    """A data set as its loader read it, before any filter or split.

    Images are uint8 of shape (N, C, H, W) or (N, H, W), labels whole numbers of shape (N,) that count from 0 and
    index `class_names`. A set without an official test part has test arrays of length 0.
    """

    train_images: np.ndarray | Tensor | Undecoded
    train_labels: np.ndarray | Tensor
    test_images: np.ndarray | Tensor | Undecoded
    test_labels: np.ndarray | Tensor
    class_names: tuple[str, ...]


def labels(source: Source, part: str) -> np.ndarray:
    """The labels of a part as int64 (N,); raises ValueError where they are none."""
    array = np.ascontiguousarray(getattr(source, f"{part}_labels"))
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{part}_labels must be whole numbers of shape (N,), got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64, copy=False)


def images(source: Source, part: str) -> np.ndarray | Undecoded:
    """The images of a part as uint8 (N, C, H, W), or as they lie; raises ValueError where they are none."""
    found = getattr(source, f"{part}_images")
    if isinstance(found, Undecoded):
        return found
    array = np.ascontiguousarray(found)
    if array.ndim not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(
            f"{part}_images must be uint8 of shape (N, C, H, W) or (N, H, W), got {array.dtype} of shape {array.shape}"
        )
    return array if array.ndim == 4 else array[:, None]


def check(source: Source) -> None:
    """Raise ValueError for arrays that do not fit together."""
    num_classes = len(source.class_names)
    for part in ("train", "test"):
        numbers, pictures = labels(source, part), images(source, part).shape[0]
        if pictures != len(numbers):
            raise ValueError(f"{part}_images and {part}_labels must be as many, got {pictures} and {len(numbers)}")
        wrong = numbers[(numbers < 0) | (numbers >= num_classes)]
        if len(wrong):
            raise ValueError(f"{part}_labels must lie in 0..{num_classes - 1}, got {wrong[0]}")
    train, test = (images(source, part).shape[1:] for part in ("train", "test"))
    if train != test:
        raise ValueError(f"train_images and test_images must have one (C, H, W), got {train} and {test}")
