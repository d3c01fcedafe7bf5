"""Journals and MLflow stores: how fast finished and growing journals are shipped, beside MLflow's own client."""

import functools
import gc
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import processes
from benchmarks.page import Cell, Result, Table
from benchmarks.timing import Cost, interleaved, timed
from benchmarks.work import STEP_METRICS, Incomplete, Options, Points, check_steps, planned
from onecycle_sweeps import journal, sweep, tracking
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.planning import Trial
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.trial_folder import TrialFolder

# MLflow, like torchvision in other files, is imported where it is used: it takes seconds.
if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Read before this program's shipping sets another for its process.
DEFAULT_THRESHOLD = gc.get_threshold()
BLOCK, BATCH = 100, 1000
SERVER = Path(__file__).resolve().parent.parent / "mlflow-server"
OURS, THEIRS, AGAIN = "this program's shipping", "MlflowClient.log_batch, 1,000 a call", "the same shipping again"
TUNED = "log_batch with this program's garbage collection"
INTERVAL, GRACE = 3.0, 900.0
LOAD_COLUMNS = ("store", "trials", "points", "written in s", "arrived in s", "points/s", "log_batch points/s", "MiB")
Point = tuple[str, float, int, int]


def ingestion(options: Options) -> Result:
    """Finished journals into a local store; each turn but "again" has an empty one."""
    trials, steps = (2, 200) if options.quick else (24, 936)
    made = sweep_of_seeds(options.scratch, "sqlite:///unused.db", trials)
    write([made.trial(entry.signature) for entry in made.trials], steps)
    series = [journal_points(made.trial(entry.signature)) for entry in made.trials]
    log_all = partial(log_batches, runs=series)

    def filled(fill: Callable[[str], object]) -> Cost:
        uri = fresh_store(options.scratch)
        cost = timed(partial(fill, uri))
        check_store(uri, STEP_METRICS, trials, steps)
        return cost

    def ship(uri: str) -> None:
        nonlocal made
        made = replace(made, tracking_uri=uri)
        made.save()
        tracking.ship(made)

    def theirs() -> Cost:
        """The same batches in a process that has not loaded this program."""
        frozen, threshold = gc.get_freeze_count(), gc.get_threshold()
        gc.unfreeze()
        gc.set_threshold(*DEFAULT_THRESHOLD)
        cost = filled(log_all)
        gc.set_threshold(*threshold)
        if frozen:
            gc.freeze()
        return cost

    sides = {
        THEIRS: theirs,
        OURS: lambda: filled(ship),
        AGAIN: lambda: timed(lambda: tracking.ship(made)),
        TUNED: lambda: filled(log_all),
    }
    taken, points = interleaved(sides, options.rounds), sum(map(len, series))
    caption = f"""{trials} finished trials of {steps} steps, {points:,} points in all with an evaluation every {BLOCK} \
steps, into an empty sqlite store; "again" has nothing left to ship. {options.turns}"""
    speed = {"points/s": lambda way: points / taken.wall(way) if way != AGAIN else None}
    return Result([taken.table("Journals to MLflow", caption, "way", "s", **speed)], (), (), taken)


def load(options: Options) -> Result:
    """Many trials that write at once; the rows with a server need PostgreSQL."""
    trials, seconds = (2, 2) if options.quick else (64, 30)
    left_out, uri = [], fresh_store(options.scratch)
    rows = [load_row(options.scratch / "sqlite, one shipper", uri, trials, seconds)]
    if shutil.which("initdb") or shutil.which("pg_ctlcluster"):
        with server(options.scratch / "server") as uri:
            rows.append(load_row(options.scratch / "server, one shipper", uri, trials, max(2, seconds // 3)))
            each = options.scratch / "server, a shipper for each trial"
            rows.append(load_row(each, uri, min(8, trials), seconds, shipper_each=True))
    else:
        left_out.append("the server: no PostgreSQL here (apt-get install --no-install-recommends postgresql)")
    caption = f"""Trials that write {BLOCK} steps a second each, and shippers that look every {INTERVAL:g} s, until \
all has arrived. log_batch is a client that does nothing else; MiB is the peak of a shipping process."""
    table = Table("Many trials at once", caption, LOAD_COLUMNS, rows)
    return Result([table], (), left_out, {str(row[0]): row[1:] for row in rows})


def load_row(folder: Path, uri: str, trials: int, seconds: int, shipper_each: bool = False) -> Sequence[Cell]:
    """Write and ship a sweep; raises Incomplete unless each step of its first and last trial has arrived."""
    made, steps = sweep_of_seeds(folder, uri, trials), seconds * BLOCK
    signatures = [entry.signature for entry in made.trials]
    before = processes.apart(client_speed, uri, 20_000)
    tracking.ship(made)
    began = time.monotonic()
    with ExitStack() as stack:
        for only in signatures if shipper_each else [""]:
            stack.enter_context(tracking.Shipper(made.folder, only=only, interval=INTERVAL, grace=GRACE))
        write([made.trial(signature) for signature in signatures], steps, block_seconds=1)
        written = time.monotonic() - began
        while tracking.is_due(made):
            time.sleep(0.5)
        peak = max(processes.mebibytes(process, "status", "VmHWM:") for process in processes.tree(os.getpid())[1:])
    arrived, points = time.monotonic() - began, trials * steps * len(STEP_METRICS)
    for signature in (signatures[0], signatures[-1]):
        run = ledger.load(made).runs[signature].run_id
        check_steps(f"run {run}", logged(uri, run, STEP_METRICS), STEP_METRICS, steps)
    alone = (before + processes.apart(client_speed, uri, 20_000)) / 2
    return folder.name, trials, points, written, arrived, points / arrived, alone, peak


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a server on PostgreSQL, with this process logged in; it is stopped afterwards."""
    environment = os.environ | {"PYTHON": sys.executable}
    try:
        done = subprocess.run([SERVER, "up", folder], stdout=subprocess.PIPE, text=True, env=environment, check=True)
        os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
        os.environ["MLFLOW_TRACKING_PASSWORD"] = (folder / "secrets" / "mlflow_admin_password").read_text()
        yield next(line.partition("=")[2] for line in done.stdout.splitlines() if "TRACKING_URI=" in line)
    finally:
        subprocess.run([SERVER, "down", folder], stdout=subprocess.DEVNULL, env=environment)
        if (folder / "database").exists():
            shutil.rmtree((folder / "database").resolve())


def log_batches(uri: str, runs: Iterable[Sequence[Point]]) -> None:
    """Create a run for each sequence of points (name, value, milliseconds, step), and log them in full batches."""
    from mlflow.entities import Metric

    client = client_of(uri)
    found = client.get_experiment_by_name("benchmark")
    experiment_id = found.experiment_id if found else client.create_experiment("benchmark")
    for points in runs:
        run = client.create_run(experiment_id).info.run_id
        metrics = [Metric(*point) for point in points]
        for first in range(0, len(metrics), BATCH):
            client.log_batch(run, metrics[first : first + BATCH])
        client.set_terminated(run)


def client_speed(uri: str, size: int) -> float:
    """The points/s of a client that does nothing else, after a first run that is not counted."""
    points = [(name, step / 7, 1, step) for step in range(size // 4) for name in "abcd"]
    log_batches(uri, [points[:1]])
    return size / timed(partial(log_batches, uri, [points])).wall


def journal_points(trial: TrialFolder) -> list[Point]:
    """All points of a trial's journal."""
    return [
        (name, value, round(1000 * block.time), block.step + i)
        for block in journal.read(trial.journal).blocks
        for name, values in block.metrics.items()
        for i, value in enumerate(values)
    ]


def recorded_sweep(folder: Path, uri: str, trials: Sequence[Trial]) -> Sweep:
    """A sweep of trials in `folder`/runs, recorded as the command records it, whose store is `uri`."""
    entries = sweep.entries(trials)
    fixed = {"command": (), "cwd": str(folder), "created": time.time(), "git_commit": None, "single": False}
    identity = sweep.identity(entry.signature for entry in entries)
    made = Sweep(
        id=identity, runs_dir=folder / "runs", tracking_uri=uri, experiment=folder.name, trials=entries, **fixed
    )
    made.save()
    return made


def sweep_of_seeds(folder: Path, uri: str, seeds: int) -> Sweep:
    """A recorded sweep of trials that differ in their seed, each with its folder."""
    trials = [planned(folder / "runs", f"seed={seed}", "max_lr=0.1", "policy=constant") for seed in range(seeds)]
    made = recorded_sweep(folder, uri, trials)
    for trial in trials:
        made.trial(trial.signature).create(trial.config)
    return made


def write(trials: Sequence[TrialFolder], steps: int, block_seconds: float = 0.0) -> None:
    """Write what trainings write at once, a block of each trial every so many seconds, then their results."""
    facts = {"max_lr": 0.1, "max_lr_from": "config", "total_steps": steps, "steps_per_epoch": steps}
    with ExitStack() as stack:
        journals = {}
        for trial in trials:
            stack.enter_context(trial.lock())
            trial.write("resolved", facts)
            journals[trial] = Journal(trial.journal, 1, 0)
        began = time.monotonic()
        for number, (first, stop) in enumerate(pairwise([*range(0, steps, BLOCK), steps]), 1):
            for trial, written in journals.items():
                written.append(first, {name: [step / steps for step in range(first, stop)] for name in STEP_METRICS})
                written.append(stop - 1, {"val/loss": [1 / stop], "val/accuracy": [stop / steps]})
                trial.checkpoint.write_text(str(stop))
                written.saved(stop)
            time.sleep(max(0.0, began + number * block_seconds - time.monotonic()))
        ended = {"status": "finished", "cause": None, "steps": steps, "warnings": [], "attempt": 1, "kind": "train"}
        metrics = {"seconds": 1.0, "final/val_accuracy": 1.0, "best/val_accuracy": 1.0}
        for trial, written in journals.items():
            trial.write("result", ended | {"finished": time.time(), "metrics": metrics})
            written.end("finished")


def fresh_store(folder: Path) -> str:
    """The URI of a new sqlite store without runs; its schema takes seconds to make, so it is copied."""
    return f"sqlite:///{shutil.copy(_empty_store(folder), folder / f'{uuid.uuid4().hex}.db')}"


@functools.cache
def _empty_store(folder: Path) -> Path:
    client_of(f"sqlite:///{folder}/empty.db").search_experiments()
    return folder / "empty.db"


def client_of(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(uri)


def logged(uri: str, run: str, metrics: Sequence[str]) -> Points:
    """The steps at which a run has a point of each metric, as often as they are there."""
    client = client_of(uri)
    return {metric: sorted(point.step for point in client.get_metric_history(run, metric)) for metric in metrics}


def check_store(uri: str, metrics: Sequence[str], count: int, steps: int) -> "list[Run]":
    """The runs that have metrics; raises Incomplete unless there are `count`, with each step of each metric once."""
    client = client_of(uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments) if metrics[0] in run.data.metrics]
    if len(runs) != count:
        raise Incomplete(f"{uri} has {metrics[0]} of {len(runs)} runs, and must have it of {count}")
    for run in runs:
        check_steps(f"run {run.info.run_id}", logged(uri, run.info.run_id, metrics), metrics, steps)
    return runs
