"""Allowed values of settings: tests with descriptions, from which messages about invalid values are made."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Allowed:
    """The allowed values of a setting.

    accepts: the test of a value.
    alternatives: their descriptions, joined in messages to "auto, fp32 or bf16".
    most: the largest number, also in a list; the message about a larger one has this bound instead of the description.
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
        """The message about an invalid value, with name, bound and value; None if the value is valid."""
        if not self.accepts(value):
            return f"{name} must be {self}, got {value!r}"
        for item in value if isinstance(value, list) else [value]:
            # An int may be too large to be converted to a float.
            if isinstance(item, Real) and not item <= self.most:
                return f"{name} must be at most {self.most:.0f}, got {item}"
        return None


def require(name: str, value: Any, allowed: Allowed) -> None:
    """Raise ValueError for an invalid value."""
    if error := allowed.error(name, value):
        raise ValueError(error)


def kind_of(value: Any) -> str:
    """A value's kind for an error message, such as "a tuple of 2" or "a tensor of torch.int64"."""
    kind = type(value).__name__
    if isinstance(value, tuple | list | dict):
        return f"a {kind} of {len(value)}"
    return f"a {kind.lower()} of {value.dtype}" if hasattr(value, "dtype") else f"a {kind}"


def number(
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    most: float = math.inf,
) -> Allowed:
    """A finite number within the bounds: a float or an int, but not a bool."""

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
    """A whole number, but not a bool."""

    def accepts(value: Any) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= at_least

    return Allowed(accepts, (f"a whole number of at least {at_least}",), most)


def one_of(*choices: str) -> Allowed:
    """One of these texts."""
    return Allowed(lambda value: isinstance(value, str) and value in choices, choices)


def text(description: str = "a text") -> Allowed:
    """A text that is not blank."""
    return Allowed(lambda value: isinstance(value, str) and value.strip() != "", (description,))


def list_of(item: Allowed, description: str) -> Allowed:
    """A list or tuple of such values."""
    return Allowed(lambda value: isinstance(value, list | tuple) and all(map(item.accepts, value)), (description,))


SWITCH = Allowed(lambda value: isinstance(value, bool), ("true or false",))
NULL = Allowed(lambda value: value is None, ("null",))
