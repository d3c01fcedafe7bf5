"""Trials with journals written by hand, and what an sqlite store holds of them, read without MLflow."""

import importlib
import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onecycle_sweeps import journal
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry, Sweep
from onecycle_sweeps.trial_folder import TrialFolder

PER_STEP = ("schedule/lr", "schedule/momentum", "train/loss")
BLOCK = 40
# The name of the run of `training("a")`.
NAME = "onecycle max_lr=0.8 seed=0"
Row = tuple[str, int, float | None, int]


def training(signature: str, policy: str = "onecycle", **rest: Any) -> Entry:
    return Entry(signature, TRAIN, {"policy": policy, "seed": "0"}, None, **rest)


def range_test(signature: str) -> Entry:
    return Entry(signature, RANGE_TEST, {})


def shared_store(tmp_path: Path) -> str:
    """One store for all tests of a process, since creating one takes seconds; each test has its own experiment."""
    return f"sqlite:///{tmp_path.parent / 'store' / 'mlflow.db'}"


def sweep(folder: Path, *entries: Entry, uri: str | None = None, **rest: Any) -> Sweep:
    """A recorded sweep; its experiment is named after the folder."""
    fields = {"id": "5weeb1d0", "experiment": folder.name, "single": False, "command": ("policy=onecycle",)} | rest
    made = Sweep(
        runs_dir=folder / "runs",
        cwd=str(folder),
        created=1_700_000_000.0,
        git_commit="c0ffee-dirty",
        tracking_uri=uri or shared_store(folder),
        trials=entries,
        **fields,
    )
    made.save()
    return made


def attempt(
    trial: TrialFolder,
    start: int,
    stop: int,
    *,
    saved: int | None = None,
    end: str | None = None,
    shift: float = 0.0,
    losses: Sequence[float] = (),
    config: Mapping[str, Any] = MappingProxyType({"max_lr": "auto", "evaluations_per_epoch": 1}),
) -> None:
    """One more attempt over steps [start, stop), evaluated at its last step; `shift` is added to all values."""
    trial.create(dict(config))
    if trial.resolved() is None:
        trial.write("resolved", {"max_lr": 0.8, "max_lr_from": "range_test:r", "total_steps": 100})
    book = Journal(trial.journal, trial.attempts() + 1, start)
    for first in range(start, stop, BLOCK):
        steps = range(first, min(first + BLOCK, stop))
        columns = {name: [step / 100 + number + shift for step in steps] for number, name in enumerate(PER_STEP)}
        if losses:
            columns["train/loss"] = [losses[step % len(losses)] for step in steps]
        book.append(first, columns)
    book.append(stop - 1, {"val/accuracy": [stop / 100 + shift]})
    book.sync()
    if saved is not None:
        trial.checkpoint.write_text(f"attempt {trial.attempts()}, step {saved}")
        book.saved(saved)
    if end:
        book.end(end)


def finish(trial: TrialFolder, status: str = "finished", **result: Any) -> float:
    """Write the trial's result; returns its time."""
    now = time.time()
    number = trial.attempts()
    steps = journal.end_of_attempt(trial.journal, number) or 0
    fields = {"kind": "train", "cause": None, "metrics": {"seconds": 1.5}, "attempt": number, "warnings": []}
    sizes = {"steps": steps, "steps_per_epoch": steps}
    trial.write("result", {"status": status, **fields, **sizes, **result, "finished": now})
    trial.remove("checkpoint.pt")
    trial.remove("failure.json")
    return now


def fail(trial: TrialFolder, cause: str) -> float:
    """Give the trial a failure; returns the time that stands in it."""
    now = time.time()
    trial.write("failure", {"cause": cause, "attempt": trial.attempts(), "time": now})
    return now


def written(trial: TrialFolder, attempt: int, within: Callable[[int], bool] = lambda step: True) -> list[Row]:
    """The points in one attempt's file as a store should have them: metric, step, value (NaN is None), time in ms."""
    found: list[Row] = []
    for line in map(json.loads, (trial.journal / f"{attempt:04d}.jsonl").read_text().splitlines()):
        for name, values in line.get("metrics", {}).items():
            numbers = [value if abs(value) < float("inf") else None for value in values]
            found += [(name, line["step"] + i, v, round(line["time"] * 1000)) for i, v in enumerate(numbers)]
    return sorted((row for row in found if within(row[1])), key=lambda row: row[:2])


def stored(made: Sweep, signature: str) -> list[Row]:
    """The points that the sweep's store has of a trial."""
    (run_id,) = [run["id"] for run in runs(made).values() if run["tags"].get("signature") == signature]
    query = """SELECT key, step, CASE WHEN is_nan THEN NULL ELSE value END, timestamp FROM metrics
        WHERE run_uuid = ? AND (key IN ('train/loss', 'val/accuracy') OR key LIKE 'schedule/%') ORDER BY 1, 2, 3, 4"""
    return ask(made, query, run_id)


def runs(made: Sweep) -> dict[str, dict[str, Any]]:
    """The runs of a sweep's experiment by name: status, times in ms, tags, params and last metrics."""
    query = """SELECT r.run_uuid, r.name, r.status, r.start_time, r.end_time FROM runs r
        JOIN experiments e USING (experiment_id) WHERE e.name = ? AND r.lifecycle_stage = 'active'"""
    found: dict[str, dict[str, Any]] = {}
    for run_id, name, status, start, end in ask(made, query, made.experiment):
        assert name not in found, f"two runs are called {name}"
        found[name] = {"id": run_id, "status": status, "start": start, "end": end}
        for part in ("tags", "params", "latest_metrics"):
            found[name][part] = dict(ask(made, f"SELECT key, value FROM {part} WHERE run_uuid = ?", run_id))
    return found


def experiment_tags(made: Sweep) -> dict[str, str]:
    """The tags of the sweep's experiment."""
    query = "SELECT key, value FROM experiment_tags JOIN experiments e USING (experiment_id) WHERE e.name = ?"
    return dict(ask(made, query, made.experiment))


def whole_store(made: Sweep) -> dict[str, list[Any]]:
    """Every row of every table."""
    tables = ask(made, "SELECT name FROM sqlite_master WHERE type = 'table'")
    return {table: ask(made, f"SELECT * FROM {table}") for (table,) in tables}


def database(made: Sweep) -> Path:
    return Path(made.tracking_uri.removeprefix("sqlite:///"))


def client(made: Sweep) -> Any:
    """MLflow's own client of the sweep's store."""
    return importlib.import_module("mlflow").MlflowClient(made.tracking_uri)


def ask(made: Sweep, query: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(database(made))) as connection:
        return connection.execute(query, values).fetchall()
