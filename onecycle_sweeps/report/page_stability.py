"""The page's stability maps: what each weight decay and momentum allows, and the curves that say so."""

import math
from collections.abc import Callable, Sequence

from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.markup import command, figure, listed, paragraph, table, text
from onecycle_sweeps.report.page_panels import inline, swatch
from onecycle_sweeps.report.stability_figure import compared, draw_curves, shades, words
from onecycle_sweeps.report.stability_map import Cell, StabilityMap, next_command, stability_lines
from onecycle_sweeps.sweep import Sweep


def stability(maps: Sequence[StabilityMap], sweep: Sweep) -> str:
    """For each map its pick, the command to go on with, two tables in shades, and Smith's overlaid curves."""
    parts: list[str] = []
    for number, one in enumerate(maps):
        heading = f"<h3>{text(one.title)}</h3>" if one.rest else ""
        said = "".join(paragraph(text(line)) for line in stability_lines([one], sweep, with_command=False))
        onward = command(next_command(one, one.pick, sweep)) if one.pick else ""
        tables = [
            _shaded(one, "largest rate before divergence", lambda cell: cell.limit, low_is_good=False),
            _shaded(one, "lowest smoothed loss", lambda cell: cell.lowest_loss, low_is_good=True),
        ]
        parts.append(heading + said + onward + "".join(tables) + _curves(one, f"stability-{number}"))
    return "".join(parts)


def _shaded(one: StabilityMap, what: str, of: Callable[[Cell], float | None], *, low_is_good: bool) -> str:
    """A row per weight decay, a column per momentum; the deeper the shade the better, and the pick is bold."""
    depths = shades([of(cell) for cell in one.cells], low_is_good=low_is_good)
    cells = {(cell.weight_decay, cell.momentum): (cell, depth) for cell, depth in zip(one.cells, depths, strict=True)}
    rows: list[list[str]] = []
    for decay in one.weight_decays:
        row = [_number(decay)]
        for momentum in one.momenta:
            if (decay, momentum) not in cells:
                row.append("")
                continue
            cell, depth = cells[decay, momentum]
            content = text(words(cell, of(cell), low_is_good).replace("\n", " "))
            picked = f"<strong>{content}</strong>" if cell is one.pick else content
            percent = 0 if math.isnan(depth) else 100 * depth
            row.append(f'<span class="shade" style="--depth:{percent:.0f}%">{picked}</span>')
        rows.append(row)
    headers = ["weight decay", *(f"momentum {_number(momentum)}" for momentum in one.momenta)]
    return paragraph(text(f"{what.capitalize()} (bold: the pick)."), "note") + table(headers, rows, "map")


def _curves(one: StabilityMap, name: str) -> str:
    (axes,) = canvas.panels(1)
    draw_curves(axes, one)
    shown = compared(one)
    legend = listed(
        (swatch(style) + text(label) for (label, _), style in zip(shown, canvas.styles(len(shown)), strict=True)),
        "legend",
    )
    return legend + figure([inline(axes, name, "Range tests overlaid")], "Smoothed loss of each range test.")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
