"""Refusals of a policy's settings: each names the setting, the bound and the value that was given."""

import math
from numbers import Integral, Real


def run(max_lr: object, total_steps: object) -> None:
    """Refuse a peak rate or a length that no run can have."""
    number("max_lr", max_lr, above=0)
    count("total_steps", total_steps)


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Refuse what is not a finite number within the bounds; an int is a number, a bool or a str is not."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    found = float(value)
    low = (above is None or found > above) and (at_least is None or found >= at_least)
    high = (below is None or found < below) and (at_most is None or found <= at_most)
    if low and high:
        return
    if above is not None and below is not None:
        raise ValueError(f"{name} must lie strictly between {above} and {below}, got {value}")
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    wanted = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    raise ValueError(f"{name} must be {wanted}, got {value}")


def count(name: str, value: object) -> None:
    """Refuse what is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def flag(name: str, value: object) -> None:
    """Refuse what is not a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def choice(name: str, value: object, *allowed: str) -> None:
    """Refuse what is not one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def momenta(base_momentum: float, max_momentum: float) -> None:
    """Refuse a pair of momenta outside [0, 1) or the wrong way round."""
    number("base_momentum", base_momentum, at_least=0, below=1)
    number("max_momentum", max_momentum, at_least=0, below=1)
    if base_momentum > max_momentum:
        raise ValueError(f"base_momentum must be at most max_momentum={max_momentum}, got {base_momentum}")
