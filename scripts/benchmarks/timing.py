"""Wall and CPU time of sides that take turns, so that the machine's load falls on all of them; nets that time steps."""

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor, nn

from benchmarks.page import Cell, Table
from onecycle_sweeps.models.gpt import GPT
from onecycle_sweeps.models.mlp import MLP
from onecycle_sweeps.models.simple_cnn import SimpleCNN
from onecycle_sweeps.models.unet import UNet

# The first steps, in which buffers are made and code is loaded, are not timed.
WARM_STEPS = 5


@dataclass(frozen=True)
class Cost:
    """Wall seconds, CPU seconds of all threads or processes, and of a command the peak memory of its process in MiB."""

    wall: float
    cpu: float = 0.0
    peak: float = 0.0

    def per(self, count: float) -> "Cost":
        """The cost of one of `count` equal parts."""
        return Cost(self.wall / count, self.cpu / count)


class Rounds(dict[str, list[Cost]]):
    """The costs of each side, round by round; all figures are medians over rounds."""

    def wall(self, side: str) -> float:
        return median(cost.wall for cost in self[side])

    def ratio(self, side: str, other: str) -> float:
        """The wall time of a side divided by that of another in the same round."""
        return median(one.wall / two.wall for one, two in zip(self[side], self[other], strict=True))

    def added_cpu(self, side: str, other: str) -> float:
        """The CPU seconds that a side takes beyond another in the same round."""
        return median(one.cpu - two.cpu for one, two in zip(self[side], self[other], strict=True))

    def table(self, title: str, caption: str, first: str, unit: str, **more: Callable[[str], Cell]) -> Table:
        """What each side costs, in "s" or in "ms/...", and beside the first side."""
        base, scale = next(iter(self)), 1000 if unit.startswith("ms") else 1
        columns = (first, *more, f"wall {unit}", f"CPU {unit}", "wall / first row", f"added CPU {unit}")
        rows: list[list[Cell]] = []
        for side in self:
            beside = (self.ratio(side, base), scale * self.added_cpu(side, base))
            own = (scale * self.wall(side), scale * median(cost.cpu for cost in self[side]))
            rows.append([side, *(cell(side) for cell in more.values()), *own, *beside])
        return Table(title, caption, columns, rows)

    def speeds(self, title: str, caption: str, first: str, images: int, base: Mapping[str, str] | None = None) -> Table:
        """How many images each side processes in a second, and how fast that is beside its base or the first side."""
        other = base or dict.fromkeys(self, next(iter(self)))
        rows = [(side, images / self.wall(side), 1 / self.ratio(side, other[side])) for side in self]
        return Table(title, caption, (first, "images/s", "times as fast"), rows)


def now() -> Cost:
    """The readings of both clocks."""
    return Cost(time.perf_counter(), time.process_time())


def since(start: Cost) -> Cost:
    """The time elapsed on both clocks."""
    end = now()
    return Cost(end.wall - start.wall, end.cpu - start.cpu)


def timed(work: Callable[[], object], seconds: float = 0.0) -> Cost:
    """The mean cost of a call; it is called until `seconds` have passed, at least once."""
    start, count = now(), 0
    while count == 0 or time.perf_counter() - start.wall < seconds:
        work()
        count += 1
    return since(start).per(count)


def interleaved(sides: Mapping[str, Callable[[], Cost]], rounds: int, warm: int = 1) -> Rounds:
    """Run each side once a round; the first `warm` rounds are not counted."""
    costs = Rounds({name: [] for name in sides})
    for number in range(-warm, rounds):
        for name, side in sides.items():
            gc.collect()
            cost = side()
            print(f"  round {number}: {name}: {1000 * cost.wall:.3f} ms", file=sys.stderr, flush=True)
            if number >= 0:
                costs[name].append(cost)
    return costs


class Stopwatch:
    """Counts a net's training passes, and runs from the beginning of step WARM_STEPS until it is read."""

    def __init__(self) -> None:
        self.passes, self._start = 0, now()

    def tick(self, is_training: bool) -> None:
        if is_training:
            if self.passes == WARM_STEPS:
                self._start = now()
            self.passes += 1

    def whole(self, call: Callable[[], object], steps: int) -> Cost:
        """The mean cost of a pass of a call, or of one of its steps if its net has no stopwatch."""
        start = now()
        call()
        return since(start).per(self.passes or steps)

    def read(self, steps: int) -> Cost:
        """The mean cost of a step; raises RuntimeError unless there were exactly `steps` passes."""
        cost = since(self._start)
        if self.passes != steps:
            raise RuntimeError(f"a side must take {steps} steps, and took {self.passes}")
        return cost.per(steps - WARM_STEPS)


stopwatch = Stopwatch()


class Timed(nn.Module):
    """A net whose training passes the stopwatch counts; it comes before the net's own class among the parents."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        stopwatch.tick(self.training)
        return super().forward(*inputs, **named)


class TimedCNN(Timed, SimpleCNN):
    """simple_cnn with the stopwatch."""


class TimedMLP(Timed, MLP):
    """mlp with the stopwatch."""


class TimedGPT(Timed, GPT):
    """gpt with the stopwatch."""


class TimedUNet(Timed, UNet):
    """unet with the stopwatch."""


class TimedLinear(nn.Module):
    """One linear layer with the stopwatch: a step of it is almost all overhead."""

    def __init__(self, in_channels: int, num_classes: int, pixels: int) -> None:
        super().__init__()
        self.scores = nn.Linear(in_channels * pixels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        stopwatch.tick(self.training)
        return self.scores(images.flatten(1))


class StampedCNN(SimpleCNN):
    """simple_cnn, which appends its process, `train` or `evaluate`, and the time to STAMPS where that changes."""

    def forward(self, images: Tensor) -> Tensor:
        if getattr(self, "was_training", None) != self.training:
            self.was_training = self.training
            with open(os.environ["STAMPS"], "a") as file:
                file.write(f"{os.getpid()} {'train' if self.training else 'evaluate'} {time.time()}\n")
        return super().forward(images)
