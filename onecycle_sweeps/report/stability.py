"""Smith's map of range tests (arXiv:1803.09820): the largest stable rate for each weight decay and momentum."""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps import range_test
from onecycle_sweeps.credentials import without_logins
from onecycle_sweeps.outcome import Outcome, RangeTestCurve
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Legend, Panel, Plot
from onecycle_sweeps.report.range_tests import is_exponential
from onecycle_sweeps.sweep import RANGE_TEST, Sweep
from onecycle_sweeps.terminal import invocation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WEIGHT_DECAY, MOMENTUM = "optimizer.weight_decay", "optimizer.momentum"
MAPPED = (WEIGHT_DECAY, MOMENTUM)
# A weight decay still allows a large rate if it allows this fraction of the largest one on the map.
LARGE = 0.5
# Overrides of the range tests that the next command sets itself or drops.
NOT_KEPT = (*MAPPED, "task", "max_lr", "max_lr_scale", "policy", "range_test", "seed", "hydra.mode")
# Cells darker than this have white text.
DARK = 0.6


@dataclass(frozen=True)
class Cell:
    """One range test on the map.

    `limit` is the largest rate before the loss diverges, or if it does not (`stable`), the largest rate tried; None
    without a verdict. `lowest_loss` is the lowest smoothed loss.
    """

    test: Outcome
    weight_decay: float | None
    momentum: float | None
    limit: float | None
    stable: bool
    lowest_loss: float | None

    @property
    def max_lr(self) -> float | None:
        """The verdict."""
        return self.test.suggestions.get("max_lr")


@dataclass(frozen=True)
class Quantity:
    """What a map shows of each cell, in a table and as a heat map."""

    title: str
    of: Callable[[Cell], float | None]
    low_is_good: bool

    def words(self, cell: Cell) -> str:
        """The text in a cell: its value, that it is a bound, or why there is none."""
        value = self.of(cell)
        if value is None:
            return {"failed": "no verdict", "finished": "diverges at once"}.get(cell.test.status, cell.test.status)
        return f"{'≥ ' if cell.stable and not self.low_is_good else ''}{value:.3g}"

    def shades(self, cells: Sequence[Cell]) -> list[float]:
        """A depth for each cell, from 0.1 (worst) to 0.9 (best) on a logarithmic scale; NaN without a value."""
        values = [self.of(cell) for cell in cells]
        logs = np.log([value if value is not None and value > 0 else np.nan for value in values])
        if not np.isfinite(logs).any():
            return [math.nan] * len(cells)
        low, high = np.nanmin(logs), np.nanmax(logs)
        depths = (logs - low) / (high - low) if high > low else np.where(np.isnan(logs), np.nan, 0.5)
        return (0.1 + 0.8 * (1 - depths if self.low_is_good else depths)).tolist()


QUANTITIES = (
    Quantity("Largest stable rate", lambda cell: cell.limit, low_is_good=False),
    Quantity("Lowest loss", lambda cell: cell.lowest_loss, low_is_good=True),
)


@dataclass(frozen=True)
class StabilityMap:
    """The range tests of a sweep that share everything but weight decay and momentum; `rest` tells maps apart."""

    rest: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.rest)

    @property
    def weight_decays(self) -> list[float | None]:
        """The weight decays in rising order."""
        return sorted({cell.weight_decay for cell in self.cells}, key=lambda value: (value is not None, value))

    @property
    def momenta(self) -> list[float | None]:
        """The momenta in rising order."""
        return sorted({cell.momentum for cell in self.cells}, key=lambda value: (value is not None, value))

    @property
    def pick(self) -> Cell | None:
        """Smith's choice: the largest weight decay that still allows a large rate; of several the lowest loss."""
        judged = [(cell, cell.limit) for cell in self.cells if cell.limit is not None and cell.max_lr is not None]
        top = max((limit for _, limit in judged), default=0.0)
        large = [cell for cell, limit in judged if limit >= LARGE * top]
        return max(large, key=lambda cell: (cell.weight_decay or 0.0, -_or_inf(cell.lowest_loss)), default=None)

    def overlaid(self) -> list[tuple[str, Cell]]:
        """The tests whose curves are overlaid, with labels: each weight decay at the momentum of the pick.

        If only one weight decay was tested, each momentum.
        """
        if len(self.weight_decays) == 1:
            return [(f"momentum {c.momentum:g}" if c.momentum is not None else c.test.name, c) for c in self.cells]
        momentum = self.pick.momentum if self.pick else self.momenta[0]
        shown = sorted((c for c in self.cells if c.momentum == momentum), key=lambda c: c.weight_decay or 0.0)
        return [(f"weight decay {c.weight_decay:g}" if c.weight_decay is not None else c.test.name, c) for c in shown]


def stability_maps(outcomes: Sequence[Outcome]) -> tuple[StabilityMap, ...]:
    """A map for each batch size or whatever else varies; none if neither weight decay nor momentum varies."""
    tests = [o for o in outcomes if o.entry.kind == RANGE_TEST]
    maps: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for test in tests if any(key in o.entry.varies for o in tests for key in MAPPED) else ():
        rest = tuple((key, value) for key, value in test.entry.varies.items() if key not in MAPPED)
        maps.setdefault(rest, []).append(_cell(test))
    return tuple(StabilityMap(rest, tuple(cells)) for rest, cells in maps.items() if len(cells) > 1)


def stability_lines(maps: Sequence[StabilityMap], sweep: Sweep) -> Iterator[str]:
    """For each map the pick of Smith's recipe, and the command that trains with it."""
    for one in maps:
        yield pick_line(one)
        if one.pick:
            yield f"next: {next_command(one, one.pick, sweep)}"


def pick_line(one: StabilityMap) -> str:
    """What Smith's recipe picks on a map."""
    where = f" at {one.title}" if one.rest else ""
    if not (pick := one.pick):
        return f"stability map{where}: no range test has a verdict"
    limit = f"{'at least ' if pick.stable else ''}{pick.limit:.3g}"
    named = {"weight decay": pick.weight_decay, "momentum": pick.momentum}
    values = " and ".join(f"{word} {value:g}" for word, value in named.items() if value is not None)
    best = "the largest weight decay that allows" if len(one.weight_decays) > 1 else "the lowest loss among those with"
    return (
        f"stability map{where}: {values}, {best} at least {LARGE:g} of the largest rate: "
        f"stable up to {limit}, max_lr={pick.max_lr:.3g}, lowest loss {pick.lowest_loss:.3g}"
    )


def next_command(one: StabilityMap, pick: Cell, sweep: Sweep) -> str:
    """The training at the pick, with the sweep's other overrides; a momentum that was mapped is not cycled."""
    replaced = (*NOT_KEPT, *(key for key, _ in one.rest))
    kept = [word for word in sweep.command if not word.startswith("-") and not _sets(word, replaced)]
    chosen = [f"{key}={value}" for key, value in one.rest if key != "recipe"]
    varies_momentum = len(one.momenta) > 1
    if len(one.weight_decays) > 1 or _typed(sweep, WEIGHT_DECAY):
        chosen.append(f"{WEIGHT_DECAY}={pick.weight_decay:g}")
    if varies_momentum or _typed(sweep, MOMENTUM):
        chosen.append(f"{MOMENTUM}={pick.momentum:g}")
    policy = ["policy=onecycle", *(["policy.cycle_momentum=false"] if varies_momentum else [])]
    words = shlex.join([*kept, *chosen, f"max_lr={pick.max_lr:.3g}", *policy, "-m"])
    return without_logins(f"{invocation()} {words}")


def figure(maps: Sequence[StabilityMap]) -> Plot | None:
    """A row of panels for each map: largest stable rate, lowest loss, and overlaid curves; None without maps."""
    if not maps:
        return None
    width = max(3.6, 1.2 + 0.85 * max(len(one.momenta) for one in maps))
    height = max(canvas.PANEL_HEIGHT, 1.2 + 0.5 * max(len(one.weight_decays) for one in maps))
    panels: list[Panel] = []
    for number, one in enumerate(maps):
        for quantity in QUANTITIES:
            title = quantity.title + (f"\n{one.title}" if one.rest else "")
            name = f"stability-{number}-{'loss' if quantity.low_is_good else 'rate'}"
            draw = partial(_draw_cells, one=one, quantity=quantity)
            panels.append(Panel(name, title, draw, ("Framed: the pick.",), title, width, height))
        panels.append(curves_panel(one, number))
    return Plot(
        name="stability_map",
        title="Stability map",
        panels=tuple(panels),
        legend=tuple(dict.fromkeys(entry for one in maps for entry in curves_legend(one))),
    )


def curves_panel(one: StabilityMap, number: int) -> Panel:
    """Smith's plot: the smoothed loss against the rate for the tests that are overlaid."""
    fixed = one.pick.momentum if one.pick else one.momenta[0]
    several = len(one.weight_decays) > 1 and len(one.momenta) > 1
    of = f" at momentum {fixed:g}, one for each weight decay" if several and fixed is not None else ""
    return Panel(
        f"stability-{number}",
        "Range tests overlaid",
        partial(_draw_curves, one=one),
        captions=(f"Curves: the smoothed loss of the range tests{of}; its lowest value is the table's lowest loss.",),
        title=f"Range tests{of}",
        has_values=True,
    )


def curves_legend(one: StabilityMap) -> Legend:
    """The names and styles of the tests that are overlaid."""
    labels = [label for label, _ in one.overlaid()]
    return tuple(zip(labels, canvas.styles(len(labels)), strict=True))


def _draw_cells(axes: "Axes", one: StabilityMap, quantity: Quantity) -> None:
    """A heat map with numbers; the pick is framed, and a test without a verdict is grey."""
    from matplotlib.patches import Rectangle

    rows, columns = one.weight_decays, one.momenta
    grid = np.full((len(rows), len(columns)), np.nan)
    for cell, depth in zip(one.cells, quantity.shades(one.cells), strict=True):
        row, column = rows.index(cell.weight_decay), columns.index(cell.momentum)
        grid[row, column] = depth
        ink = "white" if depth > DARK else "black"
        text = quantity.words(cell).replace("diverges at", "diverges\nat")
        axes.text(column, row, text, ha="center", va="center", fontsize=10, color=ink)
        if cell is one.pick:
            corner = (column - 0.47, row - 0.47)
            axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=canvas.BLACK, linewidth=2.2))
    axes.set_facecolor("#D9D9D9")
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(columns)), ["-" if value is None else f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), ["-" if value is None else f"{value:g}" for value in rows])
    axes.set(xlabel="momentum", ylabel="weight decay")


def _draw_curves(axes: "Axes", one: StabilityMap) -> None:
    overlaid = one.overlaid()
    low, high = np.inf, -np.inf
    for (_, cell), style in zip(overlaid, canvas.styles(len(overlaid)), strict=True):
        for curve in cell.test.curves:
            losses = np.where(np.isfinite(curve.smoothed), curve.smoothed, np.nan)
            axes.plot(curve.lr, losses, **style.line())
            known = losses[np.isfinite(losses)]
            if len(known):
                low, high = min(low, float(known.min())), max(high, float(known[0]))
    if all(is_exponential(cell.test) for _, cell in overlaid):
        canvas.logarithmic_rates(axes)
    if low < high:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))
    axes.set(xlabel="learning rate", ylabel="training loss (smoothed)")


def _cell(test: Outcome) -> Cell:
    config: Mapping[str, Any] = test.config.get("optimizer", {})
    values = (test.entry.varies.get(key, config.get(key.rpartition(".")[2])) for key in MAPPED)
    weight_decay, momentum = (None if value is None else float(value) for value in values)
    curves = test.curves
    limit, loss, stable = None, None, False
    if test.finished and curves:
        onset = test.suggestions.get("divergence", median_low([_onset(curve) for curve in curves]))
        stable = not math.isfinite(onset)
        limit = max((rate for curve in curves for rate in curve.lr if rate < onset), default=None)
        loss = median_low([min(filter(math.isfinite, curve.smoothed), default=math.nan) for curve in curves])
    return Cell(test, weight_decay, momentum, limit, stable, loss)


def _onset(curve: RangeTestCurve) -> float:
    """The rate at which the loss begins to diverge; infinite if it does not."""
    onset = range_test.onset(curve.lr, curve.loss)
    return math.inf if onset is None else onset


def _typed(sweep: Sweep, key: str) -> bool:
    return any(_sets(word, (key,)) for word in sweep.command)


def _sets(word: str, keys: Sequence[str]) -> bool:
    """Whether an override sets one of the keys, or a key below it."""
    typed = word.lstrip("+~").partition("=")[0]
    return any(typed == key or typed.startswith(f"{key}.") for key in keys)


def _or_inf(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value
