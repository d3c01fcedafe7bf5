"""Data named by `_target_`: noise in a data set's shape."""

import numpy as np

from onecycle_sweeps.images import Source


def noise(train: int, test: int, channels: int, side: int) -> Source:
    """Images that nothing is learned from, of 10 classes."""
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (train + test, channels, side, side), dtype=np.uint8)
    labels = np.arange(train + test) % 10
    return Source(images[:train], labels[:train], images[train:], labels[train:], tuple("0123456789"))
