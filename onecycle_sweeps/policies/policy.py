"""What a policy is, how one is checked, and the shapes that policies are made of."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from onecycle_sweeps.validation import Allowed, number, require, whole

# In a run of more than MOST_STEPS steps, a user's own policy is checked at about SAMPLED_STEPS of them.
MOST_STEPS, SAMPLED_STEPS = 10_000, 1000
# This program's policies are tested to keep their bounds, so a few steps are enough.
SAMPLED_STEPS_OF_OURS = 50
RATE, MOMENTUM = number(at_least=0), number(at_least=0, below=1)
# In a loop of the user's, a decay to 0 may by rounding end a little below it.
ROUNDED_RATE = number(at_least=-1e-12)


@dataclass(frozen=True)
class Hyper:
    """The learning rate and momentum of one step; momentum None leaves the optimizer's own in place."""

    lr: float
    momentum: float | None = None


class Policy(Protocol):
    """A pure function of the step. Past the last step it returns that step's values."""

    @property
    def total_steps(self) -> int: ...

    def __call__(self, step: int, /) -> Hyper: ...


SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cos": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
    "sqrt": math.sqrt,
    "constant": lambda progress: 1.0,
}
"""Each maps the progress through a phase, 0 to 1, to the fraction of the way from its start value to its end value."""


def interpolate(start: float, end: float, fraction: float) -> float:
    """The value at a fraction of the way; equal to `end` at 1, which the plain formula is not always."""
    return end if fraction == 1 else start + (end - start) * fraction


def clamp_step(step: int, total_steps: int) -> int:
    """The step, or the last one once the run is over. Raises ValueError below 0."""
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    return min(step, total_steps - 1)


def require_run(max_lr: object, total_steps: object) -> None:
    """Raise ValueError for an invalid peak rate or length of a run."""
    require("max_lr", max_lr, number(above=0))
    require("total_steps", total_steps, whole(1))


def require_momenta(base_momentum: float, max_momentum: float) -> None:
    """Raise ValueError for momenta outside [0, 1), or if the base is above the maximum."""
    require("base_momentum", base_momentum, number(at_least=0, below=1))
    require("max_momentum", max_momentum, number(at_least=0, below=1))
    if base_momentum > max_momentum:
        raise ValueError(f"base_momentum must be at most max_momentum={max_momentum}, got {base_momentum}")


@dataclass(frozen=True)
class Compressed:
    """A policy in fewer steps: the rates and momenta of its first and last step, and of evenly spread steps between.

    Raises ValueError for more steps than the policy has.
    """

    policy: Policy
    total_steps: int

    def __post_init__(self) -> None:
        require("total_steps", self.total_steps, whole(1, most=self.policy.total_steps))

    def __call__(self, step: int) -> Hyper:
        at = clamp_step(step, self.total_steps)
        return self.policy(round(at * (self.policy.total_steps - 1) / max(1, self.total_steps - 1)))


def near_peak(policy: Policy) -> float:
    """The share of a policy's steps whose rate is above 0.9 times its highest, estimated from at most 1,000 steps."""
    count = min(policy.total_steps, 1000)
    rates = [policy(round(at * (policy.total_steps - 1) / max(1, count - 1))).lr for at in range(count)]
    limit = 0.9 * max(rates)
    return sum(rate > limit for rate in rates) / count


def check_policy(name: str, policy: Any, total_steps: int) -> None:
    """Raise ValueError, naming the policy `name`, unless `policy` is one of `total_steps` steps with usable values.

    What the policy itself raises is passed on.
    """
    if not callable(policy):
        raise ValueError(f"{name} must make a policy, which is called with a step, got {type(policy).__name__}")
    length = getattr(policy, "total_steps", None)
    if not whole(1).accepts(length) or length != total_steps:
        got = "none" if length is None else repr(length)
        raise ValueError(f"{name} must have the total_steps of the run, {total_steps}, got {got}")
    ours = type(policy).__module__.startswith("onecycle_sweeps.policies")
    first: Any = policy(0)
    for step in _steps_to_check(total_steps, ours):
        values: Any = policy(step)
        _check_values(name, step, values)
        _check_momentum(name, first, step, values)


def checked(policy: Policy, step: int) -> Hyper:
    """The policy's values of a step; raises ValueError, naming the policy's class, for values that cannot be used.

    Those of the step after the last one may be any: schedulers ask for them when training is over.
    """
    if isinstance(policy, type) or not callable(policy):
        raise ValueError(
            f"policy must be called with a step, as OneCycle(max_lr=0.1, total_steps=1000) is, got {policy!r}"
        )
    name, first, values = type(policy).__name__, policy(0), policy(step)
    for at, found in ((0, first), (step, values)):
        if at != getattr(policy, "total_steps", None):
            _check_values(name, at, found, ROUNDED_RATE)
    _check_momentum(name, first, step, values)
    return values


def _check_momentum(name: str, first: Hyper, step: int, values: Hyper) -> None:
    """Raise ValueError if a step has a momentum and the first step has none, or the other way round.

    Where the policy gives none, the optimizer would keep the momentum of an earlier step.
    """
    if (values.momentum is None) != (first.momentum is None):
        raise ValueError(
            f"{name} must give a momentum for every step or None for every step, got momentum={first.momentum} at the "
            f"first step and {values.momentum} at step {step}"
        )


def _steps_to_check(total_steps: int, ours: bool) -> Iterable[int]:
    if not ours and total_steps <= MOST_STEPS:
        return range(total_steps)
    intervals = SAMPLED_STEPS_OF_OURS if ours else SAMPLED_STEPS
    return sorted({round(i * (total_steps - 1) / intervals) for i in range(intervals + 1)})


def _check_values(name: str, step: int, values: Any, rate: Allowed = RATE) -> None:
    if not hasattr(values, "lr") or not hasattr(values, "momentum"):
        raise ValueError(f"{name} must return Hyper(lr, momentum), got {values!r} at step {step}")
    if not rate.accepts(values.lr):
        raise ValueError(f"{name} must return finite rates of at least 0, got lr={values.lr!r} at step {step}")
    if values.momentum is not None and not MOMENTUM.accepts(values.momentum):
        raise ValueError(
            f"{name} must return momenta in [0, 1) or None, got momentum={values.momentum!r} at step {step}"
        )
