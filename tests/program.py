"""The program as its users run it: whole processes, each test's in a folder of its own."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

import real_trials
import warm
from onecycle_sweeps import journal, measures, sweep
from onecycle_sweeps.launching import pool
from onecycle_sweeps.launching.pool import Worker, WorkerPool
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.planning import Planner
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import TrialFolder

MODULE = (sys.executable, "-m", "onecycle_sweeps")
SCRIPT = (str(Path(sys.executable).with_name("onecycle-sweeps")),)
QUICK = ("policy=constant", "max_lr=0.1", "epochs=1")
TIMEOUT_SECONDS = 300
NEW_STORE = "import sys; from onecycle_sweeps.tracking.store import connected\nwith connected(sys.argv[1]): pass"
SERIES = (journal.LR, journal.MOMENTUM, journal.TRAIN_LOSS, measures.LOSS.val, measures.ACCURACY.val)


def run(
    folder: Path,
    *arguments: str,
    program: Sequence[str] = MODULE,
    fresh: bool = False,
    pictures: bool = False,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """A command from its start to its end; by `fresh` its Python and its libraries are loaded anew.

    One that is not fresh leaves the pictures of its report empty unless `pictures` is set.
    """
    outside = os.environ | env
    if not fresh:
        outside = warm.environment(shared(folder), outside, pictures=pictures)
    return ended([*program, *arguments], folder, outside)


def ended(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float = TIMEOUT_SECONDS
) -> subprocess.CompletedProcess[str]:
    """A command with this environment, which may be forked, after its end."""
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=null, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@contextmanager
def start(
    folder: Path, *arguments: str, background: bool = False, fresh: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """A command as a terminal starts it: the head of a process group, to which Ctrl-C is sent; a failing test kills it.

    One that a shell script starts in the background ignores Ctrl-C.
    """
    pipe, ignoring = subprocess.PIPE, ("sh", "-c", 'trap "" INT; exec "$@"', "sh") if background else ()
    command = [*ignoring, *MODULE, *arguments]
    variables = os.environ if fresh else warm.environment(shared(folder))
    with subprocess.Popen(
        command, cwd=folder, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def with_data(folder: Path, runs_dir: str = "runs") -> Path:
    """The folder with a runs_dir whose data sets are decoded already, for all tests of a session."""
    decoded, runs = shared(folder) / "decoded", folder / runs_dir
    for needed in (decoded, runs):
        needed.mkdir(exist_ok=True)
    if not (runs / "data").exists():
        (runs / "data").symlink_to(decoded)
    return folder


def with_store(folder: Path) -> Path:
    """The folder with decoded data and an empty MLflow store, which a session makes once, since it takes seconds."""
    if (folder / "mlflow.db").exists():
        return folder
    base = shared(folder)
    made, part = base / "empty-store.db", base / "empty-store.part"
    with (base / "empty-store.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not made.exists():
            subprocess.run([sys.executable, "-c", NEW_STORE, f"sqlite:///{part}"], check=True, capture_output=True)
            part.rename(made)
    shutil.copy(made, folder / "mlflow.db")
    return with_data(folder)


def shared(folder: Path) -> Path:
    """The folder that all processes of a test session share, found from the temporary folder of a test or a fixture."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        return next(path.parent for path in folder.parents if path.name == f"popen-{worker}")
    return next((path for path in folder.parents if path.parent.name.startswith("pytest-of-")), folder.parent)


def sweep_of(folder: Path, name: str | None = None) -> Sweep:
    """The latest sweep in a folder, or the one of that name."""
    return sweep.find(folder / "runs", name)


def trials(folder: Path) -> dict[str, TrialFolder]:
    """The folders of all trials by signature."""
    return {path.parent.name: TrialFolder(path.parent) for path in folder.glob("runs/*/config.yaml")}


def helpers(folder: Path) -> list[int]:
    """The ids of the processes that commands in a folder have started: workers, and those that ship to MLflow."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_helper(path, folder)]


def _is_helper(process: Path, folder: Path) -> bool:
    try:
        words = (process / "cmdline").read_text().split("\0")
        ours = ("onecycle_sweeps.", warm.__file__)
        is_ours = any(word.startswith(ours) or pool.PRELOADED[0] in word for word in words)
        return is_ours and (process / "cwd").resolve() == folder
    except OSError:
        return False


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Return once the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.05)


def ask(folder: Path, query: str, *values: Any) -> list[Any]:
    """The rows that a folder's MLflow store answers with."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return store.execute(query, values).fetchall()


def runs_of(folder: Path, signature: str) -> list[tuple[str, str, str]]:
    """The id, the MLflow status and the sweep of each active run of a trial."""
    query = """SELECT run_uuid, status, sweep.value FROM runs JOIN tags AS signed USING (run_uuid)
        JOIN tags AS sweep USING (run_uuid) WHERE lifecycle_stage = 'active' AND sweep.key = 'sweep'
        AND signed.key = 'signature' AND signed.value = ?"""
    return ask(folder, query, signature)


def tags_of(folder: Path, signature: str) -> dict[str, str]:
    """The tags of a trial's only run."""
    ((run_id, _, _),) = runs_of(folder, signature)
    return dict(ask(folder, "SELECT key, value FROM tags WHERE run_uuid = ?", run_id))


def points(folder: Path, run_id: str) -> list[tuple[str, int, float]]:
    """Each step's values in a run, as often as they are there."""
    query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step"
    return [row for row in ask(folder, query, run_id) if row[0] in SERIES]


def recorded_points(trial: TrialFolder) -> list[tuple[str, int, float]]:
    """The values that a training's journal has, in the order of `points`."""
    record = journal.read(trial.journal)
    return [(name, *row) for name in sorted(SERIES) for row in zip(*record.series(name), strict=True)]


def planned(folder: Path, *commands: Sequence[str]) -> tuple[Sweep, list[Entry]]:
    """A sweep of these trials, with the range tests that they need, and nothing run of it."""
    planner = Planner(folder / "runs")
    found = [planner.plan(real_trials.request(folder / "runs", *overrides)) for overrides in commands]
    made = Sweep(
        id="5weeb1d0",
        runs_dir=folder / "runs",
        command=("-m",),
        cwd=str(folder),
        created=time.time(),
        git_commit=None,
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        experiment="onecycle_sweeps",
        single=False,
        trials=sweep.entries(found),
    )
    made.save()
    for trial in (one for each in found for one in each.chain):
        made.trial(trial.signature).create(trial.config)
    return made, list(made.trials)


@dataclass(frozen=True)
class Seen:
    """A sweep that has run: its events that name a trial, and the worker processes that it took."""

    sweep: Sweep
    events: list[Event]
    started: int

    def ended(self) -> dict[str, tuple[str, str | None]]:
        """The status and cause of each trial by its kind, its model and its seed."""
        ends = [(event.entry, event) for event in self.events if event.entry and event.status != "running"]
        return {self.label(entry): (event.status or "", event.cause) for entry, event in ends}

    def label(self, entry: Entry) -> str:
        model = self.sweep.trial(entry.signature).config()["model"]["_target_"].rpartition(".")[2]
        return f"{entry.kind} {model} {entry.varies.get('seed', '')}".strip()


def warm_processes(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the processes of the program that this process starts be forks, as those of `run` are."""
    # It is this process's own, and stays until its end.
    resource_tracker.ensure_running()
    for name, value in warm.environment(shared(folder)).items():
        patch.setenv(name, value)


def drive(made: Sweep, todo: list[Entry], places: int) -> Seen:
    """Run trials on so many workers."""
    with pytest.MonkeyPatch.context() as patch:
        if pool.PRELOADED and todo:
            warm_processes(patch, made.runs_dir)
        started: list[Worker] = []
        begin = Worker.start
        patch.setattr(Worker, "start", lambda worker: (started.append(worker), begin(worker))[1])
        # A new server has the folder and the environment of this test.
        pool.stop_server()
        workers = WorkerPool()
        events = list(pool.run(workers, made, todo, pool.slots("cpu", 1, places, 1, len(todo))))
        workers.leave()
        pool.stop_server()
    return Seen(made, [event for event in events if event.entry], len(started))


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Text files in a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
