"""Whole processes that are killed, asked to leave, started twice, or left without a disk: nothing is lost."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas
import pytest
from safetensors.numpy import save_file

from onecycle_sweeps import journal, trial
from onecycle_sweeps.launching.pool import Worker
from onecycle_sweeps.launching.queue import Execution
from onecycle_sweeps.sweep import TRAIN, Entry
from onecycle_sweeps.trial_folder import Busy, TrialFolder
from real_trials import made, outcome, undisturbed

# 66 steps, and a checkpoint about every 6 ms.
LONGER = ("epochs=3", "batch_size=64", "max_lr=0.1", "evaluations_per_epoch=3", "save_model=true")
OFTEN = "checkpoint_minutes=0.0001"
SHARED = ("max_lr=0.01", "evaluations_per_epoch=2", "save_model=true", "precision=fp32")
SCHEDULE_FREE = ("~optimizer", "+optimizer={_target_: schedulefree.AdamWScheduleFree}", "policy=constant")
OWN_NET = ("~model", "+model={_target_: users_code.OfVolumes}")
# Other tasks, with what else is carried from step to step; those with quick steps take more.
ROWS = (*SHARED, "data=diabetes", "optimizer=muon", "batch_size=16", "accumulate=2", "epochs=7")
SIZED = ("data.context=32", "model.depth=1", "model.width=8", "model.heads=2", "model.dropout=0.1")
TOKENS = (*SHARED, "data=text", "data.path={files}/book.txt", *SIZED, "batch_size=16", "epochs=20", "ema_decay=0.9")
ITEMS = (*SHARED, "data=torch_dataset", "data.dataset={_target_: users_code.Waves}", "batch_size=8", "epochs=6")
# A training function of the user's own, whose loader shuffles and draws noise.
FUNCTION = (
    *("loop=function", "loop._target_=own_loops.train", "loop.measure=accuracy", "loop.goal=max"),
    *("epochs=20", "max_lr=0.05", "evaluations_per_epoch=3"),
)
TABLE = (*SHARED, "data=csv", "data.path={files}/houses.parquet", "data.label=price", "batch_size=16", "epochs=40")
SERIES = (*SHARED, "data=arrays", "data.path={files}/series.npz", "batch_size=16", "epochs=40", "model.dropout=0.1")
VOLUMES = (*SHARED, "data=arrays", "data.path={files}/volumes.safetensors", "batch_size=16", "epochs=40", *OWN_NET)
# They take 320 steps, of which some dozens lie between two checkpoints.
QUICK = (TABLE, SERIES, VOLUMES)
PATIENCE = 120.0
BUSY = 7
# Each process is forked from a clean one that has imported what a trial needs and done nothing else.
fresh = multiprocessing.get_context("forkserver")
OF_SKLEARN = ("sklearn.compose", "sklearn.datasets", "sklearn.impute", "sklearn.model_selection")
LIBRARIES = (*OF_SKLEARN, "pandas", "pyarrow.parquet", "schedulefree", "rich.console")
fresh.set_forkserver_preload(["onecycle_sweeps.launching.preload", *LIBRARIES])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in Parquet, series in npz and volumes in safetensors, 170 samples each, and a text of 2,000 words."""
    folder, generator = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    sizes = generator.normal(100, 20, 170)
    table = pandas.DataFrame({"size": sizes, "town": generator.choice(["Ulm", "Bonn"], 170), "price": 9.5 * sizes})
    table.to_parquet(folder / "houses.parquet")
    words = generator.choice(["to", "be", "or", "not", "that", "is", "the", "question"], 2000)
    (folder / "book.txt").write_text(" ".join(words), encoding="utf-8")
    frequencies = generator.uniform(1, 4, 170)
    np.savez(folder / "series.npz", x=np.sin(frequencies[:, None, None] * np.linspace(0, 6, 24)), y=frequencies)
    volumes = generator.normal(size=(170, 1, 4, 6, 5)).astype(np.float32)
    save_file({"x": volumes, "y": (volumes.mean((1, 2, 3, 4)) > 0).astype(int)}, folder / "volumes.safetensors")
    return folder


def work(path: str) -> None:
    """Bring a trial to its result; exits with BUSY if another process works on it."""
    # What a killed process has written stays. The wait of a slow disk keeps the trial from ending before it is killed.
    os.fsync = lambda file: time.sleep(0.005)
    try:
        trial.run(TrialFolder(Path(path)))
    except Busy:
        sys.exit(BUSY)


def work_and_die(path: str, replaced: bool) -> None:
    """Train until the second checkpoint is to replace the first, and be killed before that or after it."""
    replace, saves = os.replace, iter((False, True))

    def die(source: Path, target: Path) -> None:
        last = target.name == "checkpoint.pt" and next(saves)
        if last and not replaced:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = die
    work(path)


def started(folder: TrialFolder) -> BaseProcess:
    process = fresh.Process(target=work, args=(str(folder.path),))
    process.start()
    return process


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.004)


def reached(folder: TrialFolder, attempt: int, step: int) -> bool:
    """Whether an attempt has begun, and checkpoints cover so many steps; or there is a result."""
    begun = folder.attempts() >= attempt and journal.read(folder.journal).durable >= step
    return begun or folder.result() is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "overrides"),
    [
        *((seed, LONGER) for seed in (0, 1, 2)),
        (3, ROWS),
        (4, TOKENS),
        (5, (*ITEMS, *SCHEDULE_FREE, "+range_test.start_lr=1e-5", "+range_test.end_lr=1")),
        (6, FUNCTION),
        (7, (*FUNCTION, "+loop.accumulate=2", "+loop.own=true")),
        (8, TABLE),
        (9, SERIES),
        (10, VOLUMES),
    ],
    ids=[
        *("images 0", "images 1", "images 2", "rows", "tokens", "items"),
        *("function", "function that accumulates", "table", "series", "volumes"),
    ],
)
def test_a_process_killed_at_random_moments_ends_as_one_that_was_not(
    runs_dir: Path, beside: Path, files: Path, seed: int, overrides: tuple[str, ...]
):
    most = 300 if overrides in QUICK else 50
    overrides = tuple(word.replace("{files}", str(files)) for word in overrides)
    folder, draw = made(runs_dir, *overrides, OFTEN), random.Random(seed)
    points = sorted(draw.sample(range(1, most), 5))
    for point in points:
        attempt, process = folder.attempts() + 1, started(folder)
        wait_until(partial(reached, folder, attempt, point))
        time.sleep(draw.uniform(0, 0.01))
        process.kill()
        process.join(PATIENCE)
    trial.run(folder)
    attempts = journal.read(folder.journal).attempts
    assert len([attempt for attempt in attempts if attempt.end is None]) >= 3
    assert all(later.start > 0 for later in attempts[1:])
    assert outcome(folder) == undisturbed(beside, *overrides)
    assert sorted(path.name for path in folder.path.glob("*checkpoint*")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("replaced", "starts"), [(False, [0, 1]), (True, [0, 2])])
def test_a_process_killed_in_the_midst_of_a_save_has_a_whole_checkpoint(
    runs_dir: Path, beside: Path, replaced: bool, starts: list[int]
):
    folder = made(runs_dir, *LONGER, "checkpoint_minutes=1e-9")
    process = fresh.Process(target=work_and_die, args=(str(folder.path), replaced))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    half_written = list(folder.path.glob(f".checkpoint.pt.*-{process.pid}-*"))
    assert len(half_written) == (not replaced)
    trial.run(folder)
    assert [attempt.start for attempt in journal.read(folder.journal).attempts] == starts
    assert outcome(folder) == undisturbed(beside, *LONGER)
    assert not list(folder.path.glob(".checkpoint.pt.*"))


@pytest.mark.slow
def test_of_two_processes_on_one_trial_one_works_and_the_other_is_busy(runs_dir: Path):
    folder = made(runs_dir, *LONGER)
    first = started(folder)
    wait_until(lambda: folder.attempts() == 1)
    os.kill(first.pid or 0, signal.SIGSTOP)
    second = started(folder)
    second.join(PATIENCE)
    os.kill(first.pid or 0, signal.SIGCONT)
    first.join(PATIENCE)
    assert (first.exitcode, second.exitcode) == (0, BUSY)
    assert folder.attempts() == 1
    assert folder.result() is not None


@pytest.mark.slow
def test_a_worker_that_gets_a_sigterm_saves_and_leaves(runs_dir: Path, beside: Path):
    longer = (*LONGER, "epochs=10")
    folder = made(runs_dir, *longer)
    worker = Worker({}, runs_dir / "worker.log")
    assert worker.give((Entry(folder.signature, TRAIN, {}),), [folder])
    wait_until(lambda: len(journal.read(folder.journal).blocks) > 0)
    os.kill(worker.process.pid or 0, signal.SIGTERM)
    answers: list[list[Execution]] = []
    wait_until(lambda: answers.extend(worker.receive()) or worker.has_ended())
    (attempt,) = journal.read(folder.journal).attempts
    assert [answer.status for (answer,) in answers] == ["stopped"]
    assert attempt.end == "stopped"
    assert attempt.saved > 0
    assert folder.checkpoint.exists()
    trial.run(folder)
    assert outcome(folder) == undisturbed(beside, *longer)
