"""Whether an object is a policy for a run of some length, a user's own above all."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

# A longer run is looked at in so many places.
MOST_STEPS, PLACES = 10_000, 1000
# Ours keep their bounds by construction, as their tests show, so few places will do.
PLACES_OF_OURS = 50


def check_policy(name: str, policy: Any, total_steps: int) -> None:
    """Raise ValueError for a policy whose length is not `total_steps` or that answers a step with what no step can use.

    `name` is what the refusal calls it. What the policy itself raises comes as it is.
    """
    if not callable(policy):
        raise ValueError(f"{name} must make a policy, which is called with a step, got {type(policy).__name__}")
    length = getattr(policy, "total_steps", None)
    if isinstance(length, bool) or not isinstance(length, Integral) or length != total_steps:
        said = "none" if length is None else repr(length)
        raise ValueError(f"{name} must have the total_steps that the run gives it, {total_steps}, got {said}")
    ours = type(policy).__module__.startswith("onecycle_sweeps.policies")
    for step in _steps(total_steps, ours):
        _check_answer(name, step, policy(step))


def _steps(total_steps: int, ours: bool) -> Iterable[int]:
    if not ours and total_steps <= MOST_STEPS:
        return range(total_steps)
    places = PLACES_OF_OURS if ours else PLACES
    return sorted({round(i * (total_steps - 1) / places) for i in range(places + 1)})


def _check_answer(name: str, step: int, answer: Any) -> None:
    if not hasattr(answer, "lr") or not hasattr(answer, "momentum"):
        raise ValueError(f"{name} must answer a step with Hyper(lr, momentum), got {answer!r} at step {step}")
    if not _is_number(answer.lr) or not answer.lr >= 0:
        raise ValueError(f"{name} must give finite rates of at least 0, got lr={answer.lr!r} at step {step}")
    if answer.momentum is not None and not (_is_number(answer.momentum) and 0 <= answer.momentum < 1):
        raise ValueError(f"{name} must give momenta in [0, 1) or None, got momentum={answer.momentum!r} at step {step}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
