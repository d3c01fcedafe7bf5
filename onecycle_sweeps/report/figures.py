"""The figures of a sweep's trainings: trajectories, validation measures in the course of training, and budgets."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onecycle_sweeps import journal
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.measures import Measure, four_digits, recorded
from onecycle_sweeps.outcome import Outcome, Series, Trajectory, trajectory
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Panel, Plot, Style
from onecycle_sweeps.report.groups import (
    Group,
    by_group,
    compared_metric,
    families,
    group_name,
    headline_of,
    measures_of,
)
from onecycle_sweeps.trial_folder import DIVERGED, FINISHED, TrialFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
# Rates whose peaks, and losses whose values, differ by more than these factors are shown on a logarithmic axis.
LINEAR_RATES, LINEAR_LOSSES = 20, 10
# If the highest rate is below this, rates are written so that they fit beside their axis.
SMALL_RATES = 0.01
ROWS_SHOWN, ROW_HEIGHT, NAME_WIDTH = 30, 0.27, 30
PLANNED = Style(canvas.BLACK, (1, 3), 0.9)


@dataclass(frozen=True)
class Example:
    """The trial whose trajectory stands for its group, and what its policy planned for each step.

    `off` says where the used trajectory differs from the planned one, `unknown` why there is no plan: the policy
    cannot be built here.
    """

    outcome: Outcome
    planned: Trajectory = field(default_factory=Trajectory)
    off: str | None = None
    unknown: str | None = None


@dataclass(frozen=True)
class ShownGroups:
    """The groups in order of rank: members, styles, and an example of each group that has taken a step."""

    members: Mapping[Group, Sequence[Outcome]]
    styles: Mapping[Group, Style]
    examples: Mapping[Group, Example]
    measures: Sequence[Measure]

    @property
    def several_seeds(self) -> bool:
        return any(len(members) > 1 for members in self.members.values())

    @property
    def any_diverged(self) -> bool:
        return any(o.status == DIVERGED for members in self.members.values() for o in members)

    @property
    def legend(self) -> tuple[tuple[str, Style], ...]:
        """The name and style of each group in colour, and one entry for those in grey."""
        return _legend({group_name(group): style for group, style in self.styles.items()})


def shown_groups(ranked: Sequence[Group], outcomes: Sequence[Outcome]) -> ShownGroups:
    """The trainings by group, best group first."""
    members = by_group(outcomes)
    examples = {group: example for group in ranked if (example := _example(members[group]))}
    styles = styles_of(ranked, list(members))
    return ShownGroups({group: members[group] for group in ranked}, styles, examples, measures_of(outcomes))


def styles_of(ranked: Sequence[Group], appeared: Sequence[Group]) -> dict[Group, Style]:
    """A style per group, best group first; colours follow first appearance, so they stay as results come in."""
    styles = canvas.styles(len(ranked))
    count = sum(style.highlighted for style in styles)
    coloured = sorted(ranked[:count], key=appeared.index)
    given = dict(zip([*coloured, *ranked[count:]], styles, strict=True))
    return {group: given[group] for group in ranked}


def figures(groups: ShownGroups, outcomes: Sequence[Outcome]) -> Iterator[Plot]:
    """The figures for which there are data; groups have the same colours in all of them."""
    if groups.examples:
        yield _trajectories(groups)
    for measure in recorded(groups.measures):
        if (course := _Course(measure, groups)).has_data:
            yield course.figure()
    if figure := _budgets(outcomes):
        yield figure


def _legend(styles: Mapping[str, Style]) -> tuple[tuple[str, Style], ...]:
    coloured = [(name, style) for name, style in styles.items() if style.highlighted]
    grey = [style for style in styles.values() if not style.highlighted]
    return (*coloured, *([(f"{len(grey)} others", grey[0])] if grey else []))


# Trajectories: what the optimizer used, and what the policy planned.


def draw_trajectory(trial: TrialFolder) -> Path | None:
    """lr_momentum.png in the trial's folder: what the optimizer used at each step; None before the first step."""
    used = trajectory(journal.read(trial.journal))
    if not used.lr:
        return None
    lr, momentum = canvas.tiles(1, 2, width=4.5, height=3.2, title=0.55)
    for i, (axes, title, series) in enumerate(((lr, "Learning rate", used.lr), (momentum, "Momentum", used.momentum))):
        axes.plot(series.steps, series.values, color=canvas.COLOURS[i], linewidth=1.7)
        axes.set_title(title)
        _fit(axes)
    if not used.momentum:
        momentum.text(0.5, 0.5, "the optimizer has no momentum", ha="center", transform=momentum.transAxes)
    config, rate = trial.config(), (trial.resolved() or {}).get("max_lr")
    words = [config.get("policy", {}).get("_target_", "range test").rpartition(".")[2]]
    words += [f"max_lr={rate:.3g}"] if rate else []
    words += [f"seed={config['seed']}"] if "seed" in config else []
    canvas.figure_of(lr).suptitle(canvas.plain(", ".join(words)), fontsize=11)
    return canvas.save(lr, trial.path / "lr_momentum.png", dpi=100)


def _trajectories(groups: ShownGroups) -> Plot:
    words = "Line: what the optimizer used, by its own record. Dots: what the policy planned. One trial of each group."
    panels = tuple(
        Panel(
            quantity,
            f"{label.capitalize()} at each step",
            partial(_draw_used, groups=groups, quantity=quantity, label=label),
            captions=(words,),
        )
        for quantity, label in (("lr", "learning rate"), ("momentum", "momentum"))
    )
    return Plot(
        name="trajectories",
        title="Learning rate and momentum",
        panels=panels,
        layout=lambda: canvas.axes(2, width=10, height=4.2),
        legend=(*groups.legend, ("planned", PLANNED)),
        has_legend_below=True,
    )


def _draw_used(axes: "Axes", groups: ShownGroups, quantity: str, label: str) -> None:
    """The lr or the momentum that each example used, best group in front, and what was planned for those in colour."""
    for group, example in reversed(list(groups.examples.items())):
        style = groups.styles[group]
        used, planned = getattr(example.outcome.used, quantity), getattr(example.planned, quantity)
        axes.plot(used.steps, used.values, **style.line())
        if style.highlighted and planned:
            axes.plot(planned.steps, planned.values, **PLANNED.line(zorder=4))
    peaks = [max(example.outcome.used.lr.values) for example in groups.examples.values()]
    if quantity == "lr" and max(peaks) > LINEAR_RATES * min(peaks):
        canvas.logarithmic(axes)
    _fit(axes)
    if quantity == "lr" and max(peaks) < SMALL_RATES:
        canvas.short_rates(axes)
    axes.set_ylabel(label)


def _fit(axes: "Axes") -> None:
    """Fit the axes to the trajectories on them; a value that never changes lies at mid-height."""
    axes.locator_params(axis="x", nbins=7, integer=True)
    axes.set_xlabel(canvas.STEP)
    low, high = axes.dataLim.intervaly
    if not high - low > 1e-9 * max(abs(high), 1.0):
        axes.set_ylim((low - 0.05, high + 0.05) if np.isfinite(low) else (0, 1))


def _example(members: Sequence[Outcome]) -> Example | None:
    """A group's first finished trial, or the first that has taken a step, with the plan of its policy."""
    chosen = next((o for o in sorted(members, key=lambda member: not member.finished) if o.used.lr), None)
    if chosen is None:
        return None
    try:
        planned = _planned(chosen)
    except Exception as error:  # a user's own policy may raise anything, or may not be installed here
        return Example(chosen, unknown=f"{type(error).__name__}: {error}")
    off = _difference("lr", planned.lr, chosen.used.lr)
    return Example(chosen, planned, off or _difference("momentum", planned.momentum, chosen.used.momentum))


def _planned(outcome: Outcome) -> Trajectory:
    """What the trial's policy, built again from its records, answers for each step."""
    config, resolved = outcome.folder.config(), outcome.resolved
    per_epoch = resolved.get("steps_per_epoch") or resolved["total_steps"] // config["epochs"]
    with nodes.environment(config):
        policy = nodes.policy(config, resolved["max_lr"], per_epoch, resolved["total_steps"])
        steps = tuple(range(policy.total_steps))
        hypers = [policy(step) for step in steps]
    lr = Series(steps, tuple(hyper.lr for hyper in hypers))
    if not outcome.used.momentum:
        return Trajectory(lr)
    own = resolved["momentum"] if schema.LOOP in config else config["optimizer"]["momentum"]
    return Trajectory(lr, Series(steps, tuple(own if h.momentum is None else h.momentum for h in hypers)))


def _difference(name: str, planned: Series, used: Series) -> str | None:
    """The first step at which the two are not the same number."""
    if used.steps != planned.steps[: len(used.steps)]:
        return f"{name} was not recorded at each step"
    for step, plan, use in zip(used.steps, planned.values, used.values, strict=False):
        if plan != use:
            return f"{name} at step {step} was {use:.6g}, planned {plan:.6g}"
    return None


# A measure in the course of training, and each seed's value at the end.

Against = Literal["steps", "seconds"]
SECONDS_WORDS = (
    "Seconds are those of the training loop with its evaluations; trials that run at the same time share a machine."
)


@dataclass(frozen=True)
class _Band:
    """A group's mean over its seeds at each evaluation, between the lowest and the highest seed.

    `seconds` is the mean over the seeds of the training time before each evaluation.
    """

    steps: Floats
    seconds: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class _Course:
    """The figure of one measure on the validation part: against steps, against seconds, and at the end."""

    measure: Measure
    groups: ShownGroups

    @property
    def has_data(self) -> bool:
        """Whether a trial was evaluated or diverged."""
        trained = [o for members in self.groups.members.values() for o in members]
        return any(o.status == DIVERGED or len(self._values(o)[0]) for o in trained)

    def figure(self) -> Plot:
        name, measure = f"val_{self.measure.name}", f"Validation {self.measure.name}"
        course = f"{'Line: mean, band: lowest to highest seed' if self.groups.several_seeds else 'One seed each'}"
        course += ", x: diverged." if self.groups.any_diverged else "."
        rows = list(self.groups.members.items())[:ROWS_SHOWN]
        of = len(self.groups.members)
        best = f"best {ROWS_SHOWN} of {of}, " if of > ROWS_SHOWN else ""
        dots = "dot: a seed at the end, bar and number: mean" if self.groups.several_seeds else "one seed each"
        lines = sum(1 + _row_name(*row).count("\n") for row in rows)
        stem = name.replace("_", "-")
        panels = (
            Panel(f"{stem}-steps", f"{measure} against steps", partial(self._draw, against="steps"), (course,)),
            Panel(
                f"{stem}-seconds",
                f"{measure} against seconds",
                partial(self._draw, against="seconds"),
                (course, SECONDS_WORDS),
            ),
            Panel(
                f"{stem}-ends",
                f"{measure} of each seed at the end",
                partial(self._draw_ends, rows=rows),
                (f"{(best + dots).capitalize()}.",),
                height=0.9 + ROW_HEIGHT * lines,
                fits_labels=True,
            ),
        )
        height = max(4.0, 1.4 + ROW_HEIGHT * len(rows))
        return Plot(
            name=name,
            title=measure,
            panels=panels,
            layout=lambda: canvas.axes(3, width=15, height=height, ratios=(3, 3, 2)),
            legend=self.groups.legend,
        )

    def _draw(self, axes: "Axes", against: Against) -> None:
        """Each group's mean over its evaluations; groups in colour between their lowest and highest seed."""
        bands = {group: band for group, members in self.groups.members.items() if (band := self._band(members))}
        self._set_limits(axes, list(bands.values()))
        for group, band in reversed(bands.items()):
            style, across = self.groups.styles[group], getattr(band, against)
            axes.plot(across, band.mean, **style.line())
            if style.highlighted:
                axes.fill_between(across, band.low, band.high, color=style.colour, alpha=0.15, linewidth=0)
        for group, members in self.groups.members.items():
            for outcome in members:
                if outcome.status == DIVERGED:
                    self._draw_diverged(axes, outcome, against, self.groups.styles[group].colour)
        axes.locator_params(axis="x", nbins=7, integer=against == "steps", prune="upper")
        axes.set(xlabel={"steps": canvas.STEP, "seconds": "seconds of training"}[against], ylabel=self._label)

    def _draw_ends(self, axes: "Axes", rows: Sequence[tuple[Group, Sequence[Outcome]]]) -> None:
        """A row for each group: a dot per finished seed, their mean as a bar and a number, and the name."""
        axes.grid(False, axis="y")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [canvas.plain(_row_name(*row)) for row in rows], fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
        for row, (group, members) in enumerate(rows):
            style = self.groups.styles[group]
            axes.get_yticklabels()[row].set_color("black" if style.highlighted else canvas.MUTED)
            axes.axhline(row, alpha=0.5, **style.line(linewidth=1, zorder=1))
            finals = np.array([values[-1] for o in members if o.finished and len(values := self._values(o)[1])])
            finals = finals[np.isfinite(finals)]
            if len(finals):
                mean = finals.mean()
                axes.plot(finals, np.full(len(finals), row), "o", color=style.colour, markersize=5, alpha=0.75)
                axes.plot([mean], [row], "|", color=style.colour, markersize=15, markeredgewidth=2)
                beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "annotation_clip": False}
                number = f"{mean:.2f}" if self.measure.is_fraction else four_digits(mean)
                axes.annotate(number, (1.02, row), va="center", fontsize=9, **beside)
        axes.set(xlabel=self._label)

    @property
    def _label(self) -> str:
        return f"val {self.measure.label}"

    def _values(self, outcome: Outcome) -> tuple[Floats, Floats]:
        """The steps and values of a trial's evaluations, as shown; a value that is not finite is NaN."""
        found = outcome.val(self.measure)
        values = np.array([self.measure.shown(value) for value in found.values], dtype=float)
        return np.asarray(found.steps, dtype=float), np.where(np.isfinite(values), values, np.nan)

    def _band(self, members: Sequence[Outcome]) -> _Band | None:
        """Over the finished seeds; if none has finished, over the running ones, as far as all of them have come."""
        finished = [o for o in members if o.finished]
        found = [(o, dict(zip(*self._values(o), strict=True))) for o in finished or members if o.status != DIVERGED]
        found = [(o, run) for o, run in found if run]
        if not found:
            return None
        steps = sorted(set.intersection(*(set(run) for _, run in found)))
        values = np.array([[run[step] for step in steps] for _, run in found])
        seconds = np.array([[o.clock.get(int(step), np.nan) for step in steps] for o, _ in found])
        return _Band(np.array(steps), seconds.mean(axis=0), values.mean(axis=0), values.min(axis=0), values.max(axis=0))

    def _set_limits(self, axes: "Axes", bands: Sequence[_Band]) -> None:
        """Limits that the bands determine; diverged trials do not count."""
        values = np.concatenate([np.empty(0), *(edge for band in bands for edge in (band.low, band.high))])
        values = values[np.isfinite(values)]
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        if self.measure.goal == "min" and not self.measure.is_fraction and high > LINEAR_LOSSES * low > 0:
            canvas.logarithmic(axes)
            axes.set_ylim(low / 1.15, high * 1.15)
        else:
            margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
            axes.set_ylim(low - margin, high + margin)
        if high >= canvas.LONG_NUMBERS:
            canvas.short_numbers(axes)

    def _draw_diverged(self, axes: "Axes", outcome: Outcome, against: Against, colour: str) -> None:
        """The course of a diverged trial with a cross at its end, at the edge of the plot if it ended beyond it."""
        across, values = self._values(outcome)
        inside = axes.get_ylim()
        worst = inside[0] if self.measure.goal == "max" else inside[1]
        last = values[-1] if len(values) and np.isfinite(values[-1]) else worst
        end = max(outcome.result.get("steps", 1) - 1, 0)
        if against == "seconds":
            across = np.array([outcome.clock.get(int(step), np.nan) for step in across])
            end = outcome.metrics.get("seconds", 0.0)
        steps, course = np.append(across, end), np.append(values, np.clip(last, *inside))
        axes.plot(steps, course, color=colour, linewidth=0.8, linestyle=":", zorder=2)
        axes.plot(steps[-1:], course[-1:], "x", color=colour, markersize=7, clip_on=False, zorder=4)


def _row_name(group: Group, members: Sequence[Outcome]) -> str:
    """A group's name with the number of seeds that diverged or have not finished, wrapped to several lines."""
    diverged, finished = (sum(o.status == status for o in members) for status in (DIVERGED, FINISHED))
    counted = f" ({finished} of {len(members)} finished)" if finished < len(members) else ""
    counted = f" ({diverged} of {len(members)} diverged)" if diverged else counted
    return "\n".join(textwrap.wrap(group_name(group) + counted, NAME_WIDTH))


# The headline measure against the epochs of the whole training.

Budgets = Mapping[str, Mapping[float, Sequence[float]]]


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


def _budgets(outcomes: Sequence[Outcome]) -> Plot | None:
    """The headline measure against epochs; None unless trainings of two lengths have finished."""
    budgets = budgets_of(outcomes)
    if len({epochs for line in budgets.values() for epochs in line}) < 2:
        return None
    headline = headline_of(outcomes)
    split = "test" if compared_metric(outcomes) == headline.final_test else "val"
    words = "Line: mean; dot: a seed. Each point is a training of its own, at the rate picked for its length."
    title = f"{headline.name.capitalize()} against budget"
    draw = partial(draw_budgets, budgets=budgets, label=f"final {split} {headline.label}")
    return Plot(
        name=f"{headline.name}_by_budget",
        title=title,
        panels=(Panel("budgets", title, draw, (words,)),),
        layout=lambda: canvas.axes(width=7.5, height=4.6),
        legend=_legend(dict(zip(budgets, canvas.styles(len(budgets)), strict=True))),
        has_legend_below=True,
    )


def draw_budgets(axes: "Axes", budgets: Budgets, label: str) -> None:
    """A line per policy over the epochs and a dot per seed; policies are shifted a little to tell the dots apart."""
    epochs = sorted({budget for line in budgets.values() for budget in line})
    shifts = 2 ** (0.04 * (np.arange(len(budgets)) - (len(budgets) - 1) / 2))
    for line, style, shift in zip(budgets.values(), canvas.styles(len(budgets)), shifts, strict=True):
        places = [shift * budget for budget in line]
        means = [float(np.mean(values)) for values in line.values()]
        axes.plot(places, means, **style.line())
        axes.plot(places, means, "_", color=style.colour, markersize=11, markeredgewidth=2, zorder=4)
        for place, values in zip(places, line.values(), strict=True):
            axes.plot([place] * len(values), values, "o", color=style.colour, markersize=4.5, alpha=0.6, zorder=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(epochs, [f"{one:g}" for one in epochs])
    axes.minorticks_off()
    axes.set(xlabel="epochs of the whole training", ylabel=label)
