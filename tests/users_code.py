"""A user's code, which configs name by `_target_`."""

import os
import random
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onecycle_sweeps.images import Source

# Called in each forward pass of a training with the number of passes so far.
in_training: list[Callable[[int], None]] = []


class WithDropout(nn.Module):
    """A model whose training uses random numbers."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.LazyLinear(num_classes),
        )
        self.passes = 0
        self.layers(torch.zeros(2, in_channels, 8, 8))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
            for happen in in_training:
                happen(self.passes)
        return self.layers(images)


class Lagging(nn.Module):
    """A model whose batch-norm statistics change slowly, with an input far from 0."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16, momentum=1e-4)
        self.scores = nn.Linear(16 * 64, num_classes)
        self.dropout = nn.Dropout(0.1)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(self.dropout(self.norm(self.conv(images) + 100).relu().flatten(1)))


class Impossible(nn.Module):
    """A model whose constructor raises."""

    def __init__(self, num_classes: int, **_: Any) -> None:
        raise RuntimeError(f"no room for\n{num_classes} classes")


class Sulking(torch.optim.SGD):
    """An optimizer whose step raises."""

    def step(self, closure: Any = None) -> None:
        raise ArithmeticError("not today")


class Clocked(torch.optim.SGD):
    """An optimizer that appends the time of each step, in monotonic seconds, as a double to the file `steps`.

    It waits a little in each step, so that a training without end leaves the processor to others.
    """

    PAUSE = 0.03

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.notes = os.open("steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        time.sleep(self.PAUSE)
        os.write(self.notes, struct.pack("d", time.monotonic()))


class WithDraws(nn.Module):
    """A model whose training and initial weights use Python's and NumPy's random generators."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(in_channels * 64, num_classes)
        with torch.no_grad():
            self.scores.bias.add_(random.random() + np.random.standard_normal())

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            images = images * (1 + 0.5 * random.gauss(0, 1)) + 0.5 * float(np.random.standard_normal())
        return self.scores(images.flatten(1))


class WithGenerator(nn.Module):
    """A model whose layers add noise from generators of their own."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), Noise(0), nn.Linear(in_channels * 64, num_classes), Noise(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Noise(nn.Module):
    """A layer that adds noise in training."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator, self.rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        return inputs + 0.3 * torch.randn(inputs.shape, generator=self.generator) + 0.1 * self.rng.normal()


def drawn_images(count: int) -> Source:
    """A random data set, different at each call, from all three generators."""
    images = np.random.randint(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = random.randrange(256), int(torch.randint(256, ()))
    labels = np.arange(count) % 2
    return Source(images, labels, images[:8], labels[:8], ("even", "odd"))


def unlike_groups(parameters: list[Tensor], key: str, **settings: Any) -> torch.optim.SGD:
    """An optimizer whose last parameter has a tenth of the others' rate or momentum."""
    last = {"params": parameters[-1:], key: 0.09}
    return torch.optim.SGD([{"params": parameters[:-1]}, last], lr=0.9, **settings)


class Hungry(nn.Module):
    """A model that allocates some memory on the device, and then more than the device has."""

    BYTES = 2**30

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(in_channels * 64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.is_cuda:
            some = torch.ones(self.BYTES, dtype=torch.uint8, device=images.device)
            torch.empty(2**46, dtype=torch.uint8, device=some.device)
        return self.scores(images.flatten(1))


class Waves(torch.utils.data.Dataset[Any]):
    """Sines whose frequency is to be found, with noise that is drawn anew whenever one is read."""

    def __len__(self) -> int:
        return 120

    def __getitem__(self, place: int) -> tuple[Tensor, float]:
        frequency = 1 + place / 40
        return torch.sin(frequency * torch.linspace(0, 6.28, 16)) + 0.1 * torch.randn(16), frequency


class OfVolumes(nn.Module):
    """A convolution over volumes (N, in_channels, D, H, W), with a batch norm and dropout."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv3d(in_channels, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(32, num_classes)),
        )

    def forward(self, volumes: Tensor) -> Tensor:
        return self.layers(volumes)
