"""The headline measure at the end: differences between families, and the score over the rate and over the epochs."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps.measures import MINUS, Measure
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Panel, Plot, Style
from onecycle_sweeps.report.claims import Claim
from onecycle_sweeps.report.courses import ROWS_SHOWN, named
from onecycle_sweeps.report.figures import ShownGroups
from onecycle_sweeps.report.groups import Family, compared_metric, families, group_name, headline_of, ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A score is drawn at the edge if it is further from the best than this many times the distance of the median score.
FAR = 3.0
SETTINGS_SHOWN = 6
# Inches of the figure of differences: without names, with them, and for each letter of a name.
DIFFERENCE_WIDTH, MOST_WIDTH, WIDTH_OF_LETTER = 4.6, 7.0, 0.07
NAME_WIDTH = 42
AXIS_WIDTH = 52
INTERVALS = "Differences and their intervals"
Budgets = Mapping[str, Mapping[float, Sequence[float]]]


# Differences between families, with their intervals.


@dataclass(frozen=True)
class IntervalRow:
    """A difference in the unit in which it is shown, and its interval if there is one."""

    name: str
    mean: float
    low: float | None
    high: float | None
    style: Style


def differences(claims: Sequence[Claim], found: Sequence[Family], groups: ShownGroups, metric: str) -> Plot | None:
    """A row for each claim that has a difference; None if none has."""
    styles = {(family.name, group_name(family.setting)): groups.styles[family.picked] for family in found}
    order = {family.name: place for place, family in enumerate(ranked(found))}
    known = [claim for claim in claims if claim.difference and math.isfinite(claim.difference.mean)]
    if not known:
        return None
    # In the order of the table: first the claims against the baseline, best first, then the others.
    ordered = sorted(known, key=lambda claim: (claim.baseline != known[0].baseline, order.get(claim.name, len(order))))
    shown = ordered[:ROWS_SHOWN]
    headline, baseline = shown[0].headline, shown[0].baseline
    better = "right of 0: better" if headline.goal == "max" else "left of 0: better"
    pairs = sorted({claim.difference.pairs for claim in shown if claim.difference})
    seeds = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    adjusted = " after Holm's adjustment" if max(claim.tested for claim in shown) > 1 else ""
    has_intervals = any(claim.difference and claim.difference.low is not None for claim in shown)
    bar = f"; bar: its 95 % interval{adjusted}" if has_intervals else ""
    words = (
        f"Dot: mean difference over {seeds} paired seed{'s' * (pairs != [1])}{bar}; {better}.",
        *(["Rows with two names: the first minus the second."] if any(c.baseline != baseline for c in shown) else []),
        *([f"The first {ROWS_SHOWN} of {len(known)}."] if len(known) > ROWS_SHOWN else []),
    )
    names = [_named(claim, baseline) for claim in shown]
    rows = [
        IntervalRow(
            name,
            headline.shown(one.mean),
            None if one.low is None else headline.shown(one.low),
            None if one.high is None else headline.shown(one.high),
            styles[claim.name, claim.budget or ""],
        )
        for name, claim in zip(names, shown, strict=True)
        if (one := claim.difference)
    ]
    unit = f"{headline.name} (points)" if headline.is_fraction else headline.name
    split = "test" if metric == headline.final_test else "val"
    panel = intervals_panel("differences", rows, f"{split} {unit}, minus that of {baseline}", words)
    return Plot("differences", INTERVALS, (panel,))


def _named(claim: Claim, baseline: str) -> str:
    """The family that a claim is on, and also the other one if that is not the baseline that the axis names."""
    where = f" ({claim.budget})" if claim.budget else ""
    minus = f" {MINUS} {claim.baseline}" if claim.baseline != baseline else ""
    return "\n".join(textwrap.wrap(f"{claim.name}{minus}{where}", NAME_WIDTH))


def intervals_panel(name: str, rows: Sequence[IntervalRow], label: str, words: Sequence[str]) -> Panel:
    """A panel with a row for each difference, whose size fits their names."""
    names = [row.name for row in rows]
    longest = max((len(line) for one in names for line in one.split("\n")), default=0)
    return Panel(
        name,
        INTERVALS,
        partial(draw_intervals, rows=rows, label=label),
        tuple(words),
        width=min(MOST_WIDTH, DIFFERENCE_WIDTH + WIDTH_OF_LETTER * longest),
        height=0.75 + canvas.height_of_rows(names),
    )


def draw_intervals(axes: "Axes", rows: Sequence[IntervalRow], label: str) -> None:
    """A row for each difference, as a dot in its interval, around a line at zero."""
    axes.grid(False, axis="y")
    axes.axvline(0, color=canvas.BLACK, linewidth=1, zorder=1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [canvas.plain(one.name) for one in rows], fontsize=9)
    axes.tick_params(axis="y", length=0)
    for row, one in enumerate(rows):
        mark: dict[str, Any] = {"color": one.style.colour, "zorder": 3}
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [row, row], lw=2, **mark)
            for end in (one.low, one.high):
                axes.plot([end], [row], "|", markersize=9, markeredgewidth=2, **mark)
        axes.plot([one.mean], [row], "o", markersize=6, **mark)
    axes.set_xlabel(canvas.plain("\n".join(textwrap.wrap(label, AXIS_WIDTH))))
    low, high = axes.get_xlim()
    if not high - low > 0:
        axes.set_xlim(low - 1, high + 1)


# The score over the rate, where several were tried.


def over_rates(found: Sequence[Family], groups: ShownGroups, suggested: float | None) -> Plot | None:
    """A panel for each setting in which families tried several rates, with a line for each family; None if none did.

    `suggested` is the rate of the range test that all share.
    """
    tuned = [family for family in found if len(_scores(family, groups.measures[0])) > 1]
    settings = list(dict.fromkeys(family.setting for family in tuned))[:SETTINGS_SHOWN]
    if not settings:
        return None
    headline = groups.measures[0]
    known = all(math.isfinite(v) for family in tuned for one in _scores(family, headline).values() for v in one)
    words = (
        f"Line: mean final val {headline.name} of a policy at each rate; dots: its seeds; ring: the rate that was "
        "picked.",
        *([] if known else ["Cross: diverged, not finite (neither is in the mean), or beyond the axis."]),
        *(["Dotted: the rate that the range test suggests."] if suggested else []),
    )
    lines = [family for family in tuned if groups.styles[family.picked].highlighted]
    panels = tuple(
        Panel(
            f"rates-{number}",
            f"Final val {headline.name} over max_lr",
            partial(
                _draw_rates, found=[one for one in tuned if one.setting == setting], groups=groups, suggested=suggested
            ),
            words,
            title=group_name(setting),
            width=canvas.PANEL_WIDTH if len(settings) > 1 else 6.5,
            height=canvas.PANEL_HEIGHT if len(settings) > 1 else 3.6,
            has_values=True,
        )
        for number, setting in enumerate(settings)
    )
    legend: dict[str, Style] = {}
    for family in lines:
        legend.setdefault(family.name, groups.styles[family.picked])
    return Plot("score_over_max_lr", "Score over max_lr", panels, legend=tuple(legend.items()))


def _scores(family: Family, headline: Measure) -> dict[float, list[float]]:
    """The final values of the seeds at each rate, as shown; NaN for one that diverged."""
    scores: dict[float, list[float]] = {}
    for members in family.rates.values():
        for outcome in members:
            if outcome.ended and outcome.max_lr is not None:
                value = outcome.final if outcome.finished and outcome.final is not None else math.nan
                scores.setdefault(outcome.max_lr, []).append(headline.shown(value))
    return dict(sorted(scores.items()))


def _draw_rates(axes: "Axes", found: Sequence[Family], groups: ShownGroups, suggested: float | None) -> None:
    headline = groups.measures[0]
    scores = [_scores(family, headline) for family in found]
    means = {rate: [_mean(one[rate]) for one in scores if rate in one] for one in scores for rate in one}
    low, high = _limits(headline, [mean for values in means.values() for mean in values], scores)
    worst = low if headline.goal == "max" else high
    axes.set_xscale("log")
    for family, one in zip(found, scores, strict=True):
        style = groups.styles[family.picked]
        rates = list(one)
        line = np.array([_mean(one[rate]) for rate in rates])
        axes.plot(rates, np.where(np.isfinite(line), line, np.nan), **style.line())
        for rate, values in one.items():
            known = [value for value in values if math.isfinite(value) and low <= value <= high]
            look: dict[str, Any] = {"color": style.colour, "gid": style.gid}
            axes.plot([rate] * len(known), known, "o", markersize=3.5, alpha=0.6, **look)
            if len(known) < len(values):
                axes.plot([rate], [worst], "x", markersize=7, clip_on=False, zorder=4, **look)
        picked = {o.max_lr for o in family.members if o.max_lr is not None}
        if len(picked) == 1 and math.isfinite(best := _mean(one.get(rate := picked.pop(), []))):
            ring: dict[str, Any] = {"markerfacecolor": "none", "markersize": 11, "markeredgewidth": 1.8}
            axes.plot([rate], [best], "o", color=style.colour, zorder=5, gid=style.gid, **ring)
    if suggested and min(means) <= suggested <= max(means):
        axes.axvline(suggested, color=canvas.MUTED, linewidth=1.2, linestyle=":", zorder=0)
    axes.set_ylim(low, high)
    axes.set(xlabel="max_lr", ylabel=f"final val {headline.label}")


def _mean(values: Sequence[float]) -> float:
    """The mean of the values that are finite; NaN if none is."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _limits(
    headline: Measure, means: Sequence[float], scores: Sequence[Mapping[float, list[float]]]
) -> tuple[float, float]:
    """Limits that show the best rates in detail, without regard to scores that are far behind."""
    values = [v for one in scores for found in one.values() for v in found if math.isfinite(v)]
    known = [mean for mean in means if math.isfinite(mean)]
    if not known:
        return 0.0, 1.0
    best = headline.best(values)
    room = FAR * abs(float(np.median(known)) - best) or 0.1 * abs(best) or 1.0
    low, high = (
        (max(min(values), best - room), best) if headline.goal == "max" else (best, min(max(values), best + room))
    )
    margin = 0.07 * (high - low) or 0.05 * abs(best) or 1.0
    return low - margin, high + margin


# The score over the epochs of the whole training.


def budgets_of(outcomes: Sequence[Outcome]) -> Budgets:
    """For each policy and data set, the values of the finished seeds by epochs, each at the rate picked there."""
    metric, headline = compared_metric(outcomes), headline_of(outcomes)
    found: dict[str, dict[float, Sequence[float]]] = {}
    for family in families(outcomes):
        epochs = dict(family.setting).get("epochs", "")
        values = [headline.shown(o.metrics[metric]) for o in family.members if o.finished and metric in o.metrics]
        if epochs.isdecimal() and values:
            rest = group_name(tuple(item for item in family.setting if item[0] != "epochs"))
            found.setdefault(f"{family.name} {rest}".strip(), {})[float(epochs)] = values
    return {name: dict(sorted(budgets.items())) for name, budgets in found.items()}


def over_budgets(outcomes: Sequence[Outcome]) -> Plot | None:
    """The headline measure against epochs; None unless trainings of two lengths have finished."""
    budgets = budgets_of(outcomes)
    if len({epochs for line in budgets.values() for epochs in line}) < 2:
        return None
    headline = headline_of(outcomes)
    split = "test" if compared_metric(outcomes) == headline.final_test else "val"
    words = "Line: mean; dot: a seed. Each point is a training of its own, at the rate picked for its length."
    title = f"{headline.name.capitalize()} against budget"
    draw = partial(draw_budgets, budgets=budgets, label=f"final {split} {headline.label}")
    styles = dict(zip(budgets, canvas.styles(len(budgets)), strict=True))
    panel = Panel("budgets", title, draw, (words,), width=6.5, height=3.6)
    return Plot(f"{headline.name}_by_budget", title, (panel,), named(styles))


def draw_budgets(axes: "Axes", budgets: Budgets, label: str) -> None:
    """A line per policy over the epochs and a dot per seed; policies are shifted a little to tell the dots apart."""
    epochs = sorted({budget for line in budgets.values() for budget in line})
    shifts = 2 ** (0.04 * (np.arange(len(budgets)) - (len(budgets) - 1) / 2))
    for line, style, shift in zip(budgets.values(), canvas.styles(len(budgets)), shifts, strict=True):
        places = [shift * budget for budget in line]
        means = [float(np.mean(values)) for values in line.values()]
        axes.plot(places, means, **style.line())
        mark: dict[str, Any] = {"color": style.colour, "gid": style.gid}
        axes.plot(places, means, "_", markersize=11, markeredgewidth=2, zorder=4, **mark)
        for place, values in zip(places, line.values(), strict=True):
            axes.plot([place] * len(values), values, "o", markersize=4.5, alpha=0.6, zorder=3, **mark)
    axes.set_xscale("log", base=2)
    axes.set_xticks(epochs, [f"{one:g}" for one in epochs])
    axes.minorticks_off()
    axes.set(xlabel="epochs of the whole training", ylabel=label)
