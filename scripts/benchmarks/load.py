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
from benchmarks.page import Result, comparison
from benchmarks.peers import mlflow_client
from benchmarks.program import STEP_METRICS
from benchmarks.work import Options
from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger

SERVER = Path(__file__).resolve().parent.parent / "mlflow-server"
INTERVAL, GRACE = 3.0, 900.0
CAPTION = f"""Trials that write {program.BLOCK} steps a second each with rate, momentum and loss, an evaluation and a \
checkpoint's mark; beside them shipping processes, which look every {INTERVAL:g} s. A server is MLflow with its login \
on PostgreSQL, on this machine. Counted are the points of the steps, the seconds in which they were written and in \
which the last one arrived, the points/s of one client that only calls log_batch with 1,000 points (the mean of a turn \
before and one after), and the peak memory of a shipping process. The first and the last trial are read back."""


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
    store = f"sqlite:///{program.fresh_store(folder)}"
    taken = {"sqlite, one shipper": measure(folder / "sqlite", store, trials, seconds)}
    if shutil.which("initdb") or shutil.which("pg_ctlcluster"):
        with server(folder / "server") as uri:
            taken["server, one shipper"] = measure(folder / "one", uri, trials, max(2, seconds // 3))
            each = measure(folder / "jobs", uri, min(8, trials), seconds, shipper_each=True)
            taken["server, a shipper for each trial"] = each
    else:
        left_out.append("the server: no PostgreSQL here (apt-get install --no-install-recommends postgresql)")
    columns = {
        "trials": lambda name: taken[name].trials,
        "points": lambda name: taken[name].points,
        "written in s": lambda name: taken[name].written,
        "arrived in s": lambda name: taken[name].arrived,
        "points/s": lambda name: taken[name].points / taken[name].arrived,
        "log_batch alone": lambda name: taken[name].alone,
        "MiB": lambda name: taken[name].peak,
    }
    return Result([comparison("Many trials at once", CAPTION, "store", taken, columns)], (), left_out, taken)


def measure(folder: Path, uri: str, trials: int, seconds: int, shipper_each: bool = False) -> Load:
    """Write and ship a sweep, with one shipper, or one for each trial."""
    made, steps = program.sweep_of_seeds(folder, uri, trials), seconds * program.BLOCK
    signatures = [entry.signature for entry in made.trials]
    before = processes.apart(mlflow_client.speed, uri, 20_000)
    tracking.ship(made)
    began = time.monotonic()
    with ExitStack() as stack:
        for only in signatures if shipper_each else [""]:
            stack.enter_context(tracking.Shipper(made.folder, only=only, interval=INTERVAL, grace=GRACE))
        program.write([made.trial(signature) for signature in signatures], steps, block_seconds=1)
        written = time.monotonic() - began
        while tracking.is_due(made):
            time.sleep(0.5)
        peak = max(processes.peak(process) or 0.0 for process in processes.tree(os.getpid())[1:])
    arrived = time.monotonic() - began
    check(made, steps)
    after = processes.apart(mlflow_client.speed, uri, 20_000)
    return Load(trials, trials * steps * len(STEP_METRICS), written, arrived, (before + after) / 2, peak)


def check(made: Sweep, steps: int) -> None:
    """Raise Incomplete unless the store has each step of the first and of the last trial once."""
    from mlflow import MlflowClient

    client, runs = MlflowClient(made.tracking_uri), ledger.load(made).runs
    for entry in (made.trials[0], made.trials[-1]):
        run = runs[entry.signature].run_id
        found = {name: sorted(point.step for point in client.get_metric_history(run, name)) for name in STEP_METRICS}
        program.check_steps(f"run {run}", found, STEP_METRICS, steps)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a new server, with this process logged in; it is stopped afterwards.

    Raises RuntimeError with the end of the server's logs if it does not start.
    """
    environment = os.environ | {"PYTHON": sys.executable}
    try:
        done = subprocess.run([SERVER, "up", folder], capture_output=True, text=True, env=environment)
        if done.returncode:
            logs = "".join(f"\n{log}: {log.read_text()[-2000:]}" for log in folder.glob("log/*.log"))
            raise RuntimeError(f"scripts/mlflow-server up ended with {done.returncode}: {done.stderr}{logs}")
        os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
        os.environ["MLFLOW_TRACKING_PASSWORD"] = (folder / "secrets" / "mlflow_admin_password").read_text()
        yield next(line.partition("=")[2] for line in done.stdout.splitlines() if "TRACKING_URI=" in line)
    finally:
        subprocess.run([SERVER, "down", folder], stdout=subprocess.DEVNULL, env=environment)
        if (folder / "database").exists():
            shutil.rmtree((folder / "database").resolve())
