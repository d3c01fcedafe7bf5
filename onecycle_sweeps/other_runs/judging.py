"""What runs from elsewhere show: each group against a baseline, its steps to a target, and what a gain is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onecycle_sweeps.other_runs.logs import Goal, LoggedRun, Refused, RunsOfMeasure
from onecycle_sweeps.outcome import Arrival
from onecycle_sweeps.report.statistics import (
    LEVEL,
    TRIMMED,
    Difference,
    Slope,
    Speedup,
    end_slope,
    holm,
    holm_levels,
    independent_difference,
    independent_speed_up,
    paired_difference,
    resolution_of,
    speed_up,
)

Kind = Literal["better", "worse", "no worse", "undecided"]


@dataclass(frozen=True)
class Worth:
    """How many steps of the baseline a difference is worth: positive if it is a gain, negative if it is a loss.

    It is the difference divided by the `slope` at the end of the baseline's curves. `low` and `high` are the
    difference's interval, divided likewise. All three are None if the slope is not a significant gain.
    """

    slope: Slope
    steps: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RunClaim:
    """A group against the baseline: `difference` is group minus baseline in the measure's units, whatever the goal.

    `low`, `high` and `p_adjusted` are Holm's over all claims; they are None if there are too few runs. `detectable` is
    the minimum detectable difference, with 80 % power. `speedup` is None without a target, and `worth` without curves.
    """

    name: str
    baseline: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    kind: Kind
    measure: str
    detectable: float | None
    speedup: Speedup | None = None
    worth: Worth | None = None


def judged(
    tables: Sequence[RunsOfMeasure],
    baseline: str | None = None,
    margin: float | None = None,
    target: float | None = None,
) -> list[RunClaim]:
    """Compare each group with the baseline, by default the first, by each measure.

    Runs are paired if they have seeds, and otherwise compared by Welch's test, or by Yuen's where a run lies far out.
    Intervals and two-sided p-values are adjusted by Holm's method over all claims. With a margin, a group is no worse
    if a one-sided test, adjusted likewise, shows that it is worse by less than the margin.
    Raises Refused for fewer than two groups, for a baseline that is not among them, and for a target without curves.
    """
    pairs = [(one, name, first) for one in tables for first in [_first(one, baseline)] for name in one.groups]
    pairs = [(one, name, first) for one, name, first in pairs if name != first]
    p_values = [_difference(one, name, first).p for one, name, first in pairs]
    known = [p for p in p_values if p is not None]
    adjusted = iter(zip(holm(known), holm_levels(known), strict=True))
    harms = [None if margin is None else _harm(one, name, first, margin) for one, name, first in pairs]
    no_worse = [None] * len(pairs) if margin is None else [p < LEVEL for p in holm([p or 0.0 for p in harms])]
    claims = []
    for (one, name, first), p, within in zip(pairs, p_values, no_worse, strict=True):
        p_adjusted, level = next(adjusted) if p is not None else (None, LEVEL)
        shown = _difference(one, name, first, level)
        claims.append(
            RunClaim(
                name=name,
                baseline=first,
                difference=shown.mean,
                low=shown.low,
                high=shown.high,
                p=p,
                p_adjusted=p_adjusted,
                kind=_kind(shown.mean, p_adjusted, one.goal, within),
                measure=one.measure,
                detectable=shown.detectable,
                speedup=None if target is None else _speedup(one, name, first, target),
                worth=_worth(one, first, shown),
            )
        )
    return claims


def arrival(one: RunsOfMeasure, run: LoggedRun, target: float) -> Arrival:
    """At which step a run first reached the target; its last step if it never did."""
    reaches = one.as_measure.reaches
    steps = next((step for step, value in run.curve if reaches(value, target)), None)
    return Arrival(run.curve[-1][0] if steps is None else steps, reached=steps is not None)


def steps_worth(claim: RunClaim) -> float | None:
    """How many steps a difference that is shown is worth; None if it is not shown, or cannot be told."""
    return claim.worth.steps if claim.worth and claim.kind in ("better", "worse") else None


def mean_of(values: Sequence[float], *, trimmed: bool) -> float:
    """The mean, or that without the lowest and the highest fifth."""
    from scipy.stats import trim_mean

    return float(trim_mean(values, TRIMMED if trimmed else 0.0))


def _first(one: RunsOfMeasure, baseline: str | None) -> str:
    names = list(one.groups)
    if len(names) < 2:
        raise Refused(f"there must be at least 2 groups to compare, got {', '.join(names) or 'none'}: use --group")
    if baseline is not None and baseline not in names:
        raise Refused(f"--baseline {baseline} is not among the groups {', '.join(names)}")
    return baseline or names[0]


def _difference(one: RunsOfMeasure, name: str, first: str, level: float = LEVEL, moved: float = 0.0) -> Difference:
    """A group minus the baseline, after `moved` was added to its values."""
    ours, theirs = one.groups[name], one.groups[first]
    if one.paired:
        values, base = ({str(run.seed): run.value for run in side} for side in (ours, theirs))
        shared = [seed for seed in values if seed in base]
        if not shared:
            raise Refused(f"{name} and {first} have no seed in common: leave out --seed")
        return paired_difference({s: values[s] + moved for s in shared}, {s: base[s] for s in shared}, level)
    values, base = [run.value + moved for run in ours], [run.value for run in theirs]
    return independent_difference(values, base, level, trimmed=lies_far_out(values) or lies_far_out(base))


def _harm(one: RunsOfMeasure, name: str, first: str, margin: float) -> float:
    """The one-sided p-value of the hypothesis that a group is worse by the margin or more."""
    sign = 1 if one.goal == "max" else -1
    found = _difference(one, name, first, moved=sign * margin)
    two_sided = 1.0 if found.p is None else found.p
    return two_sided / 2 if sign * found.mean > 0 else 1 - two_sided / 2


def _kind(difference: float, p: float | None, goal: Goal, no_worse: bool | None) -> Kind:
    """What a difference shows; `no_worse` is whether it was shown to be within the margin, None without a margin."""
    is_shown, is_gain = p is not None and p < LEVEL, (difference > 0) == (goal == "max")
    if is_shown and is_gain:
        return "better"
    if no_worse:
        return "no worse"
    return "worse" if is_shown else "undecided"


def lies_far_out(values: Sequence[float]) -> bool:
    """Whether one of at least 8 values is more than 6 robust standard deviations from their median."""
    import numpy as np

    if len(values) < 8:
        return False
    distances = np.abs(np.asarray(values) - np.median(values))
    typical = np.median(distances)
    return bool(typical > resolution_of(values) and distances.max() > 6 * typical / 0.6745)


def _speedup(one: RunsOfMeasure, name: str, first: str, target: float) -> Speedup | None:
    """The speed-up to the target over the runs with curves; None where a run reached it before its first step."""
    ours, theirs = ([run for run in one.groups[side] if run.curve] for side in (name, first))
    if not ours or not theirs:
        raise Refused(f"--target needs values of {one.measure} by step: name the column of steps with --step")
    arrivals, base = ([arrival(one, run, target) for run in side] for side in (ours, theirs))
    if any(found.steps <= 0 for found in (*arrivals, *base)):
        return None
    if not one.paired:
        return independent_speed_up(arrivals, base)
    by_seed, base_by_seed = (
        {str(run.seed): found for run, found in zip(runs, side, strict=True)}
        for runs, side in ((ours, arrivals), (theirs, base))
    )
    shared = by_seed.keys() & base_by_seed.keys()
    return speed_up(
        {s: by_seed[s] for s in by_seed if s in shared}, {s: base_by_seed[s] for s in by_seed if s in shared}
    )


def _worth(one: RunsOfMeasure, first: str, difference: Difference) -> Worth | None:
    """What a difference is worth in steps of the baseline; None without curves."""
    if not one.has_curves or (slope := end_slope(run.curve for run in one.groups[first])) is None:
        return None
    gains = slope.mean > 0 if one.goal == "max" else slope.mean < 0
    if not gains or (slope.p is not None and slope.p >= LEVEL):
        return Worth(slope, None, None, None)
    bounds = [value / slope.mean for value in (difference.low, difference.high) if value is not None]
    low, high = sorted(bounds) if bounds else (None, None)
    return Worth(slope, difference.mean / slope.mean, low, high)
