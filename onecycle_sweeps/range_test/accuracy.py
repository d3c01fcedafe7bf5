"""What Smith reads from a linear ramp: where validation accuracy begins to rise, and where it slows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onecycle_sweeps.range_test.curves import Floats, checked
from onecycle_sweeps.range_test.fit import Curve, fit_evenly

RISEN, SLOWED = 0.1, 0.95


@dataclass(frozen=True)
class AccuracyRates:
    """Rates of the smoothed accuracy first, then of each draw: at 10 % of its rise, and at 95 % of it."""

    rises: Floats
    slows: Floats


def read_accuracies(lrs: Sequence[float], accuracies: Sequence[float]) -> AccuracyRates:
    """Where accuracies (fractions) over evenly spaced rates begin to rise and where they slow (arXiv:1506.01186, 3.3).

    Smith takes these by eye as base_lr and max_lr; the rise is that of the smoothed curve from its first point to its
    highest. Raises ValueError for fewer than 6 points, and where the accuracy does not rise by a hundredth.
    """
    rates, values = checked(lrs, accuracies)
    if len(rates) < 6:
        raise ValueError(
            f"a linear range test must be evaluated at least 6 times before it diverges, got {len(rates)}: lower "
            "range_test.end_lr, raise range_test.steps, or set max_lr yourself"
        )
    curve = fit_evenly(rates, values)
    if curve.mean.max() - curve.mean[0] < 0.01:
        raise ValueError(
            f"the val accuracy of a range test must rise by 0.01, got {curve.mean[0]:.3f} and {curve.mean.max():.3f} "
            "at best: raise range_test.steps, lower range_test.end_lr, or set max_lr yourself"
        )
    return AccuracyRates(_reaching(curve, RISEN), _reaching(curve, SLOWED))


def _reaching(curve: Curve, part: float) -> Floats:
    values = np.column_stack([curve.mean, curve.draws])
    level = values[0] + part * (values.max(axis=0) - values[0])
    return curve.rates[np.argmax(values >= level, axis=0)]
