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
    if cache.keeps_pixels(folder):
        return _from_pixels(cache.mapped(folder, "train_images"), train)
    _, _, height, width = cache.shape(folder, "train_images")
    return _from_sums(cache.mapped(folder, "train_sums")[train], height * width)


def _from_pixels(images: np.ndarray, index: np.ndarray) -> Statistics:
    """By exact counts of the 256 values."""
    counts = np.zeros((images.shape[1], 256))
    size = 1 + CHUNK_BYTES // images[0].nbytes
    for start in range(0, len(index), size):
        chunk = images[index[start : start + size]]
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    values, total = np.arange(256.0), counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return _checked(mean.tolist(), variance.tolist())


def _from_sums(sums: np.ndarray, pixels: int) -> Statistics:
    """By the sums (N, C, 2) of values and of their squares over each image."""
    total = len(sums) * pixels
    pairs = [tuple(map(int, pair)) for pair in sums.sum(axis=0)]
    mean = [values / total for values, _ in pairs]
    return _checked(mean, [(total * squares - values**2) / total**2 for values, squares in pairs])


def _checked(mean: list[float], variance: list[float]) -> Statistics:
    for channel, (value, spread) in enumerate(zip(mean, variance, strict=True)):
        if spread == 0:
            raise ValueError(f"the training images must vary in every channel, channel {channel} is {value:g} only")
    return tuple(mean), tuple(math.sqrt(spread) for spread in variance)
