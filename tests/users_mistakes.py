"""A user's code with mistakes: one in each model, policy, transform and loader."""

import math
import os
import signal
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onecycle_sweeps.measures import ACCURACY, Measure
from onecycle_sweeps.objectives.classification import Classification
from onecycle_sweeps.policies import Hyper


class Net(nn.Module):
    """A valid model; its subclasses have one mistake each."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(in_channels * 64, num_classes)

    def forward(self, images: Tensor) -> Any:
        return self.scores(images.flatten(1))


class Pair(Net):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


class Named(Net):
    def forward(self, images: Tensor) -> Any:
        return {"scores": super().forward(images)}


class TooManyClasses(Net):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes + 1)


class Untrainable(Net):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.requires_grad_(False)


class Shapeless(Net):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.scores = nn.LazyLinear(num_classes)


class Larger(Net):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels * 2, num_classes)


class Detached(Net):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).detach()


class FailsInEvaluation(Net):
    def forward(self, images: Tensor) -> Any:
        if not self.training:
            raise KeyError("scale")
        return super().forward(images)


class Leaves(Net):
    def forward(self, images: Tensor) -> Any:
        raise SystemExit(3)


class Wide(Net):
    def __init__(self, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__(in_channels, num_classes)


class NeedsGpu(Net):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system")


class Crashes(Net):
    def forward(self, images: Tensor) -> Any:
        os.kill(os.getpid(), signal.SIGSEGV)


class Exits(Net):
    def forward(self, images: Tensor) -> Any:
        os._exit(0)


class ForkedCrash(Net):
    """It dies and leaves a process behind that keeps its files open."""

    def forward(self, images: Tensor) -> Any:
        if not os.fork():
            signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)


class Older(torch.optim.SGD):
    """An optimizer without a default rate, as in older versions of torch."""

    def __init__(self, params: Any, lr: float, momentum: float = 0) -> None:
        super().__init__(params, lr, momentum)


class OfEachClass:
    """A measure with a value for each class, where one number is wanted."""

    higher_is_better = True

    def to(self, device: torch.device) -> "OfEachClass":
        return self

    def update(self, scores: Tensor, targets: Tensor) -> None:
        self.means = scores.mean(0)

    def compute(self) -> Tensor:
        return self.means


class OfOneScore(OfEachClass):
    """A measure of one score for each sample."""

    def update(self, scores: Tensor, targets: Tensor) -> None:
        self.means = (scores - targets).mean()


@dataclass(frozen=True)
class Twice(Classification):
    """An objective with two measures of one name."""

    measures: tuple[Measure, ...] = (ACCURACY, ACCURACY)


@dataclass(frozen=True)
class Line:
    """A valid policy; its subclasses have one mistake each."""

    max_lr: float
    total_steps: int

    def __call__(self, step: int) -> Any:
        return Hyper(self.max_lr)


class Nan(Line):
    def __call__(self, step: int) -> Any:
        return Hyper(math.nan if step == 7 else self.max_lr)


class Negative(Line):
    def __call__(self, step: int) -> Any:
        return Hyper(self.max_lr * (1 - step / 20))


class Bare(Line):
    def __call__(self, step: int) -> Any:
        return self.max_lr


class Heavy(Line):
    def __call__(self, step: int) -> Any:
        return Hyper(self.max_lr, 1.0)


class HalfHeavy(Line):
    def __call__(self, step: int) -> Any:
        return Hyper(self.max_lr, 0.5 if step < 7 else None)


class Divides(Line):
    def __call__(self, step: int) -> Any:
        return Hyper(self.max_lr / abs(step - 13))


class Shorter(Line):
    def __init__(self, max_lr: float, total_steps: int) -> None:
        super().__init__(max_lr, total_steps - 1)


class Endless:
    def __init__(self, max_lr: float) -> None:
        self.max_lr = max_lr

    def __call__(self, step: int) -> Hyper:
        return Hyper(self.max_lr)


class Floats:
    """A transform that returns floats instead of bytes."""

    def output(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def __call__(self, images: Tensor, draws: Any) -> Tensor:
        return images / 255


def key_error(**_: Any) -> Any:
    return {}["labels"]


def assertion(**_: Any) -> Any:
    assert math.isnan(0), "no\nlabels"


def runtime_error(**_: Any) -> Any:
    raise RuntimeError


def value_error(**_: Any) -> Any:
    return int("many")


def system_exit(**_: Any) -> Any:
    raise SystemExit
