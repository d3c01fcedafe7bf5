"""Data and a net named by `_target_`: noise in a data set's shape, and a net that writes down when it trains."""

import os
import time

import numpy as np
from torch import Tensor

from onecycle_sweeps.images import Source
from onecycle_sweeps.models.simple_cnn import SimpleCNN


def noise(train: int, test: int, channels: int, side: int) -> Source:
    """Images that nothing is learned from, of 10 classes."""
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (train + test, channels, side, side), dtype=np.uint8)
    labels = np.arange(train + test) % 10
    return Source(images[:train], labels[:train], images[train:], labels[train:], tuple("0123456789"))


class StampedCNN(SimpleCNN):
    """The program's simple_cnn, which appends the times of its first training and evaluating passes to STAMPS."""

    def forward(self, images: Tensor) -> Tensor:
        if getattr(self, "was_training", None) != self.training:
            self.was_training = self.training
            with open(os.environ["STAMPS"], "a") as file:
                file.write(f"{os.getpid()} {'train' if self.training else 'evaluate'} {time.time()}\n")
        return super().forward(images)
