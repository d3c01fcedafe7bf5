"""A stopwatch that stands in the nets, so that every side is timed from the same step on."""

import os
import time

from torch import Tensor, nn

from benchmarks import costs
from benchmarks.costs import Cost
from onecycle_sweeps.models.simple_cnn import SimpleCNN

# The steps before the stopwatch starts, in which buffers are made and code is touched for the first time.
WARM_STEPS = 5


class Stopwatch:
    """Counts a net's training passes; runs from the beginning of one of them until it is read."""

    def __init__(self) -> None:
        self.passes = 0
        self._start = costs.now()

    def reset(self) -> None:
        """Forget earlier passes."""
        self.passes = 0

    def tick(self) -> None:
        """See a training pass begin."""
        if self.passes == WARM_STEPS:
            self._start = costs.now()
        self.passes += 1

    def read(self, steps: int) -> Cost:
        """The cost of a step from the end of the warm ones to this moment; raises RuntimeError for other steps."""
        cost = costs.since(self._start)
        if self.passes != steps:
            raise RuntimeError(f"a side must take {steps} steps, and took {self.passes}")
        return cost.per(steps - WARM_STEPS)


stopwatch = Stopwatch()


class TimedCNN(SimpleCNN):
    """The program's simple_cnn, whose training passes the stopwatch sees."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            stopwatch.tick()
        return super().forward(images)


class TimedLinear(nn.Module):
    """One layer on the flattened image: so little to compute that a step is all overhead."""

    def __init__(self, in_channels: int, num_classes: int, pixels: int) -> None:
        super().__init__()
        self.scores = nn.Linear(in_channels * pixels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            stopwatch.tick()
        return self.scores(images.flatten(1))


class StampedCNN(SimpleCNN):
    """The program's simple_cnn, which appends the time of its first training pass to the file named by STAMPS."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and not hasattr(self, "stamped"):
            self.stamped = True
            with open(os.environ["STAMPS"], "a") as file:
                file.write(f"{time.time()}\n")
        return super().forward(images)
