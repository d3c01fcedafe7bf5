"""Many trials that write at once, and whoever ships them: how fast all of it arrives, and in how much memory."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import processes, stores
from benchmarks.loops import Incomplete
from benchmarks.tables import Result, Table
from benchmarks.trials import planned, recorded_sweep
from benchmarks.work import Options
from onecycle_sweeps import tracking
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.tracking.due import is_due

SERVER = Path(__file__).resolve().parent.parent / "mlflow-server"
STEPS_PER_SECOND, INTERVAL, GRACE = 100, 3.0, 900.0
SQLITE, ONE, JOBS = "sqlite, one shipper", "server, one shipper", "server, a shipper for each trial"
CAPTION = f"""Trials that write at once, {STEPS_PER_SECOND} steps a second each with rate, momentum and loss, a block \
and the mark of a checkpoint each second, as trainings do; beside them real shipping processes, which look every \
{INTERVAL:g} s. A row is a store and who ships to it; a server is MLflow with its login on PostgreSQL, on this very \
machine. Counted are the points and the seconds in which they were written, the seconds from the first one written to \
the last one in the store, the points that arrived in one of them, the points/s of one client that sends batches of \
1,000 by log_batch and does nothing else (the mean of a turn before and one after, to the same store) beside that, and \
the most memory that a shipping process had. Of the first and the last trial every point is looked for afterwards."""
ALONE = """
import sys, time
from mlflow import MlflowClient
from mlflow.entities import Metric
client = MlflowClient(sys.argv[1])
found = client.get_experiment_by_name("alone")
run = client.create_run(found.experiment_id if found else client.create_experiment("alone")).info.run_id
size = int(sys.argv[2])
batches = [
    [Metric(name, step / 7, 1, step) for step in range(first, first + 250) for name in "abcd"]
    for first in range(0, size // 4, 250)
]
client.log_batch(run, [Metric("warm", 0.0, 1, 0)])
began = time.monotonic()
for batch in batches:
    client.log_batch(run, batch)
print(size / (time.monotonic() - began))
"""


@dataclass(frozen=True)
class Load:
    """What one row measured; memory in MiB, `alone` in points/s."""

    trials: int
    points: int
    written: float
    arrived: float
    alone: float
    peak: float


def run(options: Options) -> Result:
    """One table; without PostgreSQL the server's rows are left out."""
    trials, seconds = (2, 2) if options.quick else (64, 30)
    measured = {
        SQLITE: loaded(
            options.scratch / "sqlite", f"sqlite:///{stores.made(options.scratch / 'load.db')}", trials, seconds
        )
    }
    left_out = []
    if any(map(shutil.which, ("initdb", "pg_ctlcluster"))):
        with server(options.scratch / "server") as uri:
            measured[ONE] = loaded(options.scratch / "one", uri, trials, max(2, seconds // 3))
            measured[JOBS] = loaded(options.scratch / "jobs", uri, min(8, trials), seconds, jobs=True)
    else:
        left_out.append("the server: no PostgreSQL here (apt-get install --no-install-recommends postgresql)")
    columns = ("store", "trials", "points", "written in s", "arrived in s", "points/s", "log_batch alone", "MiB")
    rows = [
        (name, one.trials, one.points, one.written, one.arrived, one.points / one.arrived, one.alone, one.peak)
        for name, one in measured.items()
    ]
    raw = {name: asdict(one) for name, one in measured.items()}
    return Result([Table("Many trials at once", CAPTION, columns, rows)], (), left_out, raw)


def loaded(folder: Path, uri: str, trials: int, seconds: int, jobs: bool = False) -> Load:
    """Write, ship and count; with `jobs` each trial has a shipper of its own."""
    runs_dir = folder / "runs"
    asked = [planned(runs_dir, f"seed={seed}", "max_lr=0.1", "policy=constant") for seed in range(trials)]
    made = replace(recorded_sweep(runs_dir, folder / "unused", *asked), tracking_uri=uri, experiment=folder.name)
    made.save()
    for one in asked:
        made.trial(one.signature).create(one.config)
    points = trials * seconds * STEPS_PER_SECOND * len(stores.OURS)
    before = alone(uri)
    tracking.ship(made)
    began = time.monotonic()
    with ExitStack() as stack:
        shippers = [
            tracking.Shipper(made.folder, only=one, interval=INTERVAL, grace=GRACE)
            for one in ([entry.signature for entry in made.trials] if jobs else [""])
        ]
        for shipper in shippers:
            stack.enter_context(shipper)
        write(made, seconds)
        written = time.monotonic() - began
        peak = wait(made)
    arrived = time.monotonic() - began
    check(made, seconds * STEPS_PER_SECOND)
    return Load(trials, points, written, arrived, (before + alone(uri)) / 2, peak)


def write(made: Sweep, seconds: int) -> None:
    """What trainings at work write, then their results."""
    total = seconds * STEPS_PER_SECOND
    facts = {"max_lr": 0.1, "max_lr_from": "config", "total_steps": total, "steps_per_epoch": total}
    with ExitStack() as stack:
        books = {}
        for trial in [made.trial(entry.signature) for entry in made.trials]:
            stack.enter_context(trial.lock())
            trial.write("resolved", facts)
            books[trial] = Journal(trial.journal, 1, 0)
        began = time.monotonic()
        for first in range(0, total, STEPS_PER_SECOND):
            for trial, book in books.items():
                steps = range(first, first + STEPS_PER_SECOND)
                book.append(first, {name: [step / 7 for step in steps] for name in stores.OURS})
                trial.checkpoint.write_text(str(first))
                book.saved(first + STEPS_PER_SECOND)
            time.sleep(max(0.0, began + (first + STEPS_PER_SECOND) / STEPS_PER_SECOND - time.monotonic()))
        result = {"status": "finished", "cause": None, "metrics": {"seconds": 1.0}, "steps": total, "warnings": []}
        for trial, book in books.items():
            trial.write("result", result | {"attempt": 1, "finished": time.time(), "kind": "train"})
            book.saved(total)
            book.end("finished")


def wait(made: Sweep) -> float:
    """Wait until all has arrived; returns the most memory that a shipping process has had by then, in MiB."""
    while is_due(made):
        time.sleep(0.5)
    return max(processes.peak(process) or 0.0 for process in processes.tree(os.getpid())[1:])


def check(made: Sweep, steps: int) -> None:
    """Raise Incomplete unless the first and the last trial have each step once."""
    from mlflow import MlflowClient

    client, book = MlflowClient(made.tracking_uri), ledger.load(made)
    for entry in (made.trials[0], made.trials[-1]):
        for name in stores.OURS:
            found = [point.step for point in client.get_metric_history(book.runs[entry.signature].run_id, name)]
            if sorted(found) != list(range(steps)):
                raise Incomplete(f"of {steps} steps of {name} the store has {len(set(found))}, {len(found)} points")


def alone(uri: str) -> float:
    """The points/s of one client that sends batches and does nothing else."""
    words = [sys.executable, "-W", "ignore", "-c", ALONE, uri, "20000"]
    return float(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a server from nothing, to which this process has the login; it is down afterwards."""
    script = str(SERVER)
    environment = os.environ | {"PYTHON": sys.executable}
    try:
        done = subprocess.run(
            [script, "up", str(folder)], stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
        os.environ["MLFLOW_TRACKING_PASSWORD"] = (folder / "secrets" / "mlflow_admin_password").read_text()
        yield next(line.partition("=")[2] for line in done.stdout.splitlines() if "TRACKING_URI=" in line)
    finally:
        subprocess.run([script, "down", str(folder)], stdout=subprocess.DEVNULL, check=False, env=environment)
        if (folder / "database").exists():
            shutil.rmtree((folder / "database").resolve())
