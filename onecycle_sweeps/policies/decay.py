"""Policies whose rate never rises: constant, step and inv. None of them sets the momentum."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from onecycle_sweeps.policies.policy import Hyper, clamp_step, require_run
from onecycle_sweeps.validation import number, require, whole


@dataclass(frozen=True)
class Constant:
    """max_lr at every step."""

    max_lr: float
    total_steps: int

    def __post_init__(self) -> None:
        require_run(self.max_lr, self.total_steps)

    def __call__(self, step: int) -> Hyper:
        clamp_step(step, self.total_steps)
        return Hyper(float(self.max_lr))


@dataclass(frozen=True)
class Inv:
    """Caffe's inv: max_lr * (1 + gamma * step) ** -power; the defaults are those of Caffe's LeNet."""

    max_lr: float
    total_steps: int
    gamma: float = 1e-4
    power: float = 0.75

    def __post_init__(self) -> None:
        require_run(self.max_lr, self.total_steps)
        require("gamma", self.gamma, number(at_least=0))
        require("power", self.power, number(at_least=0))

    def __call__(self, step: int) -> Hyper:
        step = clamp_step(step, self.total_steps)
        return Hyper(self.max_lr * (1 + self.gamma * step) ** -self.power)


@dataclass(frozen=True)
class Step:
    """Starts at max_lr and is multiplied by gamma at each milestone, like torch's MultiStepLR and StepLR.

    milestones: increasing. Below 1 a fraction of the run, at step round(fraction * total_steps); from 1
        on an epoch, at step round(epoch * steps_per_epoch). One beyond the end of the run is never reached, as in
        torch. The default is (0.5, 0.75), unless step_size is given.
    step_size: epochs between drops; cannot be combined with milestones.
    """

    max_lr: float
    total_steps: int
    steps_per_epoch: int = 1
    milestones: Sequence[float] | None = None
    step_size: int | None = None
    gamma: float = 0.1

    def __post_init__(self) -> None:
        require_run(self.max_lr, self.total_steps)
        require("steps_per_epoch", self.steps_per_epoch, whole(1))
        require("gamma", self.gamma, number(above=0, at_most=1))
        if self.step_size is not None:
            require("step_size", self.step_size, whole(1))
            if self.milestones is not None:
                raise ValueError(
                    "milestones and step_size exclude each other, "
                    f"got {list(self.milestones)} and {self.step_size}: set one of them to null"
                )
            return
        if self.milestones is not None:
            if isinstance(self.milestones, str) or not isinstance(self.milestones, Sequence):
                raise ValueError(f"milestones must be a list of numbers, got {self.milestones!r}")
            # A config holds a list; a tuple keeps the policy hashable and immutable.
            object.__setattr__(self, "milestones", tuple(self.milestones))
        self._check_milestones()

    def _check_milestones(self) -> None:
        given = self._milestones()
        if not given:
            raise ValueError("milestones must have at least one element, got []: without a drop use policy=constant")
        for milestone in given:
            require("milestones", milestone, number(above=0))
        drops = self.drops()
        if drops[0] < 1:
            raise ValueError(
                f"milestones must fall after step 0, got {given[0]} of {self.total_steps} steps: train longer"
            )
        if any(b <= a for a, b in pairwise(given)) or any(b < a for a, b in pairwise(drops)):
            raise ValueError(f"milestones must increase, got {list(given)} at steps {list(drops)}")

    def _milestones(self) -> Sequence[float]:
        return (0.5, 0.75) if self.milestones is None else self.milestones

    def drops(self) -> tuple[int, ...]:
        """The steps at which the rate drops, if there is no step_size."""
        return tuple(round(m * (self.total_steps if m < 1 else self.steps_per_epoch)) for m in self._milestones())

    def __call__(self, step: int) -> Hyper:
        step = clamp_step(step, self.total_steps)
        if self.step_size is not None:
            passed = step // (self.step_size * self.steps_per_epoch)
        else:
            passed = sum(step >= drop for drop in self.drops())
        return Hyper(self.max_lr * self.gamma**passed)
