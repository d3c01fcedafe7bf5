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
        _draw_curves(curves, one)
    return [canvas.save(panels[0], path)]


def _draw_cells(
    axes: "Axes", one: StabilityMap, values: Sequence[float | None], title: str, *, low_is_good: bool = False
) -> None:
    """A heat map with its numbers; the pick is framed, and a test without a verdict is grey."""
    rows, columns = one.weight_decays, one.momenta
    grid = np.full((len(rows), len(columns)), np.nan)
    for cell, value in zip(one.cells, values, strict=True):
        grid[rows.index(cell.weight_decay), columns.index(cell.momentum)] = np.nan if value is None else value
    shades = _shades(grid, low_is_good=low_is_good)
    axes.set_facecolor("#D9D9D9")
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(columns)), ["-" if value is None else f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), ["-" if value is None else f"{value:g}" for value in rows])
    axes.set(xlabel="momentum", ylabel="weight decay")
    axes.set_title(title, fontsize=11)
    for cell, value in zip(one.cells, values, strict=True):
        place = rows.index(cell.weight_decay), columns.index(cell.momentum)
        axes.text(place[1], place[0], _words(cell, value, low_is_good), **_ink(shades[place]))
        if cell is one.pick:
            _frame(axes, place)


def _frame(axes: "Axes", place: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    corner = place[1] - 0.47, place[0] - 0.47
    axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=canvas.COLOURS[1], linewidth=2.5))


def _shades(grid: np.ndarray, *, low_is_good: bool) -> np.ndarray:
    """From 0 (worst) to 1 (best), in the logarithm."""
    logs = np.log(np.where(grid > 0, grid, np.nan))
    if not np.isfinite(logs).any():
        return np.full(grid.shape, np.nan)
    low, high = np.nanmin(logs), np.nanmax(logs)
    shades = (logs - low) / (high - low) if high > low else np.where(np.isnan(logs), np.nan, 0.5)
    return 0.1 + 0.8 * (1 - shades if low_is_good else shades)


def _ink(shade: float) -> dict[str, Any]:
    colour = "white" if shade > DARK else "black"
    return {"ha": "center", "va": "center", "fontsize": 10, "color": colour}


def _words(cell: Cell, value: float | None, low_is_good: bool) -> str:
    if value is None:
        return {"failed": "no verdict", "finished": "diverges\nat once"}.get(cell.status, cell.status)
    return f"{'≥ ' if cell.stable and not low_is_good else ''}{value:.3g}"


def _draw_curves(axes: "Axes", one: StabilityMap) -> None:
    """Smith's plot: the smoothed loss over the rate for each weight decay, at the momentum of the pick."""
    momentum = one.pick.momentum if one.pick else one.momenta[0]
    shown = sorted((c for c in one.cells if c.momentum == momentum), key=lambda c: c.weight_decay or 0.0)
    several = len(one.weight_decays) > 1
    if not several:
        shown = list(one.cells)
    low, high = np.inf, -np.inf
    for cell, style in zip(shown, canvas.styles(len(shown)), strict=True):
        value = cell.weight_decay if several else cell.momentum
        label = f"{'weight decay' if several else 'momentum'} {value:g}" if value is not None else cell.name
        for place, curve in enumerate(cell.curves):
            losses = np.where(np.isfinite(curve.smoothed), curve.smoothed, np.nan)
            axes.plot(curve.lr, losses, label=label if place == 0 else "_", **style.line())
            if np.isfinite(losses).any():
                low, high = min(low, float(np.nanmin(losses))), max(high, float(losses[0]))
    axes.set_xscale("log" if _geometric(shown) else "linear")
    if low < high:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))
    at = f" at momentum {momentum:g}" if several and momentum is not None else ""
    axes.set(xlabel="lr", ylabel="training loss (smoothed)")
    axes.set_title(f"Range tests{at}", fontsize=11)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def _geometric(cells: Sequence[Cell]) -> bool:
    """Whether the rates rise by a factor."""
    rates = next((curve.lr for cell in cells for curve in cell.curves if len(curve.lr) > 2), (1.0, 2.0, 4.0))
    return rates[0] > 0 and rates[2] - rates[1] > 1.0001 * (rates[1] - rates[0])
