"""Accuracy against the epochs that were spent on it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.claims import measure_of
from onecycle_sweeps.report.groups import Family, families, group_name
from onecycle_sweeps.report.outcomes import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Budgets = Mapping[float, Sequence[float]]


def draw_accuracy_by_budget(outcomes: Sequence[Outcome], path: Path) -> list[Path]:
    """A line per policy over the epochs, each point at the rate picked there; nothing unless two budgets finished."""
    measure = measure_of(outcomes)
    lines = _lines(families(outcomes), measure)
    epochs = sorted({budget for budgets in lines.values() for budget in budgets})
    if len(epochs) < 2:
        return []
    (axes,) = canvas.axes(width=7.5, height=4.6)
    # Of policies that share a budget each stands a little aside, so that their seeds can be told apart.
    others = max(0, len(lines) - len(canvas.COLOURS))
    labels = [*map(canvas.plain, lines)][: len(canvas.COLOURS)] + [f"{others} others", *["_"] * others][:others]
    asides = 2 ** (0.04 * (np.arange(len(lines)) - (len(lines) - 1) / 2))
    for budgets, style, aside, label in zip(lines.values(), canvas.styles(len(lines)), asides, labels, strict=True):
        _draw(axes, budgets, style, aside, label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(epochs, [f"{budget:g}" for budget in epochs])
    axes.minorticks_off()
    split = measure.partition("/")[2].partition("_")[0]
    axes.set(xlabel="epochs of the whole training", ylabel=f"final {split} accuracy (%)")
    axes.set_title("Accuracy against budget\nline: mean, dot: a seed", fontsize=11)
    canvas.figure_of(axes).legend(loc="outside lower center", ncols=min(4, len(lines)), frameon=False, handlelength=3)
    return [canvas.save(axes, path)]


def _lines(found: Sequence[Family], measure: str) -> dict[str, Budgets]:
    """For each policy and data set, the accuracies of the finished seeds in percent by epochs."""
    lines: dict[str, dict[float, Sequence[float]]] = {}
    for family in found:
        epochs = dict(family.setting).get("epochs", "")
        values = [100 * o.metrics[measure] for o in family.members if o.finished and measure in o.metrics]
        if epochs.isdecimal() and values:
            rest = group_name(tuple(item for item in family.setting if item[0] != "epochs"))
            lines.setdefault(f"{family.name} {rest}".strip(), {})[float(epochs)] = values
    return {name: dict(sorted(budgets.items())) for name, budgets in lines.items()}


def _draw(axes: "Axes", budgets: Budgets, style: canvas.Style, aside: float, label: str) -> None:
    places = [aside * budget for budget in budgets]
    means = [float(np.mean(values)) for values in budgets.values()]
    axes.plot(places, means, label=label, **style.line())
    axes.plot(places, means, "_", color=style.colour, markersize=11, markeredgewidth=2, zorder=4)
    for place, values in zip(places, budgets.values(), strict=True):
        axes.plot([place] * len(values), values, "o", color=style.colour, markersize=4.5, alpha=0.6, zorder=3)
