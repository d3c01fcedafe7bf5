"""The figures of a sweep: its groups' trajectories, and their val accuracy and val loss over the seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.budget_figure import draw_accuracy_by_budget
from onecycle_sweeps.report.comparison import Comparison, Group, by_group, compare, group_name
from onecycle_sweeps.report.curves import Trajectory, trajectory
from onecycle_sweeps.report.figures import label_trajectory
from onecycle_sweeps.report.outcomes import Outcome, read
from onecycle_sweeps.report.val_figures import ACCURACY, LOSS, draw_val
from onecycle_sweeps.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Peak rates further apart than this factor are shown on a logarithmic axis.
LINEAR_UP_TO = 20


def draw_sweep(sweep: Sweep, outcomes: Sequence[Outcome] | None = None) -> list[Path]:
    """trajectories.png, val_accuracy.png, val_loss.png and accuracy_by_budget.png in the sweep's report folder.

    Each as far as there are data for it; the last where epochs vary.

    Groups bear the same colours in all of them; of many groups the best few by final val accuracy are in colour.
    `outcomes` spares a second reading of the trials' folders.
    """
    outcomes = read(sweep) if outcomes is None else outcomes
    members = by_group(outcomes)
    styles = styles_of(compare(sweep, outcomes), list(members))
    ranked = {group: members[group] for group in styles}
    return [
        *_draw_trajectories(ranked, styles, sweep.report / "trajectories.png"),
        *draw_val(ranked, styles, ACCURACY, sweep.report / "val_accuracy.png"),
        *draw_val(ranked, styles, LOSS, sweep.report / "val_loss.png"),
        *draw_accuracy_by_budget(outcomes, sweep.report / "accuracy_by_budget.png"),
    ]


def styles_of(comparison: Comparison, appeared: Sequence[Group]) -> dict[Group, canvas.Style]:
    """A style per group, best group first; colours go by first appearance, so that they stay as results come in."""
    ranked = [row.group for row in comparison.rows]
    styles = canvas.styles(len(ranked))
    shown = sum(style.highlighted for style in styles)
    coloured = sorted(ranked[:shown], key=appeared.index)
    given = dict(zip([*coloured, *ranked[shown:]], styles, strict=True))
    return {group: given[group] for group in ranked}


def _draw_trajectories(
    ranked: Mapping[Group, Sequence[Outcome]], styles: Mapping[Group, canvas.Style], path: Path
) -> list[Path]:
    used = {group: found for group, members in ranked.items() if (found := _trajectory(members))}
    if not used:
        return []
    lr, momentum = canvas.axes(2, width=10, height=4.2)
    others = sum(not styles[group].highlighted for group in used)
    for group, taken in reversed(used.items()):
        highlighted = styles[group].highlighted
        label = canvas.plain(group_name(group)) if highlighted else f"{others} others"
        for axes, values in ((lr, taken.lr), (momentum, taken.momentum)):
            axes.plot(values.steps, values.values, label=label, **styles[group].line())
    peaks = [max(taken.lr.values) for taken in used.values()]
    if max(peaks) > LINEAR_UP_TO * min(peaks):
        canvas.logarithmic(lr)
    label_trajectory(lr, momentum)
    _legend_below(lr)
    return [canvas.save(lr, path)]


def _trajectory(members: Sequence[Outcome]) -> Trajectory | None:
    """The trajectory of a group's first finished trial, or of the first that has taken a step."""
    for member in sorted(members, key=lambda member: not member.finished):
        if (used := trajectory(member.folder)).lr:
            return used
    return None


def _legend_below(axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(reversed(labels), reversed(handles), strict=True))
    columns = max(1, min(len(once), 110 // (max(map(len, once)) + 8)))
    canvas.figure_of(axes).legend(
        once.values(), once.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3
    )
