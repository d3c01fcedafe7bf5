"""Many trials that write at once, and the processes that ship them: how fast all of it arrives, in how much memory."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes, program
from benchmarks.page import Incomplete, Result, Table
from benchmarks.peers import mlflow_client
from benchmarks.program import STEP_METRICS, Stores
from benchmarks.work import Options
from onecycle_sweeps import tracking
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger

SERVER = Path(__file__).resolve().parent.parent / "mlflow-server"
STEPS_PER_SECOND, INTERVAL, GRACE = 100, 3.0, 900.0
CAPTION = f"""Trials that write at once, {STEPS_PER_SECOND} steps a second each with rate, momentum and loss, a block \
and the mark of a checkpoint each second, as trainings do; beside them real shipping processes, which look every \
{INTERVAL:g} s. A row is a store and its shippers; a server is MLflow with its login on PostgreSQL, on this machine. \
Counted are the points and the seconds in which they were written, the seconds from the first one written to the last \
one in the store, the points that arrived in a second, the points/s of one client that only sends batches of 1,000 by \
log_batch (the mean of a turn before and one after, to the same store), and the peak memory of a shipping process. \
Every point of the first and of the last trial is looked up afterwards."""


@dataclass(frozen=True)
class Load:
    """The measurements of a row; memory in MiB, `alone` in points/s."""

    trials: int
    points: int
    written: float
    arrived: float
    alone: float
    peak: float


def run(options: Options) -> Result:
    """One table; without PostgreSQL the server's rows are left out."""
    trials, seconds = (2, 2) if options.quick else (64, 30)
    folder, left_out = options.scratch, []
    store = f"sqlite:///{Stores(folder).fresh()}"
    measured = {"sqlite, one shipper": measure(folder / "sqlite", store, trials, seconds)}
    if any(map(shutil.which, ("initdb", "pg_ctlcluster"))):
        with server(folder / "server") as uri:
            measured["server, one shipper"] = measure(folder / "one", uri, trials, max(2, seconds // 3))
            each = measure(folder / "jobs", uri, min(8, trials), seconds, shipper_each=True)
            measured["server, a shipper for each trial"] = each
    else:
        left_out.append("the server: no PostgreSQL here (apt-get install --no-install-recommends postgresql)")
    columns = ("store", "trials", "points", "written in s", "arrived in s", "points/s", "log_batch alone", "MiB")
    rows = [
        (name, one.trials, one.points, one.written, one.arrived, one.points / one.arrived, one.alone, one.peak)
        for name, one in measured.items()
    ]
    return Result([Table("Many trials at once", CAPTION, columns, rows)], (), left_out, measured)


def measure(folder: Path, uri: str, trials: int, seconds: int, shipper_each: bool = False) -> Load:
    """Write and ship a sweep, with one shipper, or one for each trial."""
    runs_dir = folder / "runs"
    planned = [program.planned(runs_dir, f"seed={seed}", "max_lr=0.1", "policy=constant") for seed in range(trials)]
    made = program.recorded_sweep(runs_dir, uri, folder.name, planned)
    for trial in planned:
        made.trial(trial.signature).create(trial.config)
    before = processes.apart(mlflow_client.speed, uri, 20_000)
    tracking.ship(made)
    began = time.monotonic()
    with ExitStack() as stack:
        for only in [entry.signature for entry in made.trials] if shipper_each else [""]:
            stack.enter_context(tracking.Shipper(made.folder, only=only, interval=INTERVAL, grace=GRACE))
        write(made, seconds)
        written = time.monotonic() - began
        while tracking.is_due(made):
            time.sleep(0.5)
        peak = max(processes.peak(process) or 0.0 for process in processes.tree(os.getpid())[1:])
    arrived = time.monotonic() - began
    check(made, seconds * STEPS_PER_SECOND)
    after = processes.apart(mlflow_client.speed, uri, 20_000)
    points = trials * seconds * STEPS_PER_SECOND * len(STEP_METRICS)
    return Load(trials, points, written, arrived, (before + after) / 2, peak)


def write(made: Sweep, seconds: int) -> None:
    """Write what running trainings write, then their results."""
    total = seconds * STEPS_PER_SECOND
    facts = {"max_lr": 0.1, "max_lr_from": "config", "total_steps": total, "steps_per_epoch": total}
    with ExitStack() as stack:
        writers = {}
        for trial in [made.trial(entry.signature) for entry in made.trials]:
            stack.enter_context(trial.lock())
            trial.write("resolved", facts)
            writers[trial] = Journal(trial.journal, 1, 0)
        began = time.monotonic()
        for first in range(0, total, STEPS_PER_SECOND):
            for trial, writer in writers.items():
                steps = range(first, first + STEPS_PER_SECOND)
                writer.append(first, {name: [step / 7 for step in steps] for name in STEP_METRICS})
                trial.checkpoint.write_text(str(first))
                writer.saved(first + STEPS_PER_SECOND)
            time.sleep(max(0.0, began + (first + STEPS_PER_SECOND) / STEPS_PER_SECOND - time.monotonic()))
        for trial, writer in writers.items():
            trial.write("result", program.result(total))
            writer.saved(total)
            writer.end("finished")


def check(made: Sweep, steps: int) -> None:
    """Raise Incomplete unless the store has each step of the first and of the last trial once."""
    from mlflow import MlflowClient

    client, runs = MlflowClient(made.tracking_uri), ledger.load(made).runs
    for entry in (made.trials[0], made.trials[-1]):
        for name in STEP_METRICS:
            found = [point.step for point in client.get_metric_history(runs[entry.signature].run_id, name)]
            if sorted(found) != list(range(steps)):
                raise Incomplete(f"of {steps} steps of {name} the store has {len(set(found))}, {len(found)} points")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a new server, with this process logged in; it is stopped afterwards."""
    environment = os.environ | {"PYTHON": sys.executable}
    try:
        up = [str(SERVER), "up", str(folder)]
        done = subprocess.run(up, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
        os.environ["MLFLOW_TRACKING_PASSWORD"] = (folder / "secrets" / "mlflow_admin_password").read_text()
        yield next(line.partition("=")[2] for line in done.stdout.splitlines() if "TRACKING_URI=" in line)
    finally:
        subprocess.run([str(SERVER), "down", str(folder)], stdout=subprocess.DEVNULL, check=False, env=environment)
        if (folder / "database").exists():
            shutil.rmtree((folder / "database").resolve())
