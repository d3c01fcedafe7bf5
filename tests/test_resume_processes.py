"""Whole processes that are killed, asked to leave, started twice, or left without a disk: nothing is lost."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from real_trials import made, outcome

from onecycle_sweeps import journal, trial
from onecycle_sweeps.folder import Busy, TrialFolder

# 66 steps, and a checkpoint about every 30 ms.
LONGER = ("epochs=3", "batch_size=64", "max_lr=0.1", "evaluations_per_epoch=3", "save_model=true")
OFTEN = "checkpoint_minutes=0.0005"
PATIENCE = 60.0
# Each process is forked from a clean one that has imported torch and done nothing else.
fresh = multiprocessing.get_context("forkserver")
fresh.set_forkserver_preload(["onecycle_sweeps.trial", "onecycle_sweeps.models.simple_cnn", "torch._dynamo"])


def work(path: str) -> None:
    """Bring a trial to its result; exits with 7 if another process works on it."""
    try:
        trial.run(TrialFolder(Path(path)))
    except Busy:
        os._exit(7)


def started(folder: TrialFolder) -> BaseProcess:
    process = fresh.Process(target=work, args=(str(folder.path),))
    process.start()
    return process


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


@pytest.fixture
def undisturbed(runs_dir: Path) -> Iterator[TrialFolder]:
    """The same trial beside, brought to its result in one go."""
    beside = runs_dir.parent / "undisturbed"
    beside.mkdir()
    (beside / "data").symlink_to(runs_dir / "data")
    folder = made(beside, *LONGER)
    process = started(folder)
    yield folder
    process.join(PATIENCE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_process_killed_at_random_moments_ends_as_one_that_was_not(
    runs_dir: Path, undisturbed: TrialFolder, seed: int
):
    folder, draw = made(runs_dir, *LONGER, OFTEN), random.Random(seed)
    points = sorted(draw.sample(range(1, 50), 5))
    for point in points:
        process = started(folder)
        wait_until(lambda: journal.read(folder.journal).durable >= point or not process.is_alive())  # noqa: B023
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        process.join(PATIENCE)
    trial.run(folder)
    wait_until(lambda: undisturbed.result() is not None)
    attempts = journal.read(folder.journal).attempts
    assert len([attempt for attempt in attempts if attempt.end is None]) >= 3
    assert all(later.start > 0 for later in attempts[1:])
    assert outcome(folder) == outcome(undisturbed)
    assert sorted(path.name for path in folder.path.glob("*checkpoint*")) == []


def test_a_process_killed_in_the_midst_of_a_save_keeps_the_checkpoint_before(runs_dir: Path, undisturbed: TrialFolder):
    folder = made(runs_dir, *LONGER, OFTEN)
    process = started(folder)
    half_written = folder.path / f".checkpoint.pt.{process.pid}"
    wait_until(lambda: journal.read(folder.journal).durable > 0 and half_written.exists() or not process.is_alive())
    process.kill()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    trial.run(folder)
    wait_until(lambda: undisturbed.result() is not None)
    assert journal.read(folder.journal).attempts[1].start > 0
    assert outcome(folder) == outcome(undisturbed)
    assert not half_written.exists()


def test_of_two_processes_on_one_trial_one_works_and_the_other_is_busy(runs_dir: Path):
    folder = made(runs_dir, *LONGER)
    first = started(folder)
    wait_until(lambda: folder.attempts() == 1)
    second = started(folder)
    for process in (first, second):
        process.join(PATIENCE)
    assert (first.exitcode, second.exitcode) == (0, 7)
    assert folder.attempts() == 1
    assert folder.result() is not None


def test_a_worker_that_gets_a_sigterm_saves_and_leaves(runs_dir: Path, undisturbed: TrialFolder):
    folder = made(runs_dir, *LONGER)
    worker = [sys.executable, "-m", "onecycle_sweeps.launch.job"]
    with subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        process.stdin.write(f"{folder.path}\n")
        process.stdin.flush()
        wait_until(lambda: len(journal.read(folder.journal).blocks) > 0)
        process.send_signal(signal.SIGTERM)
        answer = process.stdout.readline()
        process.wait(PATIENCE)
    (attempt,) = journal.read(folder.journal).attempts
    assert '"status": "stopped"' in answer
    assert attempt.end == "stopped"
    assert attempt.saved > 0
    assert folder.checkpoint.exists()
    trial.run(folder)
    wait_until(lambda: undisturbed.result() is not None)
    assert outcome(folder) == outcome(undisturbed)
