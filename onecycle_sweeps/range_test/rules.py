"""The rates that fastai 2's rules read from a curve (fastai/callback/schedule.py, 2.8.12)."""

from collections.abc import Sequence

import numpy as np

from onecycle_sweeps.range_test.curves import MIN_POINTS, Floats, checked, first

SLIDE_GAP = MIN_POINTS - 1
SLIDE_THRESHOLD = 0.005


def suggestions(lrs: Sequence[float], losses: Sequence[float]) -> dict[str, float]:
    """The suggested rate by rule, from a smoothed and trimmed curve, which is taken as it is.

    minimum: a tenth of the rate at the lowest loss. steepest: the rate where d loss / d log lr is lowest (fastai's
    steep). valley, slide: fastai's rules of these names.
    Raises ValueError for fewer than 16 points, losses that are not finite, and rates that do not rise from above 0.
    """
    rates, values = checked(lrs, losses)
    if len(values) < MIN_POINTS:
        raise ValueError(f"a curve must have at least {MIN_POINTS} points, got {len(values)}")
    if rates[0] == 0:
        raise ValueError("lrs must be above 0, got 0.0 at 0: leave that point out")
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = first(wrong)
        raise ValueError(f"losses must be finite, got {values[at]} at {at}: cut the curve before it")
    return {
        "minimum": float(rates[np.argmin(values)]) / 10,
        "steepest": float(rates[np.argmin(np.diff(values) / np.diff(np.log(rates)))]),
        "valley": float(rates[_valley(values)]),
        "slide": float(rates[_slide(values)]),
    }


def _valley(losses: Floats) -> int:
    """Half-way through the longest falling subsequence (the first of several), as fastai counts it.

    It takes the subsequence for contiguous, so its start may be -1, and an index of -1 is the last point.
    """
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        lengths[i] = 1 + lengths[:i].max(initial=0, where=losses[:i] > losses[i])
    end = int(np.argmax(lengths))
    start = end - int(lengths[end]) if end else 0
    third = (end - start) / 3
    return start + int(third) + int(third / 2)


def _slide(losses: Floats) -> int:
    """The left edge of a window of 15 steps that slides down from the end until the slopes at its edges agree.

    The answer is the last edge that did not agree yet; where none agrees, the first point of the curve.
    """
    slopes = np.gradient(losses)
    agree = np.abs(slopes[SLIDE_GAP:] - slopes[:-SLIDE_GAP]) <= SLIDE_THRESHOLD
    return len(agree) - max(1, first(agree[::-1]))
