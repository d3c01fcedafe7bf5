"""Trials that write at once, and one process that ships them: all arrives, in bounded memory."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import outages
from onecycle_sweeps import tracking
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.tracking import ledger
from recorded import PER_STEP, finish, sweep
from tracking_server import Server

# A server takes some ten requests for a trial.
TRIALS = {"sqlite": 64, "http": 16}
STEPS, BLOCK = 200, 50
# MLflow alone is some 210 MB.
RESIDENT_MB = 500

SHIP = """
import pathlib, sys, time
from onecycle_sweeps import sweep, tracking
made = sweep.load(pathlib.Path(sys.argv[1]))
while any(not made.trial(entry.signature).result() for entry in made.trials):
    tracking.ship(made)
    time.sleep(0.5)
left = tracking.ship(made)
# Of this program alone: ru_maxrss counts the process that it was forked from.
status = pathlib.Path("/proc/self/status").read_text()
print(left.points, int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""
BACK_TO_BACK = """
import sys, time
from mlflow import MlflowClient
from mlflow.entities import Metric
client = MlflowClient(sys.argv[1])
run = client.create_run(client.create_experiment(sys.argv[2])).info.run_id
batches = [[Metric("m", float(i), 1, k * 1000 + i) for i in range(1000)] for k in range(10)]
began = time.monotonic()
for batch in batches:
    client.log_batch(run, batch)
print(10_000 / (time.monotonic() - began))
"""


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.server)])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store in a file, or a server's."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/mlflow.db"
        return
    server: Server = request.getfixturevalue("server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server.uri


@pytest.mark.slow
def test_many_trials_at_once_arrive_whole_in_bounded_memory(uri: str, tmp_path: Path):
    entries = [
        Entry(f"t{i:02d}", TRAIN, {"policy": "onecycle", "seed": str(i)}) for i in range(TRIALS[uri.partition(":")[0]])
    ]
    made = sweep(tmp_path, *entries, uri=uri, experiment=str(tmp_path))
    tracking.ship(made)
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", SHIP, str(made.folder)], stdout=subprocess.PIPE, text=True
    ) as shipping:
        write_all(made)
        said, _ = shipping.communicate()
    seconds = time.monotonic() - began
    left, resident = map(int, said.split())
    points = len(entries) * STEPS * len(PER_STEP)
    alone = float(elsewhere(BACK_TO_BACK, uri, f"{tmp_path} alone"))
    print(f"\nload: {points} points at {points / seconds:.0f}/s, {alone:.0f}/s back to back, {resident} MB")
    assert left == 0
    assert resident < RESIDENT_MB
    for entry in (entries[0], entries[-1]):
        run = ledger.load(made.folder, made.tracking_uri).runs[entry.signature].run_id
        found = outages.arrived(made, run)
        assert [point[:2] for point in found] == sorted((name, step) for name in PER_STEP for step in range(STEPS))


def write_all(made: Sweep) -> None:
    """What trainings at work write, a block of each in turn, each saved."""
    books = {}
    for entry in made.trials:
        trial = made.trial(entry.signature)
        trial.create({"max_lr": "auto"})
        trial.write("resolved", {"max_lr": 0.8, "max_lr_from": "range_test:r", "total_steps": STEPS})
        books[entry.signature] = Journal(trial.journal, 1, 0)
    for first in range(0, STEPS, BLOCK):
        columns = {
            name: [math.sin(step + k) for step in range(first, first + BLOCK)] for k, name in enumerate(PER_STEP)
        }
        for signature, book in books.items():
            book.append(first, columns)
            made.trial(signature).checkpoint.write_text(str(first))
            book.saved(first + BLOCK)
        time.sleep(0.5)
    for signature, book in books.items():
        finish(made.trial(signature))
        book.end("finished")


def elsewhere(code: str, *arguments: str) -> str:
    """What another process prints."""
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
