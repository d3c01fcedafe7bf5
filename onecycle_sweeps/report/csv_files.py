"""A sweep's trials and claims, and a range test's curves as CSV files."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from onecycle_sweeps import files, journal
from onecycle_sweeps.outcome import Outcome, range_test_curves, read
from onecycle_sweeps.report.claims import Claims
from onecycle_sweeps.report.stability_map import StabilityMap
from onecycle_sweeps.report.statistics import Difference, Speedup
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import TrialFolder

# The fields of a difference and of a speed-up bear its name before theirs.
CLAIM_COLUMNS = (
    *("name", "baseline", "budget", "measure"),
    *(f"difference_{field.name}" for field in fields(Difference)),
    "p_adjusted",
    *(f"speedup_{field.name}" for field in fields(Speedup)),
    "kind",
    "sentence",
)


def write_csv(sweep: Sweep, path: Path, outcomes: Sequence[Outcome] | None = None) -> Path:
    """One row per trial: what it is, how it ended, and every metric; a column per key that varies.

    A varying key that is also a column of its own is named KEY_asked. `outcomes` spares a second reading.
    """
    rows = [_trial(outcome) for outcome in (read(sweep) if outcomes is None else outcomes)]
    varying = _union(asked for asked, _, _ in rows)
    fixed = _union(facts for _, facts, _ in rows)
    metrics = sorted(_union(metrics for _, _, metrics in rows))
    names = {key: f"{key}_asked" if key in {*fixed, *metrics} else key for key in varying}
    table = [facts | metrics | {names[key]: value for key, value in asked.items()} for asked, facts, metrics in rows]
    first = ["signature", "name", "kind"]
    rest = [column for column in fixed if column not in first]
    return write_rows(path, [*first, *names.values(), *rest, *metrics], table)


def write_claims_csv(claims: Claims, path: Path) -> Path:
    """One row per claim: who is compared at what budget, the numbers (differences in fractions of 1), the sentence."""
    rows = [
        {"name": claim.name, "baseline": claim.baseline, "budget": claim.budget, "measure": claims.measure}
        | _prefixed("difference", claim.difference)
        | {"p_adjusted": claim.p_adjusted}
        | _prefixed("speedup", claim.speedup)
        | {"kind": claim.kind, "sentence": claim.sentence}
        for claim in claims.claims
    ]
    return write_rows(path, CLAIM_COLUMNS, rows)


def write_range_test_csv(trial: TrialFolder) -> Path:
    """range_test.csv in the trial's folder: seed_run (0-based), step within that run, lr, loss, loss_smoothed."""
    curves = range_test_curves(journal.read(trial.journal))
    rows = [
        {"seed_run": run, "step": step, "lr": lr, "loss": loss, "loss_smoothed": known(smoothed)}
        for run, curve in enumerate(curves)
        for step, (lr, loss, smoothed) in enumerate(zip(curve.lr, curve.loss, curve.smoothed, strict=True))
    ]
    return write_rows(trial.path / "range_test.csv", ["seed_run", "step", "lr", "loss", "loss_smoothed"], rows)


def write_stability_csv(maps: Sequence[StabilityMap], path: Path) -> list[Path]:
    """One row per range test: what it is, its largest stable rate and lowest loss; nothing without a map."""
    if not maps:
        return []
    columns = ["name", "status", "weight_decay", "momentum", "largest_stable_lr", "diverged", "lowest_loss", "max_lr"]
    rows = [
        {
            **dict(one.rest),
            **{key: getattr(cell, key) for key in columns if hasattr(cell, key)},
            "largest_stable_lr": cell.limit,
            "diverged": None if cell.limit is None else not cell.stable,
            "picked": cell is one.pick,
        }
        for one in maps
        for cell in one.cells
    ]
    return [write_rows(path, _union(rows), rows)]


def _trial(outcome: Outcome) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """What was asked of a trial, what is known of it, and its metrics."""
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
        "target_accuracy": outcome.entry.target_accuracy,
        "steps_to_target": outcome.steps_to_target,
        "warnings": "; ".join(outcome.result.get("warnings", ())),
    }
    loss = {"final/val_loss": outcome.val_loss.values[-1]} if outcome.finished and outcome.val_loss else {}
    return outcome.entry.varies, facts, outcome.metrics | loss


def _prefixed(name: str, numbers: Difference | Speedup | None) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in asdict(numbers).items()} if numbers else {}


def _union(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys, in order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def known(value: float) -> float | None:
    """A value for a cell, which stays empty where there is none."""
    return None if math.isnan(value) else value


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, text.getvalue())
    return path
