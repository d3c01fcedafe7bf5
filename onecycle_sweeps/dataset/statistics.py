"""Mean and standard deviation of the channels of a cached part, exact to the last pixel."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from onecycle_sweeps.dataset import cache

CHUNK_BYTES = 2**23

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def mean_and_std(folder: Path, train: np.ndarray) -> Statistics:
    """Mean and population standard deviation of each channel over the training images at the positions `train`.

    Raises ValueError for a channel that does not vary.
    """
    _, _, height, width = cache.shape(folder, "train_images")
    if cache.keeps_pixels(folder):
        sums = _sums(cache.mapped(folder, "train_images"), train)
    else:
        sums = cache.mapped(folder, "train_sums")[train].sum(axis=0)
    moments = [_moments(int(values), int(squares), len(train) * height * width) for values, squares in sums]
    for channel, (mean, std) in enumerate(moments):
        if std == 0:
            raise ValueError(f"the training images must vary in every channel, channel {channel} is {mean:g} only")
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _sums(images: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The sums of the values of each channel and of their squares, int64 (C, 2), by counts of the 256 values."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    size = 1 + CHUNK_BYTES // images[0].nbytes
    for start in range(0, len(index), size):
        chunk = images[index[start : start + size]]
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    values = np.arange(256)
    return counts @ np.stack([values, values**2], axis=1)


def _moments(values: int, squares: int, count: int) -> tuple[float, float]:
    """Mean and deviation from the sums over `count` pixels, in whole numbers as far as they go."""
    return values / count, math.sqrt((count * squares - values**2) / count**2)
