"""A measure in the course of training: against steps, against seconds, and each run's value at the end."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onecycle_sweeps.measures import Measure, four_digits
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Panel, Plot, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
Against = Literal["steps", "seconds"]
# Losses whose values differ by more than this factor are shown on a logarithmic axis.
LINEAR_LOSSES = 10
ROWS_SHOWN, NAME_WIDTH = 30, 30
# Runs are drawn one by one if there are at most this many in a group, and in all groups; otherwise as a band.
RUNS_SHOWN, LINES_SHOWN = 5, 24
SECONDS_WORDS = "Seconds are those of the training loop with its evaluations."


@dataclass(frozen=True)
class RunCurve:
    """One run's values of a measure in the unit in which they are shown, with a value per evaluation.

    `seconds` are those of training before each; what is not known is NaN. `diverged_at` is the step and the seconds at
    which a run that diverged ended.
    """

    steps: Floats
    values: Floats
    seconds: Floats
    finished: bool = True
    diverged_at: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Band:
    """A group's mean over its runs at each evaluation; `runs` has a row for each of them.

    `seconds` is the mean over the runs of the training time before each evaluation.
    """

    steps: Floats
    seconds: Floats
    mean: Floats
    runs: Floats

    def since(self, step: float) -> "_Band":
        """The band from `step` on, which is at most the last step."""
        end = self.steps >= step
        return _Band(self.steps[end], self.seconds[end], self.mean[end], self.runs[:, end])


@dataclass(frozen=True)
class CourseFigure:
    """The figure of one measure: `curves` has the runs of each group, best group first; `of` is the word for a run.

    `label` and `step_label` name the axes. Without `has_steps` only the ends are drawn; with a `zoom` a further panel
    shows this last share of each group's steps.
    """

    name: str
    title: str
    label: str
    measure: Measure
    curves: Mapping[str, Sequence[RunCurve]]
    styles: Mapping[str, Style]
    legend: tuple[tuple[str, Style], ...]
    of: str = "seed"
    step_label: str = canvas.STEP
    has_steps: bool = True
    zoom: float | None = None
    steps_per_epoch: int | None = None

    @property
    def has_data(self) -> bool:
        """Whether a run was evaluated or diverged."""
        return any(len(one.steps) or one.diverged_at for runs in self.curves.values() for one in runs)

    def figure(self) -> Plot:
        """Panels against steps, against seconds where they are known, and of the ends."""
        runs = [one for members in self.curves.values() for one in members]
        several = any(len(members) > 1 for members in self.curves.values())
        rows = list(self.curves.items())[:ROWS_SHOWN]
        best = f"The best {ROWS_SHOWN} of {len(self.curves)}. " if len(self.curves) > ROWS_SHOWN else ""
        dots = f"Dot: a {self.of} at the end; bar and number: mean." if several else f"One {self.of} each, at the end."
        stem = self.name.replace("_", "-")
        against: list[Against] = ["steps"] if self.has_steps else []
        if self.has_steps and any(np.isfinite(one.seconds).any() for one in runs):
            against.append("seconds")
        panels = [
            Panel(
                f"{stem}-{axis}",
                f"{self.title} against {axis}",
                partial(self._draw, against=axis),
                (*self._captions, *([SECONDS_WORDS] if axis == "seconds" else [])),
                has_values=True,
            )
            for axis in against
        ]
        if self.has_steps and self.zoom:
            heading = f"the last {100 * self.zoom:g} % of each group's steps"
            zoomed = replace(panels[0], name=f"{stem}-zoom", words=f"{self.title}, {heading}", title=heading)
            panels[0] = replace(panels[0], title="all steps")
            panels.insert(1, replace(zoomed, draw=partial(self._draw, against="steps", share=self.zoom)))
        ends = Panel(
            f"{stem}-ends",
            f"{self.title} of each {self.of} at the end",
            partial(self._draw_ends, rows=rows),
            (best + dots,),
            height=0.9 + canvas.height_of_rows([_row_name(*row) for row in rows]),
        )
        return Plot(self.name, self.title, (*panels, ends), self.legend)

    @property
    def _captions(self) -> tuple[str, ...]:
        """How to read the curves."""
        each = f"thin lines: its {self.of}s" if self._shows_runs else f"band: its lowest to its highest {self.of}"
        several = any(len(members) > 1 for members in self.curves.values())
        words = f"Thick line: mean of a group; {each}." if several else f"One {self.of} each."
        diverged = any(one.diverged_at for members in self.curves.values() for one in members)
        return (words, *(["x: diverged; at the edge if beyond it."] if diverged else []))

    @property
    def _highlighted(self) -> list[str]:
        return [group for group in self.curves if self.styles[group].highlighted]

    @property
    def _shows_runs(self) -> bool:
        """Whether each run is drawn as a line."""
        counts = [len(runs) for runs in self.curves.values()]
        if len(self._highlighted) < len(counts):
            return False
        return max(counts, default=0) <= RUNS_SHOWN and sum(counts) <= LINES_SHOWN

    def _draw(self, axes: "Axes", against: Against, share: float = 1.0) -> None:
        """Each group's mean over its evaluations; the highlighted ones with their runs.

        With a share below 1, only this last share of a group's steps is shown.
        """
        bands = {group: band for group, members in self.curves.items() if (band := _band(members))}
        if share < 1:
            bands = {group: band.since((1 - share) * band.steps[-1]) for group, band in bands.items()}
        in_front = [bands[group] for group in self._highlighted if group in bands]
        self._set_limits(axes, in_front or list(bands.values()))
        for group, band in reversed(bands.items()):
            style, across = self.styles[group], getattr(band, against)
            alone = {"marker": "o", "markersize": 4} if len(across) == 1 else {}
            axes.plot(across, band.mean, **style.line(), **alone)
            if not style.highlighted or len(band.runs) == 1:
                continue
            if self._shows_runs:
                for run in band.runs:
                    axes.plot(across, run, color=style.colour, alpha=0.45, linewidth=0.8, zorder=2, gid=style.gid)
            else:
                low, high = np.fmin.reduce(band.runs), np.fmax.reduce(band.runs)
                axes.fill_between(across, low, high, color=style.colour, alpha=0.15, linewidth=0, gid=style.gid)
        for group, members in self.curves.items():
            for one in members:
                if one.diverged_at:
                    self._draw_diverged(axes, one, one.diverged_at, against, self.styles[group])
        axes.set(xlabel={"steps": self.step_label, "seconds": "seconds of training"}[against], ylabel=self.label)
        if against == "steps":
            canvas.widen(axes)
            canvas.epochs_above(axes, self.steps_per_epoch)

    def _draw_ends(self, axes: "Axes", rows: Sequence[tuple[str, Sequence[RunCurve]]]) -> None:
        """A row for each group: a dot per finished run, their mean as a bar and a number, and the name."""
        axes.grid(False, axis="y")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [canvas.plain(_row_name(*row)) for row in rows], fontsize=9)
        axes.tick_params(axis="y", length=0)
        ends = [np.empty(0)]
        for row, (group, members) in enumerate(rows):
            style = self.styles[group]
            axes.get_yticklabels()[row].set_color("black" if style.highlighted else canvas.MUTED)
            axes.axhline(row, **style.line(linewidth=0.8, zorder=1, alpha=0.4))
            finals = np.array([one.values[-1] for one in members if one.finished and len(one.values)])
            mean, finals = float(np.mean(finals)) if len(finals) else None, finals[np.isfinite(finals)]
            beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "annotation_clip": False}
            if mean is not None and not math.isfinite(mean):
                axes.annotate("not finite", (1.02, row), va="center", fontsize=9, **beside)
            if len(finals):
                mark: dict[str, Any] = {"color": style.colour, "gid": style.gid}
                axes.plot(finals, np.full(len(finals), row), "o", markersize=5, alpha=0.75, **mark)
                if mean is not None and math.isfinite(mean):
                    axes.plot([mean], [row], "|", markersize=15, markeredgewidth=2, **mark)
                    number = f"{mean:.2f}" if self.measure.is_fraction else four_digits(mean)
                    axes.annotate(number, (1.02, row), va="center", fontsize=9, **beside)
                ends.append(finals)
        if self._spans_decades(np.concatenate(ends)):
            axes.set_xscale("log")
        axes.set(xlabel=self.label)

    def _spans_decades(self, values: Floats) -> bool:
        """Whether values are to be shown on a logarithmic axis."""
        if self.measure.goal != "min" or self.measure.is_fraction or not len(values):
            return False
        return bool(values.max() > LINEAR_LOSSES * values.min() > 0)

    def _set_limits(self, axes: "Axes", bands: Sequence[_Band]) -> None:
        """Set the limits of the y axis by the bands, without regard to diverged runs."""
        values = np.concatenate([np.empty(0), *(band.runs.ravel() for band in bands)])
        values = values[np.isfinite(values)]
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        if self._spans_decades(values):
            axes.set_yscale("log")
            axes.set_ylim(low / 1.15, high * 1.15)
        else:
            margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
            axes.set_ylim(low - margin, high + margin)

    def _draw_diverged(
        self, axes: "Axes", one: RunCurve, ended: tuple[float, float], against: Against, style: Style
    ) -> None:
        """The course of a diverged run with a cross at its end, at the edge of the plot if it ended beyond it."""
        inside = axes.get_ylim()
        worst = inside[0] if self.measure.goal == "max" else inside[1]
        last = one.values[-1] if len(one.values) and np.isfinite(one.values[-1]) else worst
        across = np.append(getattr(one, against), ended[against == "seconds"])
        course = np.append(one.values, np.clip(last, *inside))
        look: dict[str, Any] = {"color": style.colour, "gid": style.gid}
        axes.plot(across, course, linewidth=0.8, linestyle=":", zorder=2, **look)
        axes.plot(across[-1:], course[-1:], "x", markersize=7, clip_on=False, zorder=4, **look)


def _band(members: Sequence[RunCurve]) -> _Band | None:
    """The band over the finished runs or, if none has finished, over the running ones.

    The steps are those at which all were evaluated. If there are fewer than two, runs are interpolated between their
    own steps, as far as at least half of them go.
    """
    running = [one for one in members if one.diverged_at is None]
    found = [one for one in [one for one in members if one.finished] or running if len(one.steps)]
    if not found:
        return None
    steps = np.array(sorted(set.intersection(*(set(one.steps) for one in found))))
    if len(steps) < 2:
        steps = np.unique(np.concatenate([one.steps for one in found]))
        within = np.array([(steps >= one.steps[0]) & (steps <= one.steps[-1]) for one in found])
        kept = 2 * within.sum(axis=0) >= len(found)
        steps, within = steps[kept], within[:, kept]
        values = np.array([np.interp(steps, one.steps, one.values) for one in found])
        values = np.where(within, values, np.nan)
        seconds = np.array([np.interp(steps, one.steps, one.seconds) for one in found])
        return _Band(steps, seconds.mean(axis=0), np.nanmean(values, axis=0), values)
    values = np.array([np.interp(steps, one.steps, one.values) for one in found])
    seconds = np.array([np.interp(steps, one.steps, one.seconds) for one in found])
    return _Band(steps, seconds.mean(axis=0), values.mean(axis=0), values)


def _row_name(group: str, members: Sequence[RunCurve]) -> str:
    """A group's name with the number of runs that diverged or have not finished, wrapped to several lines."""
    diverged, finished = sum(one.diverged_at is not None for one in members), sum(one.finished for one in members)
    counted = f" ({finished} of {len(members)} finished)" if finished < len(members) else ""
    counted = f" ({diverged} of {len(members)} diverged)" if diverged else counted
    return "\n".join(textwrap.wrap(group + counted, NAME_WIDTH))


def named(styles: Mapping[str, Style]) -> tuple[tuple[str, Style], ...]:
    """A legend with the name and style of each group in colour, and one entry for those in grey."""
    coloured = [(name, style) for name, style in styles.items() if style.highlighted]
    grey = [style for style in styles.values() if not style.highlighted]
    return (*coloured, *([(f"{len(grey)} others", grey[0])] if grey else []))
