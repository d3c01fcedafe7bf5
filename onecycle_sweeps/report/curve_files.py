"""The curves of a sweep as CSV files: what its figures are drawn from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onecycle_sweeps.outcome import Outcome, Series
from onecycle_sweeps.report.csv_files import known, write_rows
from onecycle_sweeps.report.groups import group_name
from onecycle_sweeps.report.range_test_figures import RangeTestFigure
from onecycle_sweeps.report.shown import Example, Shown

# The rows of a trial are thinned to at most twice as many, its last step kept; the journal has every step.
STEPS_KEPT = 2000


def write_curves(
    folder: Path, outcomes: Sequence[Outcome], groups: Shown, tests: Sequence[RangeTestFigure]
) -> Iterator[Path]:
    """evaluations.csv, trajectories.csv and range_tests.csv, as far as there are data."""
    if any(outcome.val_loss or outcome.val for outcome in outcomes):
        yield write_evaluations(folder / "evaluations.csv", outcomes)
    if groups.examples:
        yield write_trajectories(folder / "trajectories.csv", groups)
    if tests:
        yield write_range_tests(folder / "range_tests.csv", tests)


def write_evaluations(path: Path, outcomes: Sequence[Outcome]) -> Path:
    """evaluations.csv: a row per evaluation of each trial, with the 0-based step and the seconds of training."""
    columns = ["signature", "name", "step", "seconds", "val/loss", "val/accuracy"]
    return write_rows(path, columns, (row for outcome in outcomes for row in _evaluations(outcome)))


def write_trajectories(path: Path, groups: Shown) -> Path:
    """trajectories.csv: lr and momentum, used and planned, of one trial of each group; long ones at every n-th step."""
    columns = ["group", "signature", "step", "lr", "momentum", "planned_lr", "planned_momentum"]
    rows = (
        {"group": group_name(group), "signature": example.outcome.entry.signature} | row
        for group, example in groups.examples.items()
        for row in _steps(example)
    )
    return write_rows(path, columns, rows)


def write_range_tests(path: Path, tests: Sequence[RangeTestFigure]) -> Path:
    """range_tests.csv: seed_run (0-based), step within that run, lr, loss and loss_smoothed of each range test."""
    rows = (
        {"signature": test.signature, "name": test.name, "seed_run": run, "step": step}
        | {"lr": lr, "loss": loss, "loss_smoothed": known(smoothed)}
        for test in tests
        for run, curve in enumerate(test.curves)
        for step, (lr, loss, smoothed) in enumerate(zip(curve.lr, curve.loss, curve.smoothed, strict=True))
    )
    return write_rows(path, ["signature", "name", "seed_run", "step", "lr", "loss", "loss_smoothed"], rows)


def _evaluations(outcome: Outcome) -> Iterator[dict[str, Any]]:
    columns = {"val/loss": _by_step(outcome.val_loss), "val/accuracy": _by_step(outcome.val)}
    for step in sorted({step for column in columns.values() for step in column}):
        seconds = f"{outcome.clock[step]:.3f}" if step in outcome.clock else None
        told = {"signature": outcome.entry.signature, "name": outcome.name, "step": step, "seconds": seconds}
        yield told | {name: column.get(step) for name, column in columns.items()}


def _steps(example: Example) -> Iterator[dict[str, Any]]:
    used, planned = example.outcome.used, example.plan.planned
    columns = {
        "lr": _by_step(used.lr),
        "momentum": _by_step(used.momentum),
        "planned_lr": _by_step(planned.lr),
        "planned_momentum": _by_step(planned.momentum),
    }
    steps = sorted({*used.lr.steps, *planned.lr.steps})
    kept = steps[:: max(1, len(steps) // STEPS_KEPT)]
    for step in [*kept, *(steps[-1:] if kept[-1:] != steps[-1:] else [])]:
        yield {"step": step} | {name: column.get(step) for name, column in columns.items()}


def _by_step(series: Series) -> dict[int, float]:
    return dict(zip(series.steps, series.values, strict=True))
