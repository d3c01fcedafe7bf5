"""The picture of a stability map: what each weight decay and momentum allows, and Smith's overlaid curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.stability_map import Cell, StabilityMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DARK = 0.6


def draw_stability_maps(maps: Sequence[StabilityMap], path: Path) -> list[Path]:
    """A row of panels for each map: the largest stable rate, the lowest loss, and the curves of each weight decay."""
    if not maps:
        return []
    tallest = max(len(one.weight_decays) for one in maps)
    widest = max(len(one.momenta) for one in maps)
    ratios = (max(2.2, 0.75 * widest), max(2.2, 0.75 * widest), 5)
    height = len(maps) * max(4.0, 1.9 + 0.5 * tallest)
    panels = canvas.axes(3, width=5.4 + 1.6 * sum(ratios[:2]), height=height, ratios=ratios, rows=len(maps))
    for place, one in enumerate(maps):
        limits, losses, curves = panels[3 * place : 3 * place + 3]
        suffix = f"\n{canvas.plain(one.title)}" if one.rest else ""
        _draw_cells(limits, one, [cell.limit for cell in one.cells], f"Largest stable rate (framed: the pick){suffix}")
        _draw_cells(losses, one, [cell.lowest_loss for cell in one.cells], f"Lowest loss{suffix}", low_is_good=True)
        draw_curves(curves, one)
        curves.set_title("Range tests", fontsize=11)
        if curves.get_legend_handles_labels()[0]:
            curves.legend(frameon=False, fontsize=9)
    return canvas.save_both(panels[0], path)


def _draw_cells(
    axes: "Axes", one: StabilityMap, values: Sequence[float | None], title: str, *, low_is_good: bool = False
) -> None:
    """A heat map with its numbers; the pick is framed, and a test without a verdict is grey."""
    rows, columns = one.weight_decays, one.momenta
    depths = shades(values, low_is_good=low_is_good)
    grid = np.full((len(rows), len(columns)), np.nan)
    for cell, depth in zip(one.cells, depths, strict=True):
        grid[rows.index(cell.weight_decay), columns.index(cell.momentum)] = depth
    axes.set_facecolor("#D9D9D9")
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(columns)), ["-" if value is None else f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), ["-" if value is None else f"{value:g}" for value in rows])
    axes.set(xlabel="momentum", ylabel="weight decay")
    axes.set_title(title, fontsize=11)
    for cell, value in zip(one.cells, values, strict=True):
        place = rows.index(cell.weight_decay), columns.index(cell.momentum)
        axes.text(place[1], place[0], words(cell, value, low_is_good), **_ink(grid[place]))
        if cell is one.pick:
            _frame(axes, place)


def _frame(axes: "Axes", place: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    corner = place[1] - 0.47, place[0] - 0.47
    axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=canvas.COLOURS[1], linewidth=2.5))


def shades(values: Sequence[float | None], *, low_is_good: bool) -> list[float]:
    """A depth for each value, from 0.1 (worst) to 0.9 (best) in the logarithm; not a number without a value."""
    logs = np.log([value if value is not None and value > 0 else np.nan for value in values])
    if not np.isfinite(logs).any():
        return [np.nan] * len(values)
    low, high = np.nanmin(logs), np.nanmax(logs)
    depths = (logs - low) / (high - low) if high > low else np.where(np.isnan(logs), np.nan, 0.5)
    return (0.1 + 0.8 * (1 - depths if low_is_good else depths)).tolist()


def _ink(shade: float) -> dict[str, Any]:
    colour = "white" if shade > DARK else "black"
    return {"ha": "center", "va": "center", "fontsize": 10, "color": colour}


def words(cell: Cell, value: float | None, low_is_good: bool) -> str:
    """What stands in a cell: its value, that it is a bound, or why there is none."""
    if value is None:
        return {"failed": "no verdict", "finished": "diverges\nat once"}.get(cell.status, cell.status)
    return f"{'≥ ' if cell.stable and not low_is_good else ''}{value:.3g}"


def compared(one: StabilityMap) -> list[tuple[str, Cell]]:
    """The tests whose curves are overlaid, with their labels: each weight decay at the momentum of the pick.

    Where one weight decay alone was tested, each momentum.
    """
    if len(one.weight_decays) == 1:
        return [(f"momentum {cell.momentum:g}" if cell.momentum is not None else cell.name, cell) for cell in one.cells]
    momentum = one.pick.momentum if one.pick else one.momenta[0]
    shown = sorted((c for c in one.cells if c.momentum == momentum), key=lambda c: c.weight_decay or 0.0)
    return [(f"weight decay {c.weight_decay:g}" if c.weight_decay is not None else c.name, c) for c in shown]


def draw_curves(axes: "Axes", one: StabilityMap) -> None:
    """Smith's plot: the smoothed loss over the rate for each of the tests that are `compared`."""
    shown = compared(one)
    low, high = np.inf, -np.inf
    for (label, cell), style in zip(shown, canvas.styles(len(shown)), strict=True):
        for place, curve in enumerate(cell.curves):
            losses = np.where(np.isfinite(curve.smoothed), curve.smoothed, np.nan)
            axes.plot(curve.lr, losses, label=label if place == 0 else "_", **style.line())
            known = losses[np.isfinite(losses)]
            if len(known):
                low, high = min(low, float(known.min())), max(high, float(known[0]))
    if _geometric([cell for _, cell in shown]):
        canvas.logarithmic_rates(axes)
    if low < high:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))
    axes.set(xlabel="learning rate", ylabel="training loss (smoothed)")


def _geometric(cells: Sequence[Cell]) -> bool:
    """Whether the rates rise by a factor."""
    rates = next((curve.lr for cell in cells for curve in cell.curves if len(curve.lr) > 2), (1.0, 2.0, 4.0))
    return rates[0] > 0 and rates[2] - rates[1] > 1.0001 * (rates[1] - rates[0])
