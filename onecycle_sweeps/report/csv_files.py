"""The report's CSV files: trials, claims, stability maps, and the data behind the figures."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from onecycle_sweeps import files, journal
from onecycle_sweeps.measures import LOSS
from onecycle_sweeps.outcome import Outcome, RangeTestCurve, Series, range_test_curves
from onecycle_sweeps.report.comparison import Comparison
from onecycle_sweeps.report.figures import Example, ShownGroups
from onecycle_sweeps.report.groups import group_name
from onecycle_sweeps.report.statistics import Difference, Speedup
from onecycle_sweeps.trial_folder import TrialFolder

# The columns of a difference and of a speed-up have its name as a prefix.
CLAIM_COLUMNS = (
    *("name", "baseline", "budget", "measure"),
    *(f"difference_{field.name}" for field in fields(Difference)),
    "p_adjusted",
    *(f"speedup_{field.name}" for field in fields(Speedup)),
    "kind",
    "sentence",
)
CURVE_COLUMNS = ("seed_run", "step", "lr", "loss", "loss_smoothed")
# A long trajectory is thinned to at most twice as many rows, with its last step; the journal has every step.
STEPS_KEPT = 2000
CsvRow = dict[str, Any]


def write_csv_files(comparison: Comparison, groups: ShownGroups) -> Iterator[Path]:
    """Write each file for which there are data into the sweep's report folder."""
    folder, outcomes = comparison.sweep.report, comparison.outcomes
    yield write_trials(folder / "trials.csv", outcomes)
    if claims := list(_claims(comparison)):
        yield write_csv(folder / "claims.csv", claims, CLAIM_COLUMNS)
    if any(outcome.evaluations for outcome in outcomes):
        metrics = dict.fromkeys([LOSS.val, *(name for outcome in outcomes for name in outcome.evaluations)])
        columns = ["signature", "name", "step", "seconds", *metrics]
        yield write_csv(folder / "evaluations.csv", (row for o in outcomes for row in _evaluations(o)), columns)
    if groups.examples:
        columns = ["group", "signature", "step", "lr", "momentum", "planned_lr", "planned_momentum"]
        rows = (
            {"group": group_name(group), "signature": example.outcome.entry.signature, **row}
            for group, example in groups.examples.items()
            for row in _trajectory(example)
        )
        yield write_csv(folder / "trajectories.csv", rows, columns)
    if any(test.curves for test in comparison.range_tests):
        rows = (
            {"signature": test.entry.signature, "name": test.name, **row}
            for test in comparison.range_tests
            for row in _curves(test.curves)
        )
        yield write_csv(folder / "range_tests.csv", rows, ["signature", "name", *CURVE_COLUMNS])
    if comparison.maps:
        yield write_csv(folder / "stability_map.csv", _cells(comparison))


def write_range_test_csv(trial: TrialFolder) -> Path:
    """range_test.csv in the trial's folder."""
    curves = range_test_curves(journal.read(trial.journal), trial.headline())
    return write_csv(trial.path / "range_test.csv", _curves(curves), CURVE_COLUMNS)


def write_trials(path: Path, outcomes: Sequence[Outcome]) -> Path:
    """One row per trial: what it is, how it ended, every metric, and a column per key that varies.

    A varying key whose name is already that of a column is named KEY_asked.
    """
    rows = [_trial(outcome) for outcome in outcomes]
    varying = _union(varies for varies, _, _ in rows)
    fixed = _union(facts for _, facts, _ in rows)
    metrics = sorted(_union(metrics for _, _, metrics in rows))
    names = {key: f"{key}_asked" if key in {*fixed, *metrics} else key for key in varying}
    table = [facts | metrics | {names[key]: value for key, value in varies.items()} for varies, facts, metrics in rows]
    first = ["signature", "name", "kind"]
    rest = [column for column in fixed if column not in first]
    return write_csv(path, table, [*first, *names.values(), *rest, *metrics])


def _trial(outcome: Outcome) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """A trial's row: its varying keys, what is known about it, and its metrics."""
    facts = {
        "signature": outcome.entry.signature,
        "name": outcome.name,
        "kind": outcome.entry.kind,
        "status": outcome.status,
        "cause": outcome.cause,
        "max_lr": outcome.max_lr,
        "max_lr_from": outcome.resolved.get("max_lr_from"),
        "attempts": outcome.attempts,
        "steps": outcome.result.get("steps"),
        "target": outcome.entry.target,
        "steps_to_target": outcome.steps_to_target,
        "warnings": "; ".join(outcome.result.get("warnings", ())),
    }
    loss = {} if outcome.final_loss is None else {LOSS.final_val: outcome.final_loss}
    return outcome.entry.varies, facts, outcome.metrics | loss


def _claims(comparison: Comparison) -> Iterator[CsvRow]:
    """A row for each claim: its families, the budget, the numbers (in the measure's own unit), and the sentence."""
    for claim in comparison.claims.claims:
        yield {
            "name": claim.name,
            "baseline": claim.baseline,
            "budget": claim.budget,
            "measure": comparison.claims.measure,
            **_prefixed("difference", claim.difference),
            "p_adjusted": claim.p_adjusted,
            **_prefixed("speedup", claim.speedup),
            "kind": claim.kind,
            "sentence": claim.sentence,
        }


def _prefixed(name: str, numbers: Difference | Speedup | None) -> CsvRow:
    return {f"{name}_{key}": value for key, value in asdict(numbers).items()} if numbers else {}


def _evaluations(outcome: Outcome) -> Iterator[CsvRow]:
    """Each evaluation of a trial, with its 0-based step and the seconds of training before it."""
    first = {"signature": outcome.entry.signature, "name": outcome.name}
    for row in _by_step(outcome.evaluations):
        seconds = outcome.clock.get(row["step"])
        yield first | row | {"seconds": None if seconds is None else f"{seconds:.3f}"}


def _trajectory(example: Example) -> Iterator[CsvRow]:
    """Learning rate and momentum, used and planned."""
    used, planned = example.outcome.used, example.planned
    columns = {"lr": used.lr, "momentum": used.momentum}
    return _by_step(columns | {"planned_lr": planned.lr, "planned_momentum": planned.momentum}, STEPS_KEPT)


def _by_step(columns: Mapping[str, Series], about: int | None = None) -> Iterator[CsvRow]:
    """A row for each step that a series has, with the values there; with `about`, every n-th step and the last."""
    values = {name: dict(series.pairs()) for name, series in columns.items()}
    steps = sorted({step for column in values.values() for step in column})
    kept = steps[:: max(1, len(steps) // about)] if about else steps
    for step in [*kept, *(steps[-1:] if kept[-1:] != steps[-1:] else [])]:
        yield {"step": step} | {name: column.get(step) for name, column in values.items()}


def _curves(curves: Sequence[RangeTestCurve]) -> Iterator[CsvRow]:
    """The steps of a range test: `seed_run` and the `step` within that run count from 0."""
    for run, curve in enumerate(curves):
        for step, (lr, loss, smoothed) in enumerate(zip(curve.lr, curve.loss, curve.smoothed, strict=True)):
            known = None if math.isnan(smoothed) else smoothed
            yield {"seed_run": run, "step": step, "lr": lr, "loss": loss, "loss_smoothed": known}


def _cells(comparison: Comparison) -> Iterator[CsvRow]:
    """Each range test on a stability map: what it is, its largest stable rate, and its lowest loss."""
    for one in comparison.maps:
        for cell in one.cells:
            yield {
                **dict(one.rest),
                "name": cell.test.name,
                "status": cell.test.status,
                "weight_decay": cell.weight_decay,
                "momentum": cell.momentum,
                "lowest_loss": cell.lowest_loss,
                "max_lr": cell.max_lr,
                "largest_stable_lr": cell.limit,
                "diverged": None if cell.limit is None else not cell.stable,
                "picked": cell is one.pick,
            }


def _union(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys, in order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Path:
    """Write a CSV file, by default with all keys of its rows as columns, in order of first appearance."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, _union(rows) if columns is None else columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, text.getvalue())
    return path
