"""What a value may be: tests with a description each, from which the messages about invalid values are made."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Allowed:
    """The values that a setting may have.

    accepts: the test.
    alternatives: its description; "auto", "fp32" and "bf16" read as "auto, fp32 or bf16".
    most: the largest number, also within a list. A larger one is reported by this bound, not by the description.
    """

    accepts: Callable[[Any], bool]
    alternatives: tuple[str, ...]
    most: float = math.inf

    def __or__(self, other: "Allowed") -> "Allowed":
        def accepts(value: Any) -> bool:
            return self.accepts(value) or other.accepts(value)

        return Allowed(accepts, (*self.alternatives, *other.alternatives), min(self.most, other.most))

    def described(self, description: str) -> "Allowed":
        """The same values with another description."""
        return replace(self, alternatives=(description,))

    def __str__(self) -> str:
        *others, last = self.alternatives
        return f"{', '.join(others)} or {last}" if others else last

    def error(self, name: str, value: Any) -> str | None:
        """The message about an invalid value, with name, bound and value; None for a valid one."""
        if not self.accepts(value):
            return f"{name} must be {self}, got {value!r}"
        for item in value if isinstance(value, list) else [value]:
            # Not as a float, which an int may be too large for.
            if isinstance(item, Real) and not item <= self.most:
                return f"{name} must be at most {self.most:.0f}, got {item}"
        return None


def require(name: str, value: Any, allowed: Allowed) -> None:
    """Raise ValueError for a value that is not allowed."""
    if error := allowed.error(name, value):
        raise ValueError(error)


def number(
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    most: float = math.inf,
) -> Allowed:
    """A finite number within the bounds; an int is a number, a bool or a str is not."""

    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        try:
            given = float(value)
        except OverflowError:
            return False
        return math.isfinite(given) and above < given < below and at_least <= given <= at_most

    low, high = max(above, at_least), min(below, at_most)
    if math.isfinite(low) and math.isfinite(high):
        description = f"a number in {'(' if above == low else '['}{low:g}, {high:g}{')' if below == high else ']'}"
    elif math.isfinite(low):
        description = f"a number {'above' if above == low else 'of at least'} {low:g}"
    else:
        description = "a finite number"
    return Allowed(accepts, (description,), most)


def whole(at_least: int, *, most: float = math.inf) -> Allowed:
    """A whole number; a bool is none."""

    def accepts(value: Any) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= at_least

    return Allowed(accepts, (f"a whole number of at least {at_least}",), most)


def one_of(*choices: str) -> Allowed:
    """One of these words."""
    return Allowed(lambda value: isinstance(value, str) and value in choices, choices)


def text(description: str = "a text") -> Allowed:
    """A text that is not blank."""
    return Allowed(lambda value: isinstance(value, str) and value.strip() != "", (description,))


def list_of(item: Allowed, description: str) -> Allowed:
    """A list, or a tuple, of such values."""
    return Allowed(lambda value: isinstance(value, list | tuple) and all(map(item.accepts, value)), (description,))


SWITCH = Allowed(lambda value: isinstance(value, bool), ("true or false",))
NULL = Allowed(lambda value: value is None, ("null",))
