"""Val accuracy and val loss of a sweep's groups: their course over the steps, and each seed's value at the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.comparison import Group, group_name
from onecycle_sweeps.report.outcomes import Outcome, Series
from onecycle_sweeps.state import DIVERGED, FINISHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
ROWS_SHOWN = 30
# A loss that spans more than this factor is shown on a logarithmic axis.
LINEAR_UP_TO = 10


@dataclass(frozen=True)
class Measure:
    """What a figure shows of each trial: `values * scale`, under a title and an axis label in words."""

    field: Literal["val_accuracy", "val_loss"]
    title: str
    label: str
    scale: float
    digits: str
    may_be_logarithmic: bool

    def of(self, outcome: Outcome) -> tuple[Floats, Floats]:
        """The steps and values of a trial's evaluations; what is not finite is not a number."""
        found: Series = getattr(outcome, self.field)
        values = self.scale * np.asarray(found.values, dtype=float)
        return np.asarray(found.steps, dtype=float), np.where(np.isfinite(values), values, np.nan)


ACCURACY = Measure("val_accuracy", "Validation accuracy", "val accuracy (%)", 100.0, ".2f", False)
LOSS = Measure("val_loss", "Validation loss", "val loss", 1.0, "#.3g", True)


@dataclass(frozen=True)
class Band:
    """A group's mean over its seeds at each step, between the lowest and the highest seed."""

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats


def draw_val(
    ranked: Mapping[Group, Sequence[Outcome]], styles: Mapping[Group, canvas.Style], measure: Measure, path: Path
) -> list[Path]:
    """The figure of one measure for groups ordered best first; nothing where no trial was evaluated or diverged."""
    bands = {group: band for group, members in ranked.items() if (band := _band(members, measure))}
    diverged = {group: [o for o in members if o.status == DIVERGED] for group, members in ranked.items()}
    if not bands and not any(diverged.values()):
        return []
    shown = dict(list(ranked.items())[:ROWS_SHOWN])
    course, end = canvas.axes(2, width=11, height=max(4.0, 1.4 + 0.26 * len(shown)), ratios=(3, 2))
    _frame(course, bands.values(), measure)
    for group, band in reversed(bands.items()):
        course.plot(band.steps, band.mean, **styles[group].line())
        if styles[group].highlighted:
            course.fill_between(band.steps, band.low, band.high, color=styles[group].colour, alpha=0.15, linewidth=0)
    for group, some in diverged.items():
        for outcome in some:
            _draw_diverged(course, outcome, measure, styles[group])
    several = any(len(members) > 1 for members in ranked.values())
    legend = "line: mean, band: lowest to highest seed" if several else "one seed each"
    crosses = ", x: diverged" if any(diverged.values()) else ""
    course.set(xlabel=canvas.STEP, ylabel=measure.label)
    course.set_title(f"{measure.title}\n{legend}{crosses}", fontsize=11)
    _draw_ends(end, shown, styles, measure)
    best = f"best {len(shown)} of {len(ranked)}, " if len(shown) < len(ranked) else ""
    legend = "dot: a seed, bar and number: mean" if several else "one seed each"
    end.set(xlabel=measure.label)
    end.set_title(f"{measure.title} at the end\n{best}{legend}", fontsize=11)
    return [canvas.save(course, path)]


def _band(members: Sequence[Outcome], measure: Measure) -> Band | None:
    """Over the finished seeds; where none has finished, over those under way, as far as all of them have come."""
    finished = [o for o in members if o.finished]
    runs = [dict(zip(*measure.of(o), strict=True)) for o in finished or members if o.status != DIVERGED]
    runs = [run for run in runs if run]
    if not runs:
        return None
    steps = sorted(set.intersection(*map(set, runs)))
    values = np.array([[run[step] for step in steps] for run in runs])
    return Band(np.array(steps), values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _frame(course: "Axes", bands: Iterable[Band], measure: Measure) -> None:
    """Limits that the bands set; a diverged trial does not."""
    values = np.concatenate([np.empty(0), *(edge for band in bands for edge in (band.low, band.high))])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    if measure.may_be_logarithmic and high > LINEAR_UP_TO * low > 0:
        canvas.logarithmic(course)
        course.set_ylim(low / 1.15, high * 1.15)
    else:
        margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
        course.set_ylim(low - margin, high + margin)


def _draw_diverged(course: "Axes", outcome: Outcome, measure: Measure, style: canvas.Style) -> None:
    """The course of a diverged trial, and a cross where it ended, at the frame's edge if it ended beyond it."""
    steps, values = measure.of(outcome)
    inside = course.get_ylim()
    worst = inside[0] if measure is ACCURACY else inside[1]
    last = values[-1] if len(values) and np.isfinite(values[-1]) else worst
    stop = max(outcome.result.get("steps", 1) - 1, 0)
    ends = np.append(steps, stop), np.append(values, np.clip(last, *inside))
    course.plot(*ends, color=style.colour, linewidth=0.8, linestyle=":", zorder=2)
    course.plot(ends[0][-1:], ends[1][-1:], "x", color=style.colour, markersize=7, clip_on=False, zorder=4)


def _draw_ends(
    end: "Axes",
    shown: Mapping[Group, Sequence[Outcome]],
    styles: Mapping[Group, canvas.Style],
    measure: Measure,
) -> None:
    """A row per group: a dot per finished seed, their mean as a bar and in figures, the group's name beside it."""
    end.grid(False, axis="y")
    end.set_ylim(len(shown) - 0.4, -0.6)
    end.set_yticks(range(len(shown)), [_row_name(group, members) for group, members in shown.items()], fontsize=9)
    end.tick_params(axis="y", length=0)
    end.locator_params(axis="x", nbins=5)
    for row, (group, members) in enumerate(shown.items()):
        style = styles[group]
        end.get_yticklabels()[row].set_color(style.colour if style.highlighted else "#606060")
        end.axhline(row, alpha=0.5, **style.line() | {"linewidth": 1, "zorder": 1})
        finals = np.array([values[-1] for o in members if o.finished and len(values := measure.of(o)[1])])
        finals = finals[np.isfinite(finals)]
        if len(finals):
            mean = finals.mean()
            end.plot(finals, np.full(len(finals), row), "o", color=style.colour, markersize=5, alpha=0.75)
            end.plot([mean], [row], "|", color=style.colour, markersize=15, markeredgewidth=2)
            where = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9, "annotation_clip": False}
            end.annotate(f"{mean:{measure.digits}}", (1.02, row), **where)


def _row_name(group: Group, members: Sequence[Outcome]) -> str:
    diverged, finished = (sum(o.status == status for o in members) for status in (DIVERGED, FINISHED))
    if diverged:
        return canvas.plain(f"{group_name(group)} ({diverged} of {len(members)} diverged)")
    short = f" ({finished} of {len(members)} finished)" if finished < len(members) else ""
    return canvas.plain(group_name(group)) + short
