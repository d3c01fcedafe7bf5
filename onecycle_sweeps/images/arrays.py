"""A data set as its loader returns it: `Source`, and the checks of its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Undecoded:
    """Encoded images, which are decoded as they are read; `shape` is (N, C, H, W) once decoded.

    `read(batches, processes)` yields the uint8 images at each array of positions, decoding one batch ahead in that
    many processes (None: one per core); it raises ValueError, with the path, for an unreadable image. `kept` says
    whether the cache keeps the pixels; if not, they are decoded in each epoch.
    """

    shape: tuple[int, int, int, int]
    kept: bool
    read: Callable[[Iterable[np.ndarray], int | None], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Source:
    """A data set as its loader read it, before any filter or split.

    Images are uint8 of shape (N, C, H, W) or (N, H, W), labels whole numbers of shape (N,) from 0 on, which index
    `class_names`. A data set without an official test part has test arrays of length 0; one that has a validation part
    too has `val_images` and `val_labels`. `skipped` has the names of the files that the loader skipped, by reason.
    """

    train_images: np.ndarray | Tensor | Undecoded
    train_labels: np.ndarray | Tensor
    test_images: np.ndarray | Tensor | Undecoded
    test_labels: np.ndarray | Tensor
    class_names: tuple[str, ...]
    val_images: np.ndarray | Tensor | Undecoded | None = None
    val_labels: np.ndarray | Tensor | None = None
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts."""
        return ("train", "test") if self.val_images is None and self.val_labels is None else ("train", "val", "test")


def labels(source: Source, part: str) -> np.ndarray:
    """The labels of a part as int64 (N,); raises ValueError for an array of another type or shape."""
    array = np.ascontiguousarray(_given(source, f"{part}_labels"))
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{part}_labels must be whole numbers of shape (N,), got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64, copy=False)


def images(source: Source, part: str) -> np.ndarray | Undecoded:
    """The images of a part as uint8 (N, C, H, W), or encoded; raises ValueError for another type or shape."""
    found = _given(source, f"{part}_images")
    if isinstance(found, Undecoded):
        return found
    array = np.ascontiguousarray(found)
    if array.ndim not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(
            f"{part}_images must be uint8 of shape (N, C, H, W) or (N, H, W), got {array.dtype} of shape {array.shape}"
        )
    return array if array.ndim == 4 else array[:, None]


def _given(source: Source, name: str) -> Any:
    if (found := getattr(source, name)) is None:
        raise ValueError(f"a data set with a val part needs both val_images and val_labels, but {name} is None")
    return found


def check(source: Source) -> None:
    """Raise ValueError for arrays that do not fit together."""
    num_classes = len(source.class_names)
    for part in source.parts:
        numbers, pictures = labels(source, part), images(source, part).shape[0]
        if pictures != len(numbers):
            raise ValueError(
                f"{part}_images and {part}_labels must have the same length, got {pictures} and {len(numbers)}"
            )
        wrong = numbers[(numbers < 0) | (numbers >= num_classes)]
        if len(wrong):
            raise ValueError(f"{part}_labels must lie in 0..{num_classes - 1}, got {wrong[0]}")
    train, *others = (images(source, part).shape[1:] for part in source.parts)
    for part, other in zip(source.parts[1:], others, strict=True):
        if train != other:
            raise ValueError(f"train_images and {part}_images must have the same (C, H, W), got {train} and {other}")
