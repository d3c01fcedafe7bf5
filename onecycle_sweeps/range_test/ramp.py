"""The policy of a range test."""

from dataclasses import dataclass
from typing import Literal

from onecycle_sweeps.policies import Hyper
from onecycle_sweeps.policies.policy import clamp_step
from onecycle_sweeps.validation import number, one_of, require, whole

MIN_STEPS = 100
# By so much of itself a rate has to rise from step to step, lest the floats between them run out.
LEAST_RISE = 2.0**-50


@dataclass(frozen=True)
class Ramp:
    """The rate rises from start_lr at step 0 to end_lr at the last step; the momentum is the optimizer's own.

    exp rises by a constant factor a step (fastai's shape), linear by a constant amount (Smith's). Both divide by
    total_steps - 1, as torch-lr-finder does, so that the end_lr asked for is tried; fastai divides by total_steps and
    stops one step short of it. Past the end the last rate holds. Raises ValueError for what cannot work.
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
                f"end_lr must be so far above start_lr={self.start_lr} that the rate rises at each of "
                f"{self.total_steps} steps, got {self.end_lr}"
            )

    def __call__(self, step: int) -> Hyper:
        """The rate at a step (0-based). Raises ValueError for a step below 0."""
        part = clamp_step(step, self.total_steps) / (self.total_steps - 1)
        if self.mode == "exp":
            return Hyper(self.start_lr ** (1 - part) * self.end_lr**part)
        return Hyper(self.start_lr * (1 - part) + self.end_lr * part)
