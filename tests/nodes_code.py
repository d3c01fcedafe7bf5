"""Nets for trials on a cluster: slow ones, and ones that fail there."""

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

# Extra seconds per step. They come from the environment, so that the trial's signature does not depend on them.
PAUSE = float(os.environ.get("NODES_PAUSE", "0"))


class Slow(nn.Module):
    """A small net with dropout, whose steps take PAUSE longer."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * in_channels, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            time.sleep(PAUSE)
        return self.layers(images)


class Once(Slow):
    """A slow net that calls `happen` in its 20th step, if there is a file `happens` in its working folder."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
            if self.passes == 20 and Path("happens").exists():
                self.happen()
        return super().forward(images)

    def happen(self) -> None:
        """Fail in some way."""
        raise NotImplementedError


class Greedy(Once):
    """Takes more memory than a job may have."""

    def happen(self) -> None:
        self.hoard = torch.ones(600_000_000)
        time.sleep(20)


class Vanishing(Once):
    """Exits with status 0 and without a message."""

    def happen(self) -> None:
        os._exit(0)


class Failing(Once):
    """Raises an error."""

    def happen(self) -> None:
        raise ArithmeticError("not today")
