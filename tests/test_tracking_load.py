"""Trials that write at once, and one process or several that ship them: all arrives, in bounded memory."""

import importlib
import math
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

import outages
from onecycle_sweeps import journal, tracking
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.tracking import ledger, store
from onecycle_sweeps.tracking.account import account, standing
from recorded import PER_STEP, attempt, finish, shared_store, stored, sweep, written
from tracking_server import Server

STEPS, BLOCK = 200, 50


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.server)])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store in a file, or a server's."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/mlflow.db"
        return
    yield _logged_in(request.getfixturevalue("server"), monkeypatch)


def _logged_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server.uri


def made_of(folder: Path, uri: str, trials: int) -> Sweep:
    """A sweep of so many trials, none of which has begun."""
    entries = [Entry(f"t{i:02d}", TRAIN, {"policy": "onecycle", "seed": str(i)}) for i in range(trials)]
    return sweep(folder, *entries, uri=uri, experiment=str(folder))


@pytest.mark.slow
def test_many_trials_at_once_arrive_whole(uri: str, tmp_path: Path):
    made = made_of(tmp_path, uri, 64 if uri.startswith("sqlite") else 16)
    with tracking.Shipper(made.folder, interval=0.2):
        write_all(made)
    assert not tracking.ship(made)
    assert all_arrived(made, made.trials[:1] + made.trials[-1:])


@pytest.mark.slow
@pytest.mark.server
def test_jobs_that_ship_a_trial_each_of_one_fresh_sweep_side_by_side_make_one_sweep_of_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = made_of(tmp_path, _logged_in(server, monkeypatch), 6)
    with ExitStack() as jobs:
        for entry in made.trials:
            jobs.enter_context(tracking.Shipper(made.folder, only=entry.signature, interval=0.2))
        # And whoever syncs the whole of it meanwhile.
        jobs.enter_context(tracking.Shipper(made.folder, interval=0.2))
        write_all(made)
    assert not tracking.ship(made)
    assert all_arrived(made, made.trials)
    book = ledger.load(made)
    found = importlib.import_module("mlflow").MlflowClient(made.tracking_uri).search_runs([book.experiment])
    assert len(found) == len(made.trials) + 1
    assert {run.data.tags.get("mlflow.parentRunId") for run in found} == {None, book.parent}
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_trial_of_any_length_is_shipped_in_little_memory(tmp_path: Path):
    made = made_of(tmp_path, shared_store(tmp_path), 1)
    write_all(made, steps=40_000, block=100)
    (entry,) = made.trials
    told = account(made, entry, standing(made.trial(entry.signature)))
    tracemalloc.start()
    try:
        points = sum(map(len, told.batches(0)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The result has one figure, its seconds.
    assert points == 40_000 * len(PER_STEP) + 1
    assert peak < sum(path.stat().st_size for path in journal.attempt_files(told.folder.journal)) / 4


def test_whoever_ships_a_trial_at_work_waits_for_nobody_who_ships_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = made_of(tmp_path, shared_store(tmp_path), 2)
    trial = made.trial("t01")
    attempt(trial, 0, 100)
    with trial.lock():
        tracking.ship(made)
    attempt(trial, 0, 100, saved=60)
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.2)
    book = ledger.load(made)
    with trial.lock(), store.locked(made.folder / "tracking.lock", store.never), book.page("t00", store.never):
        assert not tracking.ship(made, only=["t01"])
    assert stored(made, "t01") == written(trial, 2, lambda step: step < 60)


def all_arrived(made: Sweep, entries: Sequence[Entry]) -> bool:
    """Whether the store has each point of these trials once."""
    book = ledger.load(made)
    whole = sorted((name, step) for name in PER_STEP for step in range(STEPS))
    return all(
        [point[:2] for point in outages.arrived(made, book.runs[entry.signature].run_id)] == whole for entry in entries
    )


def write_all(made: Sweep, steps: int = STEPS, block: int = BLOCK) -> None:
    """What trainings at work write, a block of each in turn, each saved."""
    with ExitStack() as locks:
        books = {}
        for trial in [made.trial(entry.signature) for entry in made.trials]:
            trial.create({"max_lr": "auto"})
            locks.enter_context(trial.lock())
            trial.write("resolved", {"max_lr": 0.8, "max_lr_from": "range_test:r", "total_steps": steps})
            books[trial] = Journal(trial.journal, 1, 0)
        for first in range(0, steps, block):
            within = range(first, first + block)
            columns = {name: [math.sin(step + k) for step in within] for k, name in enumerate(PER_STEP)}
            for trial, book in books.items():
                book.append(first, columns)
                trial.checkpoint.write_text(str(first))
                book.saved(first + block)
        for trial, book in books.items():
            finish(trial)
            book.end("finished")
