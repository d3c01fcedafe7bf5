"""Statistics over seeds: means, paired differences with adjusted p-values and intervals, and ratios of steps."""

import math
import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from onecycle_sweeps.measures import ROUNDING, Measure
from onecycle_sweeps.outcome import Arrival

# An adjusted p-value below this level supports a claim.
LEVEL = 0.05
POWER = 0.8
# The end of a curve is this share of its steps, but at least this many points.
END_SHARE, END_POINTS = 0.1, 3
# The share of runs that a trimmed mean leaves out on either side.
TRIMMED = 0.2


@dataclass(frozen=True)
class Spread:
    """The mean of `count` values and their sample standard deviation (n - 1), None for a single value."""

    mean: float
    std: float | None
    count: int

    def text(self, measure: Measure) -> str:
        """Mean and deviation in the measure's unit: `92.00 ± 0.50 %`."""
        if self.std is None:
            return measure.text(self.mean)
        return " ± ".join(measure.with_deviation(self.mean, self.std)) + (" %" if measure.is_fraction else "")


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences with its interval and p-value, from a paired t-test.

    The interval has coverage 1 - `level`, so it excludes 0 exactly if p is below the level. `detectable` is the minimum
    detectable difference: the smallest true difference that a test of this many pairs at that level finds with 80 %
    power, if differences have the standard deviation of these; with few pairs that is a rough estimate. `low`, `high`,
    `p` and `detectable` are None if there is one pair or all differences are equal up to rounding, so that no spread
    can be estimated; the mean is then 0 if it is itself a matter of rounding. `relative` is the mean as a share of the
    baseline's, None where that is 0.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int
    detectable: float | None
    level: float = LEVEL
    relative: float | None = None


@dataclass(frozen=True)
class Speedup:
    """How many times fewer steps than the baseline a group took to its target: geometric mean and 95 % interval.

    The mean is over `pairs` seeds. `missed_baseline` and `missed` count the seeds of either side that never reached the
    target. Such a seed counts with the length of its whole run, which makes the ratio a `bound`, without an interval;
    if seeds of both sides missed the target, there is no ratio.
    """

    ratio: float | None
    low: float | None
    high: float | None
    pairs: int
    missed_baseline: int
    missed: int
    bound: Literal["at least", "at most"] | None = None


@dataclass(frozen=True)
class Slope:
    """How much a value changes with a step at the end of curves: the mean over `curves`, its interval and p-value.

    `low`, `high` and `p` are None where nothing but rounding tells how much it varies; the mean is then 0 if it is
    itself a matter of rounding. The lines are over the last `span` steps, at the median of the curves.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    curves: int
    span: float


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation; None without values, not a number where a value is not finite."""
    if not values:
        return None
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, None, len(values))
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired_difference(values: Mapping[str, float], baseline: Mapping[str, float], level: float = LEVEL) -> Difference:
    """The difference `values - baseline`, paired by key; not a number, without a test, where one is not finite.

    Raises ValueError if the keys differ or there are none.
    """
    if not values or values.keys() != baseline.keys():
        raise ValueError(f"pairs need the same keys on both sides, got {list(values)} and {list(baseline)}")
    differences = [value - baseline[key] for key, value in values.items()]
    pairs = len(differences)
    if not all(map(math.isfinite, differences)):
        return Difference(math.nan, None, None, None, pairs, None, level)
    resolution = resolution_of((*values.values(), *baseline.values()))
    mean = statistics.fmean(differences)
    spread = statistics.stdev(differences) if pairs > 1 else 0.0
    base = abs(statistics.fmean(baseline.values()))
    if spread <= resolution:
        mean = mean if abs(mean) > resolution else 0.0
    relative = mean / base if base else None
    if spread <= resolution:
        return Difference(mean, None, None, None, pairs, None, level, relative)
    error, df = spread / math.sqrt(pairs), pairs - 1
    margin, p = error * _two_sided_quantile(df, level), _two_sided_p(mean / error, df)
    detectable = spread * detectable_effect(pairs, level)
    return Difference(mean, mean - margin, mean + margin, p, pairs, detectable, level, relative)


def independent_difference(
    values: Sequence[float], baseline: Sequence[float], level: float = LEVEL, *, trimmed: bool = False
) -> Difference:
    """The difference of the means of independent runs, from Welch's t-test (Biometrika 34, 1947).

    It is not a number, without a test, where a value is not finite.
    `trimmed`: of the means without the lowest and the highest fifth, from Yuen's test (Biometrika 61, 1974). `pairs` is
    the smaller number of runs. Raises ValueError if a side has none.
    """
    from scipy.stats import trim_mean, ttest_ind

    if not values or not baseline:
        raise ValueError(f"a difference needs runs on both sides, got {len(values)} and {len(baseline)}")
    if not all(map(math.isfinite, (*values, *baseline))):
        return Difference(math.nan, None, None, None, min(len(values), len(baseline)), None, level)
    share = TRIMMED if trimmed else 0.0
    ours, theirs = float(trim_mean(values, share)), float(trim_mean(baseline, share))
    mean, count, resolution = ours - theirs, min(len(values), len(baseline)), resolution_of((*values, *baseline))
    spreads = [statistics.stdev(side) if len(side) > 1 else 0.0 for side in (values, baseline)]
    if max(spreads) <= resolution:
        mean = mean if abs(mean) > resolution else 0.0
    relative = mean / abs(theirs) if theirs else None
    if count < 2 or max(spreads) <= resolution:
        return Difference(mean, None, None, None, count, None, level, relative)
    with warnings.catch_warnings():
        # Of a side whose runs are all equal.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        found: Any = ttest_ind(values, baseline, equal_var=False, trim=share)  # pyright: ignore[reportArgumentType]
    low, high = found.confidence_interval(1 - level)
    error = (high - low) / 2 / _two_sided_quantile(found.df, level)
    detectable = error * _detectable_shift(float(found.df), level)
    return Difference(mean, float(low), float(high), float(found.pvalue), count, detectable, level, relative)


def resolution_of(values: Iterable[float]) -> float:
    """The deviation up to which values of this size may be equal but for rounding."""
    return ROUNDING * max(map(abs, values), default=0.0)


@cache
def detectable_effect(pairs: int, level: float = LEVEL) -> float:
    """The true mean difference, in standard deviations of a difference, that a paired t-test finds with 80 % power.

    Solves the power function, a tail of the noncentral t distribution, for the effect size (Cohen, Statistical Power
    Analysis for the Behavioral Sciences, 1988, chapter 2). Raises ValueError below two pairs.
    """
    if pairs < 2:
        raise ValueError(f"a spread needs at least 2 pairs, got {pairs}")
    return _detectable_shift(pairs - 1, level) / math.sqrt(pairs)


@cache
def _detectable_shift(df: float, level: float) -> float:
    """The true difference, in standard errors of a difference, that a t-test finds with 80 % power."""
    from scipy.optimize import brentq
    from scipy.special import nctdtr

    critical = _two_sided_quantile(df, level)

    def missing_power(shift: float) -> float:
        # From a shift of 6 on, the tail on the wrong side is below 1e-9, and SciPy may return NaN for it.
        wrong_side = 1 - nctdtr(df, -shift, critical) if shift < 6 else 0.0
        return POWER - (1 - nctdtr(df, shift, critical)) - wrong_side

    return float(brentq(missing_power, 0.0, 1.5 * critical, xtol=1e-12))  # pyright: ignore[reportArgumentType]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for multiple comparisons, in the same order (Holm, Scand. J. Stat. 6, 1979)."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def holm_levels(p_values: Sequence[float]) -> list[float]:
    """The level at which Holm's method tests each p-value, in the same order.

    An interval with coverage 1 - this level excludes 0 exactly if the adjusted p-value is below LEVEL (Serlin, J. Exp.
    Educ. 61, 1993). No level is above LEVEL, so the coverage of each interval is at least 1 - LEVEL; their joint
    coverage may be lower.
    """
    levels, level, count = [LEVEL] * len(p_values), LEVEL, len(p_values)
    rejects = True
    for rank, place in enumerate(sorted(range(count), key=p_values.__getitem__)):
        if rejects:
            level, rejects = LEVEL / (count - rank), (count - rank) * p_values[place] < LEVEL
        levels[place] = level
    return levels


def speed_up(arrivals: Mapping[str, Arrival], baseline: Mapping[str, Arrival]) -> Speedup:
    """The ratio `baseline / arrivals` of steps to the target, paired by key, with a t interval of the logarithms.

    Raises ValueError if the keys differ or there are none.
    """
    if not arrivals or arrivals.keys() != baseline.keys():
        raise ValueError(f"pairs need the same keys on both sides, got {list(arrivals)} and {list(baseline)}")
    ours, theirs = ({key: math.log(one.steps) for key, one in side.items()} for side in (arrivals, baseline))
    return _speedup(list(arrivals.values()), list(baseline.values()), paired_difference(theirs, ours))


def independent_speed_up(arrivals: Sequence[Arrival], baseline: Sequence[Arrival]) -> Speedup:
    """The same ratio for independent runs, whose logarithms are compared by Welch's t-test."""
    ours, theirs = ([math.log(one.steps) for one in side] for side in (arrivals, baseline))
    return _speedup(arrivals, baseline, independent_difference(theirs, ours))


def _speedup(arrivals: Sequence[Arrival], baseline: Sequence[Arrival], found: Difference) -> Speedup:
    """A speed-up from the difference of the logarithms of its steps."""
    missed_baseline, missed = (sum(not one.reached for one in side) for side in (baseline, arrivals))
    if missed_baseline and missed:
        return Speedup(None, None, None, found.pairs, missed_baseline, missed)
    ratio = math.exp(found.mean)
    if missed_baseline or missed:
        bound = "at least" if missed_baseline else "at most"
        return Speedup(ratio, None, None, found.pairs, missed_baseline, missed, bound)
    low, high = (None if x is None else math.exp(x) for x in (found.low, found.high))
    return Speedup(ratio, low, high, found.pairs, 0, 0)


def end_slope(curves: Iterable[Sequence[tuple[float, float]]]) -> Slope | None:
    """The slope at the end of curves of (step, value): of least-squares lines through the last tenth of each.

    A line takes at least three points; None if no curve has that many. The interval and the p-value are those of a
    t-test of the lines' slopes, or with a single curve of the regression.
    """
    from scipy.stats import linregress

    ends = []
    for curve in curves:
        steps = [step for step, _ in curve]
        first = steps[-1] - END_SHARE * (steps[-1] - steps[0]) if steps else 0.0
        end = curve[min(len(curve) - END_POINTS, sum(step < first for step in steps)) :] if len(curve) > 2 else []
        if len({step for step, _ in end}) >= END_POINTS:
            ends.append(end)
    if not ends:
        return None
    lines: list[Any] = [linregress([step for step, _ in end], [value for _, value in end]) for end in ends]
    slopes, span = [float(line.slope) for line in lines], statistics.median(end[-1][0] - end[0][0] for end in ends)
    mean = statistics.fmean(slopes)
    if len(lines) == 1:
        error, df = float(lines[0].stderr), len(ends[0]) - 2
    else:
        error, df = statistics.stdev(slopes) / math.sqrt(len(slopes)), len(slopes) - 1
    resolution = resolution_of(value for end in ends for _, value in end) / span
    if error <= resolution:
        return Slope(mean if abs(mean) > resolution else 0.0, None, None, None, len(slopes), span)
    margin = error * _two_sided_quantile(df, LEVEL)
    return Slope(mean, mean - margin, mean + margin, _two_sided_p(mean / error, df), len(slopes), span)


def _two_sided_quantile(df: float, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - level / 2))


def _two_sided_p(t: float, df: int) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))
