"""Val accuracy and val loss of a sweep's groups: their course in training, and each seed's value at the end."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.groups import Group, group_name
from onecycle_sweeps.report.shown import Shown
from onecycle_sweeps.report.val_measures import ACCURACY, AXIS_LABELS, STEPS, Against, Band, Measure, band
from onecycle_sweeps.trial_folder import DIVERGED, FINISHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A loss that spans more than this factor is shown on a logarithmic axis.
LINEAR_UP_TO = 10
NAME_WIDTH = 30


def has_any(groups: Shown, measure: Measure) -> bool:
    """Whether there is anything to draw: a trial that was evaluated, or one that diverged."""
    trained = [o for members in groups.members.values() for o in members]
    return any(o.status == DIVERGED or len(measure.of(o)[0]) for o in trained)


def draw_course(course: "Axes", groups: Shown, measure: Measure, against: Against) -> None:
    """Each group's mean over its evaluations, the groups in colour between their lowest and highest seed."""
    bands = {group: found for group, members in groups.members.items() if (found := band(members, measure))}
    _frame(course, bands.values(), measure)
    for group, one in reversed(bands.items()):
        style, across = groups.styles[group], one.across(against)
        course.plot(across, one.mean, **style.line())
        if style.highlighted:
            course.fill_between(across, one.low, one.high, color=style.colour, alpha=0.15, linewidth=0)
    for group, members in groups.members.items():
        for outcome in members:
            if outcome.status == DIVERGED:
                _draw_diverged(course, outcome, measure, against, groups.styles[group])
    course.locator_params(axis="x", nbins=7, integer=against == STEPS, prune="upper")
    course.set(xlabel=AXIS_LABELS[against], ylabel=measure.label)


def course_words(groups: Shown) -> str:
    """How to read the course."""
    words = "line: mean, band: lowest to highest seed" if groups.several_seeds else "one seed each"
    diverged = any(o.status == DIVERGED for members in groups.members.values() for o in members)
    return words + (", x: diverged" if diverged else "")


def draw_ends(end: "Axes", groups: Shown, measure: Measure, most: int) -> None:
    """A row for each of the best groups: a dot per finished seed, their mean as a bar and in figures, the name."""
    rows = list(groups.members.items())[:most]
    end.grid(False, axis="y")
    end.set_ylim(len(rows) - 0.4, -0.6)
    end.set_yticks(range(len(rows)), [row_name(group, members) for group, members in rows], fontsize=9)
    end.tick_params(axis="y", length=0)
    end.locator_params(axis="x", nbins=5)
    for row, (group, members) in enumerate(rows):
        style = groups.styles[group]
        end.get_yticklabels()[row].set_color("black" if style.highlighted else canvas.MUTED)
        end.axhline(row, alpha=0.5, **style.line() | {"linewidth": 1, "zorder": 1})
        finals = np.array([values[-1] for o in members if o.finished and len(values := measure.of(o)[1])])
        finals = finals[np.isfinite(finals)]
        if len(finals):
            mean = finals.mean()
            end.plot(finals, np.full(len(finals), row), "o", color=style.colour, markersize=5, alpha=0.75)
            end.plot([mean], [row], "|", color=style.colour, markersize=15, markeredgewidth=2)
            where = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9, "annotation_clip": False}
            end.annotate(f"{mean:{measure.digits}}", (1.02, row), **where)
    end.set(xlabel=measure.label)


def ends_words(groups: Shown, most: int) -> str:
    """How to read the values at the end."""
    best = f"best {most} of {len(groups.members)}, " if most < len(groups.members) else ""
    return best + ("dot: a seed at the end, bar and number: mean" if groups.several_seeds else "one seed each")


def row_name(group: Group, members: Sequence[Outcome]) -> str:
    """A group's name, what of it has not finished, on as many lines as its length asks for."""
    diverged, finished = (sum(o.status == status for o in members) for status in (DIVERGED, FINISHED))
    counted = f" ({finished} of {len(members)} finished)" if finished < len(members) else ""
    counted = f" ({diverged} of {len(members)} diverged)" if diverged else counted
    return canvas.plain("\n".join(textwrap.wrap(group_name(group) + counted, NAME_WIDTH)))


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


def _draw_diverged(course: "Axes", outcome: Outcome, measure: Measure, against: Against, style: canvas.Style) -> None:
    """The course of a diverged trial, and a cross where it ended, at the frame's edge if it ended beyond it."""
    across, values = measure.of(outcome)
    inside = course.get_ylim()
    worst = inside[0] if measure is ACCURACY else inside[1]
    last = values[-1] if len(values) and np.isfinite(values[-1]) else worst
    stop = max(outcome.result.get("steps", 1) - 1, 0)
    if against != STEPS:
        across = np.array([outcome.clock.get(int(step), np.nan) for step in across])
        stop = outcome.metrics.get("seconds", 0.0)
    ends = np.append(across, stop), np.append(values, np.clip(last, *inside))
    course.plot(*ends, color=style.colour, linewidth=0.8, linestyle=":", zorder=2)
    course.plot(ends[0][-1:], ends[1][-1:], "x", color=style.colour, markersize=7, clip_on=False, zorder=4)
