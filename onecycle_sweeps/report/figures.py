"""The groups of a sweep as all figures show them, each with its style; and their trajectories."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from onecycle_sweeps import journal
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.outcome import Outcome, Series, Trajectory, trajectory
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Legend, Panel, Plot, Style
from onecycle_sweeps.report.courses import CourseFigure, RunCurve
from onecycle_sweeps.report.groups import RATES, Family, Group, by_group, families, group_name, measures_of
from onecycle_sweeps.trial_folder import DIVERGED, TrialFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rates whose peaks differ by more than this factor are shown on a logarithmic axis, which ends at this share of them.
LINEAR_RATES, LOWEST_RATE = 20, 1e-4
Name = TypeVar("Name", bound=Hashable)
PLANNED = Style(canvas.BLACK, (1, 3), 0.9)
# More than a figure has pixels.
COLUMNS_DRAWN = 1500


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
    """The groups in order of rank, with their members and styles, and an example of each that has taken a step.

    `legend` has an entry for each group at its family's best rate, for each family's other rates, and for those in
    grey.
    """

    members: Mapping[Group, Sequence[Outcome]]
    styles: Mapping[Group, Style]
    legend: Legend
    examples: Mapping[Group, Example]
    measures: Sequence[Measure]

    def course(self, measure: Measure, *, with_seconds: bool) -> CourseFigure:
        """The validation measure of each trial in the course of training; seconds only if they can be compared."""
        names = {group: group_name(group) for group in self.members}
        return CourseFigure(
            name=f"val_{measure.name}",
            title=f"Validation {measure.name}",
            label=f"val {measure.label}",
            measure=measure,
            curves={
                names[group]: [_curve(outcome, measure, with_seconds=with_seconds) for outcome in members]
                for group, members in self.members.items()
            },
            styles={names[group]: style for group, style in self.styles.items()},
            legend=self.legend,
            has_steps=any(len(o.val(measure).steps) > 1 for members in self.members.values() for o in members),
            steps_per_epoch=self.steps_per_epoch,
        )

    @property
    def steps_per_epoch(self) -> int | None:
        """The steps of an epoch, if all trainings agree on them."""
        trained = [o.resolved for members in self.members.values() for o in members if o.resolved]
        found = {one.get("steps_per_epoch") or 0 for one in trained}
        return (found.pop() or None) if len(found) == 1 else None


def shown_groups(ranked: Sequence[Group], outcomes: Sequence[Outcome]) -> ShownGroups:
    """The trainings by group, best group first."""
    members = by_group(outcomes)
    examples = {group: example for group in ranked if (example := _example(members[group]))}
    styles, legend = styles_of_policies(ranked, families(outcomes), list(members))
    return ShownGroups({group: members[group] for group in ranked}, styles, legend, examples, measures_of(outcomes))


def styles_of(ranked: Sequence[Name], appeared: Sequence[Name]) -> dict[Name, Style]:
    """A style per group, best group first; colours follow first appearance, so they stay as results come in."""
    styles = canvas.styles(len(ranked))
    count = sum(style.highlighted for style in styles)
    coloured = sorted(ranked[:count], key=appeared.index)
    given = dict(zip([*coloured, *ranked[count:]], styles, strict=True))
    return {group: given[group] for group in ranked}


def styles_of_policies(
    ranked: Sequence[Group], found: Sequence[Family], appeared: Sequence[Group]
) -> tuple[dict[Group, Style], Legend]:
    """A style for each group, best group first, and the legend: a hue for each policy, a shade for each of its rates.

    The best groups have lines of their own, each at its family's best rate; the other rates of a family are thin lines
    in shades of its hue, and what remains is grey. Hues follow first appearance, so they stay as results come in.
    """
    family_of = {group: family for family in found for group in family.rates}
    best = [group for group in ranked if family_of[group].picked == group][: len(canvas.COLOURS)]
    hues = _hues([group for group in appeared if group in best], family_of)
    numbers, styles = count(), dict[Group, Style]()
    legend: list[tuple[str, Style]] = []
    used: dict[int, int] = {}
    for group in best:
        hue = hues[group]
        place = used[hue] = used.get(hue, -1) + 1
        colour = canvas.COLOURS[hue] if place == 0 else canvas.shade(canvas.COLOURS[hue], canvas.SHADES[-place % 5])
        dashes = canvas.DASHES[hue if len(set(hues.values())) == len(best) else len(legend)]
        width = canvas.DASHED if dashes else canvas.SOLID
        styles[group] = Style(colour, dashes, width, series=next(numbers))
        legend.append((group_name(group), styles[group]))
    for group in best:
        others = [other for other in appeared if other in family_of[group].rates and other != group]
        number = next(numbers) if others else None
        for place, other in enumerate(sorted(others, key=_rate)):
            strength = canvas.SHADES[round(place * (len(canvas.SHADES) - 1) / max(len(others) - 1, 1))]
            colour = canvas.shade(canvas.COLOURS[hues[group]], strength)
            styles[other] = Style(colour, width=canvas.THIN, highlighted=False, series=number)
        if others:
            name = " ".join(filter(None, [family_of[group].name, group_name(family_of[group].setting)]))
            middle = styles[sorted(others, key=_rate)[len(others) // 2]]
            legend.append((f"{name}, {len(others)} other rate{'s' * (len(others) > 1)}", middle))
    if rest := [group for group in ranked if group not in styles]:
        grey = Style(canvas.GREY, width=canvas.THIN, highlighted=False, series=next(numbers))
        styles |= dict.fromkeys(rest, grey)
        legend.append((f"{len(rest)} others", grey))
    return {group: styles[group] for group in ranked}, tuple(legend)


def _hues(groups: Sequence[Group], family_of: Mapping[Group, Family]) -> dict[Group, int]:
    """The number of a hue for each group: one for each policy, or where the policy does not vary, for each group."""
    policies = [dict(group).get("policy", family_of[group].name) for group in groups]
    keys: Sequence[object] = policies if len(set(policies)) > 1 else groups
    order = list(dict.fromkeys(keys))
    return {group: order.index(key) for group, key in zip(groups, keys, strict=True)}


def _rate(group: Group) -> tuple[float, str]:
    """What orders the rates of a family."""
    typed = next((value for key, value in group if key in RATES), "")
    try:
        return float(typed), typed
    except ValueError:
        return 0.0, typed


def _curve(outcome: Outcome, measure: Measure, *, with_seconds: bool) -> RunCurve:
    """A trial's evaluations as they are shown; a value that is not finite is NaN."""
    found = outcome.val(measure)
    values = np.array([measure.shown(value) for value in found.values], dtype=float)
    seconds = [outcome.clock.get(step, np.nan) if with_seconds else np.nan for step in found.steps]
    return RunCurve(
        steps=np.asarray(found.steps, dtype=float),
        values=np.where(np.isfinite(values), values, np.nan),
        seconds=np.array(seconds, dtype=float),
        finished=outcome.finished,
        diverged_at=(max(outcome.result.get("steps", 1) - 1, 0), outcome.metrics.get("seconds", 0.0))
        if outcome.status == DIVERGED
        else None,
    )


# Trajectories: what the optimizer used, and what the policy planned.


def draw_trajectory(trial: TrialFolder) -> Path | None:
    """lr_momentum.png in the trial's folder: what the optimizer used at each step; None before the first step."""
    used = trajectory(journal.read(trial.journal))
    if not used.lr:
        return None
    config, rate = trial.config(), (trial.resolved() or {}).get("max_lr")
    words = [config.get("policy", {}).get("_target_", "range test").rpartition(".")[2]]
    words += [f"max_lr={rate:.3g}"] if rate else []
    words += [f"seed={config['seed']}"] if "seed" in config else []

    def draw(axes: "Axes", series: Series, label: str, colour: str) -> None:
        thin = series.thinned(COLUMNS_DRAWN)
        axes.plot(thin.steps, thin.values, color=colour, linewidth=1.7)
        _fit(axes)
        axes.set_ylabel(label)
        if not series:
            axes.text(0.5, 0.5, "the optimizer has no momentum", ha="center", transform=axes.transAxes)

    panels = tuple(
        Panel(label, label, partial(draw, series=series, label=label, colour=colour), width=4.5, height=3.0)
        for label, series, colour in zip(
            ("learning rate", "momentum"), (used.lr, used.momentum), canvas.COLOURS, strict=False
        )
    )
    made = canvas.compose(Plot("lr_momentum", ", ".join(words), panels))
    return canvas.save(made, trial.path / "lr_momentum.png", dpi=100)


def trajectories(groups: ShownGroups) -> Plot:
    """The rate and the momentum that an example of each highlighted group used, and the plan where it differs."""
    shown = {group: example for group, example in groups.examples.items() if groups.styles[group].highlighted}
    # Of a sweep whose best groups have not begun, the others are shown.
    groups = replace(groups, examples=shown or groups.examples)
    legend = tuple(entry for entry in groups.legend if entry[1].highlighted or not shown)
    is_off = any(example.off for example in groups.examples.values())
    best = "the best group" if len(shown) == 1 else f"each of the best {len(shown)} groups"
    which = "each group" if len(legend) == len(groups.legend) else best
    words = (
        f"What the optimizer used at each step, by its own record, in one trial of {which}.",
        *(["Dots: what the policy planned, where it was not the same."] if is_off else []),
    )
    panels = tuple(
        Panel(
            quantity,
            f"{label.capitalize()} at each step",
            partial(_draw_used, groups=groups, quantity=quantity, label=label),
            captions=words,
            has_values=True,
        )
        for quantity, label in (("lr", "learning rate"), ("momentum", "momentum"))
    )
    planned = (("planned", replace(PLANNED, series=len(groups.legend))),) if is_off else ()
    return Plot("trajectories", "Learning rate and momentum", panels, legend=(*legend, *planned))


def _draw_used(axes: "Axes", groups: ShownGroups, quantity: str, label: str) -> None:
    """The lr or the momentum that each example used, and what was planned for those whose plan was another."""
    dots = replace(PLANNED, series=len(groups.legend)).line(zorder=4)
    for group, example in reversed(list(groups.examples.items())):
        style = groups.styles[group]
        used, planned = getattr(example.outcome.used, quantity), getattr(example.planned, quantity)
        for series, line in ((used, style.line()), *([(planned, dots)] if example.off and planned else [])):
            thin = series.thinned(COLUMNS_DRAWN)
            axes.plot(thin.steps, thin.values, **line)
    peaks = [max(example.outcome.used.lr.values) for example in groups.examples.values()]
    if quantity == "lr" and max(peaks) > LINEAR_RATES * min(peaks) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(LOWEST_RATE * max(peaks), 0.3 * min(peaks)), 1.5 * max(peaks))
    _fit(axes)
    axes.set_ylabel(label)
    canvas.widen(axes)
    canvas.epochs_above(axes, groups.steps_per_epoch)


def _fit(axes: "Axes") -> None:
    """Fit the axes to the trajectories on them; a value that never changes lies at mid-height."""
    axes.set_xlabel(canvas.STEP)
    low, high = axes.dataLim.intervaly
    if axes.get_yscale() == "linear" and not high - low > 1e-9 * max(abs(high), 1.0):
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
        steps = range(policy.total_steps)
        hypers = [policy(step) for step in steps]
    lr = Series(steps, [hyper.lr for hyper in hypers]).packed()
    if not outcome.used.momentum:
        return Trajectory(lr)
    own = resolved["momentum"] if schema.LOOP in config else config["optimizer"]["momentum"]
    return Trajectory(lr, Series(steps, [own if h.momentum is None else h.momentum for h in hypers]).packed())


def _difference(name: str, planned: Series, used: Series) -> str | None:
    """The first step at which the two are not the same number."""
    if tuple(used.steps) != tuple(planned.steps[: len(used.steps)]):
        return f"{name} was not recorded at each step"
    for step, plan, use in zip(used.steps, planned.values, used.values, strict=False):
        if plan != use:
            return f"{name} at step {step} was {use:.6g}, planned {plan:.6g}"
    return None
