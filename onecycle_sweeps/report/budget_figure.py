"""Accuracy against the epochs that were spent on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.claims import measure_of
from onecycle_sweeps.report.groups import Family, families, group_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = Mapping[float, Sequence[float]]


@dataclass(frozen=True)
class Budgets:
    """The accuracies of each policy's seeds, in percent, by epochs; each at the rate picked there."""

    split: str
    epochs: Sequence[float]
    lines: Mapping[str, Line]

    @property
    def labels(self) -> list[str]:
        """A line's name in a legend, which those in grey share."""
        coloured = len(canvas.COLOURS)
        others = f"{len(self.lines) - coloured} others"
        return [name if i < coloured else others for i, name in enumerate(self.lines)]


def budgets_of(outcomes: Sequence[Outcome]) -> Budgets | None:
    """What a sweep over epochs shows; None unless two budgets finished."""
    measure = measure_of(outcomes)
    lines = _lines(families(outcomes), measure)
    epochs = sorted({budget for line in lines.values() for budget in line})
    return Budgets(measure.partition("/")[2].partition("_")[0], epochs, lines) if len(epochs) > 1 else None


def draw_budgets(axes: "Axes", budgets: Budgets) -> None:
    """A line per policy over the epochs, a dot per seed, each policy a little aside so that dots can be told apart."""
    count = len(budgets.lines)
    asides = 2 ** (0.04 * (np.arange(count) - (count - 1) / 2))
    for line, style, aside, label in zip(
        budgets.lines.values(), canvas.styles(count), asides, budgets.labels, strict=True
    ):
        _draw(axes, line, style, aside, canvas.plain(label))
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets.epochs, [f"{epochs:g}" for epochs in budgets.epochs])
    axes.minorticks_off()
    axes.set(xlabel="epochs of the whole training", ylabel=f"final {budgets.split} accuracy (%)")


def _lines(found: Sequence[Family], measure: str) -> dict[str, Line]:
    """For each policy and data set, the accuracies of the finished seeds in percent by epochs."""
    lines: dict[str, dict[float, Sequence[float]]] = {}
    for family in found:
        epochs = dict(family.setting).get("epochs", "")
        values = [100 * o.metrics[measure] for o in family.members if o.finished and measure in o.metrics]
        if epochs.isdecimal() and values:
            rest = group_name(tuple(item for item in family.setting if item[0] != "epochs"))
            lines.setdefault(f"{family.name} {rest}".strip(), {})[float(epochs)] = values
    return {name: dict(sorted(budgets.items())) for name, budgets in lines.items()}


def _draw(axes: "Axes", line: Line, style: canvas.Style, aside: float, label: str) -> None:
    places = [aside * budget for budget in line]
    means = [float(np.mean(values)) for values in line.values()]
    axes.plot(places, means, label=label, **style.line())
    axes.plot(places, means, "_", color=style.colour, markersize=11, markeredgewidth=2, zorder=4)
    for place, values in zip(places, line.values(), strict=True):
        axes.plot([place] * len(values), values, "o", color=style.colour, markersize=4.5, alpha=0.6, zorder=3)
