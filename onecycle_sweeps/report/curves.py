"""The curves of a range test, read from its journal."""

import math
from dataclasses import dataclass
from itertools import pairwise

from onecycle_sweeps import journal


@dataclass(frozen=True)
class RangeTestCurve:
    """One seed's range test, a value per step: the rate, the batch's loss, and the smoothed loss.

    The smoothed loss is NaN from divergence on, and everywhere where too few steps precede that.
    `accuracies` are pairs of a rate and the val accuracy there, of a linear ramp alone.
    """

    lr: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]
    accuracies: tuple[tuple[float, float], ...] = ()


def range_tests(record: journal.Record) -> list[RangeTestCurve]:
    """The curves in a range test's record, one per seed: the next begins where the rate does not rise."""
    smoothed = dict(zip(*record.series(journal.SMOOTHED_LOSS), strict=True))
    rates, losses = (record.series(name)[1] for name in (journal.LR, journal.TRAIN_LOSS))
    points = [
        (rate, loss, smoothed.get(step, math.nan)) for step, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]
    starts = [i for i, (one, following) in enumerate(pairwise(points), start=1) if following[0] <= one[0]]
    bounds = [0, *starts, len(points)] if points else [0]
    evaluated = list(zip(*record.series(journal.VAL_ACCURACY), strict=True))
    return [
        RangeTestCurve(
            *zip(*points[start:stop], strict=True),
            accuracies=tuple((points[step][0], value) for step, value in evaluated if start <= step < stop),
        )
        for start, stop in pairwise(bounds)
    ]
