"""What numbers of the same seeds say of two groups: differences, adjusted p-values and intervals, ratios."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from onecycle_sweeps.outcome import Arrival

# An adjusted p-value below this supports a claim.
LEVEL = 0.05
POWER = 0.8
# Differences that are equal but for the rounding of their subtraction are within this of each other, relative to
# the values that were subtracted.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, its interval, and the p-value of no difference, all by the paired t-test.

    The interval covers 1 - `level`, so it excludes 0 exactly where p is below the level. `detectable` is the smallest
    true difference that this number of pairs finds at that level with 80 % power, if differences spread as these do;
    with few pairs that spread is itself a rough estimate. Low, high, p and detectable are None with one pair, and where
    all differences are equal: then nothing can be estimated of their spread.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int
    detectable: float | None
    level: float = LEVEL


@dataclass(frozen=True)
class Speedup:
    """How many times fewer steps one group took to a target than the baseline: geometric mean and 95 % interval.

    Over `pairs` seeds. `missed_baseline` and `missed` count the seeds that never reached it on either side. Such a seed
    counts with its whole run, which makes the ratio a `bound`; there is no ratio where both sides have missed it. There
    is no interval beside a bound, and none where it cannot be estimated.
    """

    ratio: float | None
    low: float | None
    high: float | None
    pairs: int
    missed_baseline: int
    missed: int
    bound: Literal["at least", "at most"] | None = None


def paired_difference(values: Mapping[str, float], baseline: Mapping[str, float], level: float = LEVEL) -> Difference:
    """The difference `values - baseline`, paired by key; raises ValueError where the keys differ or there are none."""
    if not values or values.keys() != baseline.keys():
        raise ValueError(f"pairs need the same keys on both sides, got {list(values)} and {list(baseline)}")
    differences = [value - baseline[key] for key, value in values.items()]
    pairs, mean = len(differences), statistics.fmean(differences)
    spread = statistics.stdev(differences) if pairs > 1 else 0.0
    if spread <= ROUNDING * max(map(abs, (*values.values(), *baseline.values()))):
        return Difference(mean, None, None, None, pairs, None, level)
    error, df = spread / math.sqrt(pairs), pairs - 1
    margin, p = error * _two_sided_quantile(df, level), _two_sided_p(mean / error, df)
    detectable = spread * detectable_effect(pairs, level)
    return Difference(mean, mean - margin, mean + margin, p, pairs, detectable, level)


@cache
def detectable_effect(pairs: int, level: float = LEVEL) -> float:
    """The true mean difference, in standard deviations of a difference, that a paired t-test finds with 80 % power.

    The root of the power function, which is a tail of the noncentral t distribution (Cohen, Statistical Power Analysis
    for the Behavioral Sciences, 1988, chapter 2); raises ValueError below two pairs.
    """
    from scipy.optimize import brentq
    from scipy.special import nctdtr

    if pairs < 2:
        raise ValueError(f"a spread needs at least 2 pairs, got {pairs}")
    df, critical = pairs - 1, _two_sided_quantile(pairs - 1, level)

    def lacking(shift: float) -> float:
        # So far out the tail on the wrong side is below 1e-9, and SciPy's may be NaN.
        wrong_side = 1 - nctdtr(df, -shift, critical) if shift < 6 else 0.0
        return POWER - (1 - nctdtr(df, shift, critical)) - wrong_side

    root = float(brentq(lacking, 0.0, 1.5 * critical, xtol=1e-12))  # pyright: ignore[reportArgumentType]
    return root / math.sqrt(pairs)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that all those below a level hold together at that level (Holm, Scand. J. Stat. 6, 1979).

    The order is kept; no adjusted value is below its own.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def holm_levels(p_values: Sequence[float]) -> list[float]:
    """The level that Holm's method tests each p-value at, in the same order.

    An interval that covers 1 - this level excludes 0 exactly where the adjusted p-value is below LEVEL (Serlin, J. Exp.
    Educ. 61, 1993). No level is above LEVEL, so each interval alone covers at least 1 - LEVEL; all of them together
    need not.
    """
    levels, level, count = [LEVEL] * len(p_values), LEVEL, len(p_values)
    rejects = True
    for rank, place in enumerate(sorted(range(count), key=p_values.__getitem__)):
        if rejects:
            level, rejects = LEVEL / (count - rank), (count - rank) * p_values[place] < LEVEL
        levels[place] = level
    return levels


def speed_up(arrivals: Mapping[str, Arrival], baseline: Mapping[str, Arrival]) -> Speedup:
    """The ratio `baseline / arrivals` of steps to a target, paired by key.

    The interval is a t interval of the logarithms. Raises ValueError where the keys differ or there are none.
    """
    if not arrivals or arrivals.keys() != baseline.keys():
        raise ValueError(f"pairs need the same keys on both sides, got {list(arrivals)} and {list(baseline)}")
    missed_baseline, missed = (sum(not one.reached for one in side.values()) for side in (baseline, arrivals))
    if missed_baseline and missed:
        return Speedup(None, None, None, len(arrivals), missed_baseline, missed)
    ours, theirs = ({key: math.log(one.steps) for key, one in side.items()} for side in (arrivals, baseline))
    found = paired_difference(theirs, ours)
    ratio = math.exp(found.mean)
    if missed_baseline or missed:
        bound = "at least" if missed_baseline else "at most"
        return Speedup(ratio, None, None, found.pairs, missed_baseline, missed, bound)
    low, high = (None if x is None else math.exp(x) for x in (found.low, found.high))
    return Speedup(ratio, low, high, found.pairs, 0, 0)


def _two_sided_quantile(df: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - level / 2))


def _two_sided_p(t: float, df: int) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))
