"""Smith's map of what range tests allow (arXiv:1803.09820): the largest rate for each weight decay and momentum."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from onecycle_sweeps import range_test
from onecycle_sweeps.outcome import Outcome, RangeTestCurve
from onecycle_sweeps.report.program import program, without_secrets
from onecycle_sweeps.sweep import RANGE_TEST, Sweep

WEIGHT_DECAY, MOMENTUM = "optimizer.weight_decay", "optimizer.momentum"
MAPPED = (WEIGHT_DECAY, MOMENTUM)
# A weight decay still allows a large rate if it allows so much of the largest one on the map.
LARGE = 0.5
# Overrides that the next command has values of its own for, or none.
OF_THE_TEST = (*MAPPED, "task", "max_lr", "max_lr_scale", "policy", "range_test", "seed", "hydra.mode")


@dataclass(frozen=True)
class Cell:
    """One range test on the map.

    limit: the largest rate before its loss diverges; where it does not (`stable`), the largest rate tried; None
    without a verdict. lowest_loss: of the smoothed loss. max_lr: the verdict.
    """

    name: str
    weight_decay: float | None
    momentum: float | None
    status: str
    limit: float | None
    stable: bool
    lowest_loss: float | None
    max_lr: float | None
    curves: tuple[RangeTestCurve, ...]


@dataclass(frozen=True)
class StabilityMap:
    """The range tests of a sweep that share all but weight decay and momentum; `rest` is what tells it from others."""

    rest: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.rest)

    @property
    def weight_decays(self) -> list[float | None]:
        """In rising order."""
        return sorted({cell.weight_decay for cell in self.cells}, key=lambda value: (value is not None, value))

    @property
    def momenta(self) -> list[float | None]:
        """In rising order."""
        return sorted({cell.momentum for cell in self.cells}, key=lambda value: (value is not None, value))

    @property
    def pick(self) -> Cell | None:
        """Smith's choice: the largest weight decay that still allows a large rate; of several the lowest loss."""
        judged = [(cell, cell.limit) for cell in self.cells if cell.limit is not None and cell.max_lr is not None]
        top = max((limit for _, limit in judged), default=0.0)
        large = [cell for cell, limit in judged if limit >= LARGE * top]
        return max(large, key=lambda cell: (cell.weight_decay or 0.0, -_or_inf(cell.lowest_loss)), default=None)


def stability_maps(outcomes: Sequence[Outcome]) -> tuple[StabilityMap, ...]:
    """A map for each batch size or whatever else varies; none where neither weight decay nor momentum does."""
    tests = [o for o in outcomes if o.entry.kind == RANGE_TEST]
    maps: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for test in tests if any(key in o.entry.varies for o in tests for key in MAPPED) else ():
        rest = tuple((key, value) for key, value in test.entry.varies.items() if key not in MAPPED)
        maps.setdefault(rest, []).append(_cell(test))
    return tuple(StabilityMap(rest, tuple(cells)) for rest, cells in maps.items() if len(cells) > 1)


def stability_lines(maps: Sequence[StabilityMap], sweep: Sweep, *, with_command: bool = True) -> Iterator[str]:
    """For each map what Smith's recipe picks, and the command that trains with it."""
    for one in maps:
        where = f" at {one.title}" if one.rest else ""
        if not (pick := one.pick):
            yield f"stability map{where}: no range test has a verdict"
            continue
        limit = f"{'at least ' if pick.stable else ''}{pick.limit:.3g}"
        values = " and ".join(f"{word} {value:g}" for word, value in _values(pick).items())
        best = (
            "the largest weight decay that allows" if len(one.weight_decays) > 1 else "the lowest loss that goes with"
        )
        yield (
            f"stability map{where}: {values}, {best} at least {LARGE:g} of the largest rate: "
            f"stable up to {limit}, max_lr={pick.max_lr:.3g}, lowest loss {pick.lowest_loss:.3g}"
        )
        if with_command:
            yield f"next: {next_command(one, pick, sweep)}"


def next_command(one: StabilityMap, pick: Cell, sweep: Sweep) -> str:
    """The training at what was picked, with the sweep's other overrides; a momentum that was mapped is not cycled."""
    replaced = (*OF_THE_TEST, *(key for key, _ in one.rest))
    kept = [word for word in sweep.command if not word.startswith("-") and not _sets(word, replaced)]
    varied = {key for key, of in zip(MAPPED, ("weight_decay", "momentum"), strict=True) if len(_column(one, of)) > 1}
    chosen = [f"{key}={value}" for key, value in one.rest if key != "recipe"]
    if WEIGHT_DECAY in varied or _typed(sweep, WEIGHT_DECAY):
        chosen.append(f"{WEIGHT_DECAY}={pick.weight_decay:g}")
    if MOMENTUM in varied or _typed(sweep, MOMENTUM):
        chosen.append(f"{MOMENTUM}={pick.momentum:g}")
    policy = ["policy=onecycle", *(["policy.cycle_momentum=false"] if MOMENTUM in varied else [])]
    words = shlex.join([*kept, *chosen, f"max_lr={pick.max_lr:.3g}", *policy, "-m"])
    return without_secrets(f"{program()} {words}")


def _cell(test: Outcome) -> Cell:
    config: Mapping[str, Any] = test.config.get("optimizer", {})
    values = (test.entry.varies.get(key, config.get(key.rpartition(".")[2])) for key in MAPPED)
    weight_decay, momentum = (None if value is None else float(value) for value in values)
    curves, metrics = test.curves, test.metrics
    limit, loss, stable = None, None, False
    if test.finished and curves:
        onset = metrics.get("suggestion/divergence", median_low([_onset(curve) for curve in curves]))
        stable = not math.isfinite(onset)
        limit = max(rate for curve in curves for rate in curve.lr if rate < onset) if _begun(curves, onset) else None
        loss = metrics.get("range/lowest_loss", median_low([_lowest(curve) for curve in curves]))
    verdict = metrics.get("suggestion/max_lr")
    return Cell(test.name, weight_decay, momentum, test.status, limit, stable, loss, verdict, curves)


def _begun(curves: Sequence[RangeTestCurve], onset: float) -> bool:
    return any(curve.lr[0] < onset for curve in curves)


def _onset(curve: RangeTestCurve) -> float:
    """The rate at which the loss begins to diverge; infinite where it does not."""
    onset = range_test.onset(curve.lr, curve.loss)
    return math.inf if onset is None else onset


def _lowest(curve: RangeTestCurve) -> float:
    """Of a result without a verdict."""
    return min(filter(math.isfinite, curve.smoothed), default=math.nan)


def _values(cell: Cell) -> dict[str, float]:
    named = {"weight decay": cell.weight_decay, "momentum": cell.momentum}
    return {word: value for word, value in named.items() if value is not None}


def _column(one: StabilityMap, name: str) -> set[float | None]:
    return {getattr(cell, name) for cell in one.cells}


def _typed(sweep: Sweep, key: str) -> bool:
    return any(_sets(word, (key,)) for word in sweep.command)


def _sets(word: str, keys: Sequence[str]) -> bool:
    """Whether an override sets one of the keys, or a key below it."""
    typed = word.lstrip("+~").partition("=")[0]
    return any(typed == key or typed.startswith(f"{key}.") for key in keys)


def _or_inf(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value
