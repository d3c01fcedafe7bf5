"""The ramp of a range test: its policy, its end, and checks of its rates and losses."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, SupportsFloat, TypeVar

import numpy as np
from numpy.typing import NDArray

from onecycle_sweeps.policies import Hyper
from onecycle_sweeps.policies.policy import clamp_step
from onecycle_sweeps.validation import number, one_of, require, whole

MIN_STEPS = 100
# The rate must rise by this share at each step, so that neighbouring rates are different floats.
LEAST_RISE = 2.0**-50
DIVERGED_ABOVE = 4.0
BETA = 0.98
MIN_POINTS = 16  # fastai's slide compares points 15 apart

Floats = NDArray[np.float64]


class HasLoss(Protocol):
    """Anything with a loss: a number or a 0-dim tensor."""

    @property
    def loss(self) -> SupportsFloat: ...


S = TypeVar("S", bound=HasLoss)


@dataclass(frozen=True)
class Ramp:
    """The rate rises from start_lr at step 0 to end_lr at the last step; the momentum is the optimizer's own.

    exp multiplies the rate by a constant at each step (fastai's shape), linear adds one (Smith's). Both divide by
    total_steps - 1, as torch-lr-finder does, so that end_lr is reached; fastai divides by total_steps and stops one
    step before it. After the end the rate stays. Raises ValueError for invalid values.
    """

    start_lr: float
    end_lr: float
    total_steps: int
    mode: Literal["exp", "linear"] = "exp"

    def __post_init__(self) -> None:
        require("mode", self.mode, one_of("exp", "linear"))
        require("start_lr", self.start_lr, number(above=0) if self.mode == "exp" else number(at_least=0))
        require("end_lr", self.end_lr, number())
        if self.start_lr >= self.end_lr:
            raise ValueError(f"start_lr must be below end_lr={self.end_lr}, got {self.start_lr}")
        require("total_steps", self.total_steps, whole(1))
        if self.total_steps < MIN_STEPS:
            raise ValueError(f"total_steps of a range test must be at least {MIN_STEPS}, got {self.total_steps}")
        if (self.end_lr - self.start_lr) / self.end_lr <= self.total_steps * LEAST_RISE:
            raise ValueError(
                f"end_lr must be further above start_lr={self.start_lr} for the rate to rise at each of "
                f"{self.total_steps} steps, got {self.end_lr}"
            )

    def __call__(self, step: int) -> Hyper:
        """The rate at a step (0-based). Raises ValueError for a step below 0."""
        part = clamp_step(step, self.total_steps) / (self.total_steps - 1)
        if self.mode == "exp":
            return Hyper(self.start_lr ** (1 - part) * self.end_lr**part)
        return Hyper(self.start_lr * (1 - part) + self.end_lr * part)


def smooth(losses: Iterable[SupportsFloat], beta: float = BETA) -> list[float]:
    """The debiased exponential mean of the losses, one value per loss (fastai's AvgSmoothLoss).

    a_i = beta*a_(i-1) + (1-beta)*L_i and s_i = a_i/(1-beta^(i+1)). Raises ValueError for beta outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must lie in [0, 1), got {beta!r}")
    return list(_debiased(losses, beta))


def _debiased(losses: Iterable[SupportsFloat], beta: float) -> Iterator[float]:
    average = 0.0
    for count, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * float(loss)
        yield average / (1 - beta**count)


def until_diverged(steps: Iterable[S]) -> Iterator[tuple[S, float]]:
    """Each step with the smoothed loss so far, up to and including the one that diverges; no later step is taken.

    A step diverges if its loss is not finite, or if the smoothed loss is above 4 times the lowest smoothed loss so far
    (fastai's rule, for losses that cannot be negative). The mean of the first MIN_POINTS losses is not judged: where a
    few samples have most of the loss, it rises by more than that when the first of them comes. Raises ValueError for a
    negative loss.
    """
    descent = Descent()
    for step in steps:
        descent = descent.after(step.loss)
        yield step, descent.smoothed
        if descent.diverged:
            return


@dataclass(frozen=True)
class Descent:
    """The losses of a test so far: how many, their exponential mean, and its lowest value before the last.

    The first MIN_POINTS values of that mean do not count.
    """

    count: int = 0
    average: float = 0.0
    lowest: float = math.inf

    def after(self, loss: SupportsFloat) -> "Descent":
        """The losses with one more; raises ValueError for a negative one, for which the rule has no meaning."""
        value = float(loss)
        if value < 0:
            raise ValueError(
                f"the loss of a range test must be at least 0, got {value:.4g}: the test ends where it is "
                f"{DIVERGED_ABOVE:g} times its lowest value; add a constant to it, or set max_lr yourself"
            )
        lowest = min(self.lowest, self.smoothed) if self.count >= MIN_POINTS else math.inf
        return Descent(self.count + 1, BETA * self.average + (1 - BETA) * value, lowest)

    @property
    def smoothed(self) -> float:
        """The debiased mean, as `smooth` has it."""
        return self.average / (1 - BETA**self.count)

    @property
    def diverged(self) -> bool:
        """Whether the last loss diverges, by the rule of `until_diverged`."""
        return not math.isfinite(self.smoothed) or self.smoothed > DIVERGED_ABOVE * min(self.lowest, self.smoothed)


def checked(lrs: Sequence[float], losses: Sequence[float]) -> tuple[Floats, Floats]:
    """Both as arrays. Raises ValueError for different lengths and for rates that are not finite, from 0 and rising."""
    rates, values = np.asarray(lrs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if rates.ndim != 1 or rates.shape != values.shape:
        raise ValueError(f"lrs and losses must have the same length, got the shapes {rates.shape} and {values.shape}")
    wrong = ~np.isfinite(rates) | (rates < 0)
    wrong[1:] |= rates[1:] <= rates[:-1]
    if wrong.any():
        at = first(wrong)
        after = f" after {rates[at - 1]}" if at else ""
        raise ValueError(f"lrs must be finite, at least 0, and rise at every point, got {rates[at]}{after} at {at}")
    return rates, values


def first(true: NDArray[np.bool_]) -> int:
    """The index of the first True, or the length if there is none."""
    return int(np.argmax(true)) if true.any() else len(true)
