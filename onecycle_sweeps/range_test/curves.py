"""From raw losses to a curve: smoothing, the end of a test, and trimming."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from typing import Protocol, SupportsFloat, TypeVar

import numpy as np
from numpy.typing import NDArray

DIVERGED_ABOVE = 4.0
SKIP_END = 5
MIN_POINTS = 16  # fastai's slide compares points 15 apart

Floats = NDArray[np.float64]


class HasLoss(Protocol):
    """Anything with a loss: a number or a 0-dim tensor."""

    @property
    def loss(self) -> SupportsFloat: ...


S = TypeVar("S", bound=HasLoss)


def smooth(losses: Iterable[SupportsFloat], beta: float = 0.98) -> list[float]:
    """The debiased exponential mean of the losses, one value per loss (fastai's AvgSmoothLoss).

    a_i = beta*a_(i-1) + (1-beta)*L_i and s_i = a_i/(1-beta^(i+1)). Raises ValueError for beta outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must lie in [0, 1), got {beta!r}")
    return list(_debiased(losses, beta))


def _debiased(losses: Iterable[SupportsFloat], beta: float = 0.98) -> Iterator[float]:
    average = 0.0
    for count, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * float(loss)
        yield average / (1 - beta**count)


def until_diverged(steps: Iterable[S]) -> Iterator[tuple[S, float]]:
    """Each step with the smoothed loss so far, up to and including the one that diverges; no step is taken after it.

    Diverged: the step's loss is not finite, or the smoothed loss is above 4 times the lowest smoothed loss so far
    (fastai's rule, made for losses that cannot be negative). A resumed test passes its recorded steps again first.
    """
    best = math.inf
    taken, again = tee(steps)
    for step, smoothed in zip(taken, _debiased(step.loss for step in again), strict=True):
        yield step, smoothed
        best = min(best, smoothed)
        if not math.isfinite(smoothed) or smoothed > DIVERGED_ABOVE * best:
            return


def curve(
    lrs: Sequence[float], losses: Sequence[float], total_steps: int | None = None
) -> tuple[list[float], list[float]]:
    """The smoothed curve of raw losses, trimmed as in fastai: no first tenth, no last 5, nothing from a NaN or inf on.

    The tenth is of total_steps, the steps planned (fastai's num_it); by default of the steps there are.
    Raises ValueError if rates and losses do not pair up or the rates do not rise, and if fewer than 16 points are left.
    """
    rates, values = checked(lrs, losses)
    kept = slice((total_steps or len(rates)) // 10, -SKIP_END)
    rates, smoothed = rates[kept], np.array(smooth(values))[kept]
    end = first(~np.isfinite(smoothed))
    if end < MIN_POINTS:
        raise ValueError(
            f"a range test must leave at least {MIN_POINTS} points after trimming, got {end} of {len(values)} steps: "
            "it diverged too early, so lower range_test.start_lr, raise range_test.steps, or set max_lr yourself"
        )
    return rates[:end].tolist(), smoothed[:end].tolist()


def checked(lrs: Sequence[float], losses: Sequence[float]) -> tuple[Floats, Floats]:
    """Both as arrays. Raises ValueError if they do not pair up, or if the rates are not finite, rising, from 0 up."""
    rates, values = np.asarray(lrs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if rates.ndim != 1 or rates.shape != values.shape:
        raise ValueError(f"lrs and losses must be equally long lists, got the shapes {rates.shape} and {values.shape}")
    wrong = ~np.isfinite(rates) | (rates < 0)
    wrong[1:] |= rates[1:] <= rates[:-1]
    if wrong.any():
        at = first(wrong)
        after = f" after {rates[at - 1]}" if at else ""
        raise ValueError(f"lrs must be finite, not negative, and rise at every point, got {rates[at]}{after} at {at}")
    return rates, values


def first(true: NDArray[np.bool_]) -> int:
    """The index of the first True, or the length where there is none."""
    return int(np.argmax(true)) if true.any() else len(true)
