"""Nets that start a stopwatch themselves, so that all sides are timed from the same step on."""

import os
import time

from torch import Tensor, nn

from benchmarks import costs
from benchmarks.costs import Cost
from onecycle_sweeps.models.simple_cnn import SimpleCNN

# The first steps, in which buffers are made and code is loaded, are not timed.
WARM_STEPS = 5


class Stopwatch:
    """Counts a net's training passes, and runs from the beginning of step WARM_STEPS until it is read."""

    def __init__(self) -> None:
        self.passes, self._start = 0, costs.now()

    def tick(self) -> None:
        """Count a training pass that begins."""
        if self.passes == WARM_STEPS:
            self._start = costs.now()
        self.passes += 1

    def read(self, steps: int) -> Cost:
        """The mean cost of a step; raises RuntimeError unless there were exactly `steps` passes."""
        cost = costs.since(self._start)
        if self.passes != steps:
            raise RuntimeError(f"a side must take {steps} steps, and took {self.passes}")
        return cost.per(steps - WARM_STEPS)


stopwatch = Stopwatch()


class TimedCNN(SimpleCNN):
    """The program's simple_cnn with the stopwatch."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            stopwatch.tick()
        return super().forward(images)


class TimedLinear(nn.Module):
    """One linear layer with the stopwatch: a step of it is almost all overhead."""

    def __init__(self, in_channels: int, num_classes: int, pixels: int) -> None:
        super().__init__()
        self.scores = nn.Linear(in_channels * pixels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            stopwatch.tick()
        return self.scores(images.flatten(1))


class StampedCNN(SimpleCNN):
    """The program's simple_cnn, which appends the time of its first training pass to the file named by STAMPS."""

    stamped = False

    def forward(self, images: Tensor) -> Tensor:
        if self.training and not self.stamped:
            self.stamped = True
            with open(os.environ["STAMPS"], "a") as file:
                file.write(f"{time.time()}\n")
        return super().forward(images)
