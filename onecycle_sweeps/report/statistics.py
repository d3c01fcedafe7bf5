"""What numbers of the same seeds say of two groups: differences, adjusted p-values, ratios."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

# A tested p-value below this supports a claim; intervals cover 1 - LEVEL.
LEVEL = 0.05
POWER = 0.8
# Differences that are equal but for the rounding of their subtraction are within this of each other, relative to
# the values that were subtracted.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, its 95 % interval, and the p-value of no difference, all by the paired t-test.

    `detectable` is the smallest true difference that this number of pairs finds at the 5 % level with 80 % power,
    if differences spread as these do; with few pairs that spread is itself a rough estimate. All but the mean are
    None with one pair, and where all differences are equal: then nothing can be estimated of their spread.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int
    detectable: float | None


@dataclass(frozen=True)
class Speedup:
    """How many times fewer steps one group took to a target than the baseline: geometric mean and 95 % interval.

    Over the `pairs` seeds with which both reached it. `missed_baseline` and `missed` count the seeds with which the
    baseline and the group did not; the ratio is None where no seed is left, the interval where it cannot be estimated.
    """

    ratio: float | None
    low: float | None
    high: float | None
    pairs: int
    missed_baseline: int
    missed: int


def paired_difference(values: Mapping[str, float], baseline: Mapping[str, float]) -> Difference:
    """The difference `values - baseline`, paired by key; raises ValueError where the keys differ or there are none."""
    if not values or values.keys() != baseline.keys():
        raise ValueError(f"pairs need the same keys on both sides, got {list(values)} and {list(baseline)}")
    differences = [value - baseline[key] for key, value in values.items()]
    pairs, mean = len(differences), statistics.fmean(differences)
    spread = statistics.stdev(differences) if pairs > 1 else 0.0
    if spread <= ROUNDING * max(map(abs, (*values.values(), *baseline.values()))):
        return Difference(mean, None, None, None, pairs, None)
    error, df = spread / math.sqrt(pairs), pairs - 1
    margin = error * _two_sided_quantile(df)
    return Difference(
        mean, mean - margin, mean + margin, _two_sided_p(mean / error, df), pairs, spread * detectable_effect(pairs)
    )


@cache
def detectable_effect(pairs: int) -> float:
    """The true mean difference, in standard deviations of a difference, that a paired t-test finds with 80 % power.

    The root of the power function, which is a tail of the noncentral t distribution (Cohen, Statistical Power Analysis
    for the Behavioral Sciences, 1988, chapter 2); raises ValueError below two pairs.
    """
    from scipy.optimize import brentq
    from scipy.special import nctdtr

    if pairs < 2:
        raise ValueError(f"a spread needs at least 2 pairs, got {pairs}")
    df, critical = pairs - 1, _two_sided_quantile(pairs - 1)

    def lacking(shift: float) -> float:
        return POWER - (1 - nctdtr(df, shift, critical)) - (1 - nctdtr(df, -shift, critical))

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


def speed_up(steps: Mapping[str, int | None], baseline: Mapping[str, int | None]) -> Speedup:
    """The ratio `baseline / steps` of steps to a target, paired by key; None is a seed that never reached it.

    The interval is a t interval of the logarithms. Raises ValueError where the keys differ or there are none.
    """
    if not steps or steps.keys() != baseline.keys():
        raise ValueError(f"pairs need the same keys on both sides, got {list(steps)} and {list(baseline)}")
    logs = {key: (math.log(a), math.log(b)) for key, a in steps.items() if a and (b := baseline[key])}
    missed = [sum(reached is None for reached in side.values()) for side in (baseline, steps)]
    if not logs:
        return Speedup(None, None, None, 0, *missed)
    found = paired_difference({key: b for key, (_, b) in logs.items()}, {key: a for key, (a, _) in logs.items()})
    ratio, low, high = (None if x is None else math.exp(x) for x in (found.mean, found.low, found.high))
    return Speedup(ratio, low, high, found.pairs, *missed)


def _two_sided_quantile(df: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - LEVEL / 2))


def _two_sided_p(t: float, df: int) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))
