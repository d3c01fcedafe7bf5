"""The figures of a sweep's trainings: trajectories, validation measures in the course of training, and budgets."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from onecycle_sweeps import journal
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.measures import Measure, recorded
from onecycle_sweeps.outcome import Outcome, Series, Trajectory, trajectory
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Panel, Plot, Style
from onecycle_sweeps.report.courses import CourseFigure, RunCurve, named
from onecycle_sweeps.report.groups import (
    Group,
    by_group,
    compared_metric,
    families,
    group_name,
    headline_of,
    measures_of,
)
from onecycle_sweeps.trial_folder import DIVERGED, TrialFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rates whose peaks differ by more than this factor are shown on a logarithmic axis.
LINEAR_RATES = 20
# If the highest rate is below this, rates are written so that they fit beside their axis.
SMALL_RATES = 0.01
Name = TypeVar("Name", bound=Hashable)
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
    def legend(self) -> tuple[tuple[str, Style], ...]:
        """The name and style of each group in colour, and one entry for those in grey."""
        return named({group_name(group): style for group, style in self.styles.items()})


def shown_groups(ranked: Sequence[Group], outcomes: Sequence[Outcome]) -> ShownGroups:
    """The trainings by group, best group first."""
    members = by_group(outcomes)
    examples = {group: example for group in ranked if (example := _example(members[group]))}
    styles = styles_of(ranked, list(members))
    return ShownGroups({group: members[group] for group in ranked}, styles, examples, measures_of(outcomes))


def styles_of(ranked: Sequence[Name], appeared: Sequence[Name]) -> dict[Name, Style]:
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
        if (course := _course(measure, groups)).has_data:
            yield course.figure()
    if figure := _budgets(outcomes):
        yield figure


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


# A measure in the course of training.


def _course(measure: Measure, groups: ShownGroups) -> CourseFigure:
    """The validation measure of each trial in the course of training."""
    names = {group: group_name(group) for group in groups.members}
    curves = {names[group]: [_curve(o, measure) for o in members] for group, members in groups.members.items()}
    return CourseFigure(
        name=f"val_{measure.name}",
        title=f"Validation {measure.name}",
        label=f"val {measure.label}",
        measure=measure,
        curves=curves,
        styles={names[group]: style for group, style in groups.styles.items()},
        legend=groups.legend,
    )


def _curve(outcome: Outcome, measure: Measure) -> RunCurve:
    """A trial's evaluations as they are shown; a value that is not finite is NaN."""
    found = outcome.val(measure)
    values = np.array([measure.shown(value) for value in found.values], dtype=float)
    return RunCurve(
        steps=np.asarray(found.steps, dtype=float),
        values=np.where(np.isfinite(values), values, np.nan),
        seconds=np.array([outcome.clock.get(step, np.nan) for step in found.steps], dtype=float),
        finished=outcome.finished,
        diverged_at=(max(outcome.result.get("steps", 1) - 1, 0), outcome.metrics.get("seconds", 0.0))
        if outcome.status == DIVERGED
        else None,
    )


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
        legend=named(dict(zip(budgets, canvas.styles(len(budgets)), strict=True))),
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
