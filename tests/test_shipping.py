"""What is shipped: every point once, whoever ships and whenever it stops; and training waits for none of it."""

import math
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import outages
import recorded
from onecycle_sweeps import journal, tracking
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.outcome import look
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep, load
from onecycle_sweeps.tracking import ledger, run_data, store
from onecycle_sweeps.tracking.run_data import BATCH
from program import with_store
from recorded import (
    NAME,
    PER_STEP,
    ask,
    attempt,
    client,
    database,
    finish,
    runs,
    shared_store,
    stored,
    sweep,
    training,
    whole_store,
    written,
)
from tracking_server import Server

STEPS, BLOCK = 200, 50


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of one trial, `a`, that has not begun."""
    return sweep(tmp_path, training("a"))


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of one finished trial, `a`; requests to its store time out soon."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    made = sweep(tmp_path, training("a"))
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    return made


@pytest.fixture
def complete(tmp_path: Path) -> Sweep:
    """A sweep of one finished trial, `a`, of which the store has everything, the report too."""
    return delivered(tmp_path)


def delivered(folder: Path, **rest: str) -> Sweep:
    """A sweep of one finished trial, `a`, of which the store has everything, the report too."""
    made = sweep(folder, training("a"), **rest)
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    deliver(made)
    return made


def deliver(made: Sweep) -> None:
    made.report.mkdir(exist_ok=True)
    (made.report / "report.html").write_text("<p>onecycle</p>")
    assert tracking.deliver(made, [made.report / "report.html"], "onecycle") is None


def on_disk(made: Sweep) -> Sweep:
    """The sweep as its folder has it now."""
    return load(made.folder)


def elsewhere(code: str) -> str:
    """What a process that runs this code prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_every_point_arrives_once_with_its_step_value_and_time(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 1500)
    finish(trial)
    assert not tracking.ship(made)
    assert stored(made, "a") == written(trial, 1)
    assert len(stored(made, "a")) == 3 * 1500 + 1


@pytest.mark.slow
def test_shipping_again_changes_no_row_of_the_store(made: Sweep):
    attempt(made.trial("a"), 0, 100)
    finish(made.trial("a"))
    tracking.ship(made)
    before = whole_store(made)
    tracking.ship(made)
    assert whole_store(made) == before


def test_a_picture_that_is_drawn_after_the_trial_was_shipped_arrives(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 30)
    finish(trial)
    tracking.ship(made)
    (trial.path / "lr_momentum.png").write_bytes(b"a picture")
    assert tracking.is_due(made)
    tracking.ship(made)
    (run_id,) = [run["id"] for run in runs(made).values() if run["tags"].get("signature") == "a"]
    assert "lr_momentum.png" in [file.path for file in client(made).list_artifacts(run_id)]
    assert not tracking.is_due(made)


@pytest.mark.slow
def test_points_wait_until_a_checkpoint_covers_them(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 100, saved=60)
    with trial.lock():
        tracking.ship(made)
    assert stored(made, "a") == written(trial, 1, lambda step: step < 60)
    finish(trial)
    tracking.ship(made)
    assert stored(made, "a") == written(trial, 1)


@pytest.mark.slow
def test_a_trial_without_a_checkpoint_has_a_run_without_points(made: Sweep):
    attempt(made.trial("a"), 0, 30)
    with made.trial("a").lock():
        tracking.ship(made)
    assert stored(made, "a") == []


@pytest.mark.parametrize("again_from", [60, 0])
def test_a_resume_that_differs_ships_no_step_twice(made: Sweep, again_from: int):
    trial = made.trial("a")
    attempt(trial, 0, 90, saved=60, end="stopped")
    tracking.ship(made)
    attempt(trial, again_from, 100, shift=0.5)
    finish(trial)
    tracking.ship(made)
    expected = written(trial, 1, lambda step: step < 60) + written(trial, 2, lambda step: step >= 60)
    assert stored(made, "a") == sorted(expected, key=lambda row: row[:2])


def test_infinite_values_and_nan_arrive_as_nan(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 12, losses=(1.0, math.nan, math.inf, -math.inf))
    finish(trial, status="diverged", cause="the loss is inf at step 2")
    tracking.ship(made)
    losses = [value for name, _, value, _ in stored(made, "a") if name == "train/loss"]
    assert losses == [1.0, None, None, None] * 3


def test_two_sweeps_that_share_a_trial_have_a_run_each(made: Sweep, tmp_path: Path):
    other = sweep(tmp_path, training("a", reused=True), id="other", experiment=f"{tmp_path.name} other")
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    tracking.ship(made)
    tracking.ship(other)
    assert stored(made, "a") == stored(other, "a") == written(made.trial("a"), 1)
    assert [run["tags"].get("reused") for run in recorded.runs(other).values()] == [None, "true"]


def test_a_trial_that_was_trained_anew_has_a_run_with_the_points_of_its_last_result(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 50)
    finish(trial)
    tracking.ship(made)
    attempt(trial, 0, 70, shift=0.25)
    finish(trial)
    tracking.ship(made)
    assert stored(made, "a") == written(trial, 2)


def test_a_trial_that_was_put_aside_has_a_run_with_the_points_of_its_next_attempt(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 50, saved=50, end="stopped")
    tracking.ship(made)
    trial.set_aside()
    attempt(trial, 0, 70, saved=70, end="stopped", shift=0.25)
    tracking.ship(made)
    assert stored(made, "a") == written(trial, 1)


def test_a_trial_with_an_unreadable_journal_is_shipped_once_as_lost(made: Sweep):
    attempt(made.trial("a"), 0, 50)
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    first = made.trial("a").journal / "0001.jsonl"
    first.write_text(first.read_text().replace('"format":1', '"format":7'))
    assert not tracking.ship(made)
    (run,) = [run for run in runs(made).values() if run["tags"]["kind"] == "train"]
    assert (run["status"], run["tags"]["status"], "0001.jsonl" in run["tags"]["cause"]) == ("FAILED", "lost", True)
    assert not tracking.is_due(made)
    first.write_text(first.read_text().replace('"format":7', '"format":1'))
    assert tracking.is_due(made) and not tracking.ship(made)
    (run,) = [run for run in runs(made).values() if run["tags"]["kind"] == "train"]
    assert (run["status"], run["tags"]["status"]) == ("FINISHED", "finished")
    assert not tracking.is_due(made)


@pytest.mark.slow
def test_shipping_stops_between_two_batches_when_its_time_is_up_and_says_what_is_left(made: Sweep):
    attempt(made.trial("a"), 0, 1000)
    finish(made.trial("a"))
    asked = iter([False, True])
    left = tracking.ship(made, expired=lambda: next(asked))
    # The result has one figure, its seconds.
    assert (left.runs, left.points) == (1, 3001 + 1 - len(stored(made, "a")))
    assert 0 < len(stored(made, "a")) < BATCH
    assert not tracking.ship(made)
    assert stored(made, "a") == written(made.trial("a"), 1)


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
    """A sweep of several trials, none of which has begun."""
    entries = [Entry(f"t{i:02d}", TRAIN, {"policy": "onecycle", "seed": str(i)}) for i in range(trials)]
    return sweep(folder, *entries, uri=uri, experiment=str(folder))


def write_all(made: Sweep, steps: int = STEPS, block: int = BLOCK) -> None:
    """Write what running trials write: blocks in turn, a checkpoint after each, and at the end the results."""
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


def all_arrived(made: Sweep, entries: Sequence[Entry]) -> bool:
    """Whether the store has each point of these trials once."""
    known = ledger.load(made)
    whole = sorted((name, step) for name in PER_STEP for step in range(STEPS))
    return all(
        [point[:2] for point in outages.arrived(made, known.runs[entry.signature].run_id)] == whole for entry in entries
    )


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_many_trials_at_once_arrive_whole(uri: str, tmp_path: Path):
    made = made_of(tmp_path, uri, 64 if uri.startswith("sqlite") else 16)
    with tracking.Shipper(made.folder, interval=0.2):
        write_all(made)
    assert not tracking.ship(made)
    assert all_arrived(made, made.trials[:1] + made.trials[-1:])


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.usefixtures("warm_processes")
def test_parallel_jobs_that_each_ship_one_trial_of_a_fresh_sweep_fill_one_sweep(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = made_of(tmp_path, _logged_in(server, monkeypatch), 6)
    with ExitStack() as jobs:
        for entry in made.trials:
            jobs.enter_context(tracking.Shipper(made.folder, only=entry.signature, interval=0.2))
        # And one that ships the whole sweep meanwhile.
        jobs.enter_context(tracking.Shipper(made.folder, interval=0.2))
        write_all(made)
    assert not tracking.ship(made)
    assert all_arrived(made, made.trials)
    known = ledger.load(made)
    found = client(made).search_runs([known.experiment])
    assert len(found) == len(made.trials) + 1
    assert {run.data.tags.get("mlflow.parentRunId") for run in found} == {None, known.parent}
    assert {run.info.status for run in found} == {"FINISHED"}


@pytest.mark.slow
def test_a_long_trial_is_shipped_in_little_memory(tmp_path: Path):
    made = made_of(tmp_path, shared_store(tmp_path), 1)
    write_all(made, steps=40_000, block=100)
    (entry,) = made.trials
    outcome = look(entry, made.trial(entry.signature))
    tracemalloc.start()
    try:
        points = sum(map(len, run_data.batches(outcome, made)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The result has one figure, its seconds.
    assert points == 40_000 * len(PER_STEP) + 1
    assert peak < sum(path.stat().st_size for path in journal.attempt_files(outcome.folder.journal)) / 4


@pytest.mark.slow
def test_shipping_a_running_trial_waits_for_no_process_that_ships_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = made_of(tmp_path, shared_store(tmp_path), 2)
    trial = made.trial("t01")
    attempt(trial, 0, 100)
    with trial.lock():
        tracking.ship(made)
    attempt(trial, 0, 100, saved=60)
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.2)
    known = ledger.load(made)
    with trial.lock(), store.locked(made.folder / "tracking.lock", store.never), known.run_file("t00", store.never):
        assert not tracking.ship(made, only=["t01"])
    assert stored(made, "t01") == written(trial, 2, lambda step: step < 60)


def test_a_job_opens_as_many_files_to_ship_its_trial_of_a_large_sweep_as_of_a_small_one(tmp_path: Path):
    counts = []
    for trials in (2, 40):
        made = made_of(tmp_path / str(trials), shared_store(tmp_path), trials)
        attempt(made.trial("t00"), 0, 50)
        finish(made.trial("t00"))
        with opened() as paths:
            assert not tracking.ship(made, only=["t00"])
            assert not tracking.is_due(made, ["t00"])
        assert not any(f"t{i:02d}" in path.parts for path in paths for i in range(1, trials))
        counts.append(sum(path.is_relative_to(made.runs_dir) for path in paths))
    assert counts[0] == counts[1] > 0


def test_the_last_job_or_who_ships_the_whole_sweep_gives_the_parent_its_status(tmp_path: Path):
    made = made_of(tmp_path, shared_store(tmp_path), 2)
    for signature in ("t00", "t01"):
        attempt(made.trial(signature), 0, 50)
        finish(made.trial(signature))
        assert not tracking.ship(made, only=[signature])
    assert parent_status(made) == "RUNNING"
    assert not tracking.ship(made)
    assert parent_status(made) == "FINISHED"
    # A job that ends after that concludes the sweep again.
    made.trial("t01").remove("result.json")
    recorded.fail(made.trial("t01"), "no more memory")
    assert not tracking.ship(made, only=["t01"])
    assert parent_status(made) == "FAILED"


def parent_status(made: Sweep) -> str:
    return client(made).get_run(ledger.load(made).parent).info.status


@contextmanager
def opened() -> Iterator[list[Path]]:
    """The files and folders that this process opens in the meantime."""
    found: list[Path] = []
    is_open = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if is_open and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | os.PathLike):
            found.append(Path(arguments[0]))

    # A hook cannot be removed.
    sys.addaudithook(hook)
    yield found
    is_open = False


@pytest.mark.slow
def test_an_unchanged_sqlite_store_is_known_to_be_complete_without_mlflow(complete: Sweep):
    code = f"""
import sys, pathlib
from onecycle_sweeps import sweep, tracking
print(tracking.is_current(sweep.load(pathlib.Path({str(complete.folder)!r}))), "mlflow" in sys.modules)"""
    assert elsewhere(code) == "True False\n"


def test_a_store_that_another_sweep_has_changed_is_queried(complete: Sweep, tmp_path: Path):
    delivered(tmp_path / "other", id="other", experiment=f"{tmp_path.name} other", uri=complete.tracking_uri)
    before = ledger.load(complete).stamp
    assert tracking.is_current(complete)
    assert ledger.load(complete).stamp != before


def train_again(made: Sweep) -> None:
    attempt(made.trial("a"), 0, 60)
    finish(made.trial("a"))


def rewrite_the_report(made: Sweep) -> None:
    (made.report / "report.html").write_text("<p>constant</p>")


def ship_another_trial(made: Sweep) -> None:
    grown = sweep(made.runs_dir.parent, training("a"), training("b", "clr"))
    attempt(grown.trial("b"), 0, 50)
    finish(grown.trial("b"))
    tracking.ship(grown)


@pytest.mark.slow
@pytest.mark.parametrize("change", [train_again, rewrite_the_report, ship_another_trial])
def test_a_store_is_not_current_once_the_sweep_has_changed(complete: Sweep, change: Callable[[Sweep], None]):
    change(complete)
    assert not tracking.is_current(on_disk(complete))
    deliver(on_disk(complete))
    assert tracking.is_current(on_disk(complete))


def test_a_sweep_that_users_deleted_in_mlflow_is_shipped_again(complete: Sweep):
    parent = runs(complete)["sweep 5weeb1d0"]["id"]
    client(complete).delete_run(parent)
    client(complete).delete_run(runs(complete)[NAME]["id"])
    assert not tracking.is_current(complete)
    deliver(complete)
    assert stored(complete, "a") == written(complete.trial("a"), 1)
    assert runs(complete)["sweep 5weeb1d0"]["id"] != parent


@pytest.mark.slow
def test_a_removed_database_is_filled_again_by_another_process(tmp_path: Path):
    made = delivered(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db")
    database(made).unlink()
    # In this process MLflow would go on writing to the deleted file.
    with pytest.raises(tracking.StoreUnreachable, match=r"mlflow\.db was replaced"):
        tracking.ship(made)
    code = f"""
import pathlib
from onecycle_sweeps import sweep, tracking
made = sweep.load(pathlib.Path({str(made.folder)!r}))
print(tracking.is_current(made), tracking.deliver(made, [], "onecycle"), tracking.is_current(made))"""
    assert elsewhere(code) == "False None True\n"
    assert stored(made, "a") == written(made.trial("a"), 1)


@pytest.mark.slow
def test_a_store_with_a_write_ahead_log_is_always_queried(tmp_path: Path):
    made = sweep(tmp_path, training("a"), uri=f"sqlite:///{with_store(tmp_path)}/mlflow.db")
    tracking.ship(made)
    ask(made, "PRAGMA journal_mode=WAL")
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    deliver(made)
    assert ledger.load(made).stamp is None
    assert tracking.is_current(made)
    parent = runs(made)["sweep 5weeb1d0"]["id"]
    client(made).delete_run(parent)
    assert not tracking.is_current(made)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_the_shipper_ships_during_the_training_and_the_rest_when_it_is_left(finished: Sweep, tmp_path: Path):
    with tracking.Shipper(finished.folder, interval=0.05):
        while tracking.backlog(finished):
            time.sleep(0.05)
        assert stored(finished, "a") == written(finished.trial("a"), 1)
        grown = sweep(tmp_path, training("a"), training("b", "clr"))
        attempt(finished.trial("b"), 0, 30)
        finish(finished.trial("b"))
    assert not tracking.backlog(grown)
    assert stored(grown, "b") == written(finished.trial("b"), 1)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_a_delivery_ships_everything_with_the_report(finished: Sweep, tmp_path: Path):
    (tmp_path / "trials.csv").write_text("signature\na\n")
    with tracking.Shipper(finished.folder) as shipper:
        assert shipper.deliver([tmp_path / "trials.csv"], "the table") is None
        assert stored(finished, "a") == written(finished.trial("a"), 1)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_the_shipper_says_what_is_wrong_with_its_store(finished: Sweep):
    replace(finished, tracking_uri=f"http://127.0.0.1:{outages.free_port()}").save()
    with tracking.Shipper(finished.folder) as shipper:
        line = shipper.deliver([], "the table")
    assert line and "127.0.0.1" in line


def test_a_dead_shipper_fails_only_the_delivery(finished: Sweep):
    with tracking.Shipper(finished.folder) as shipper:
        shipper._process.kill()
        line = shipper.deliver([], "the table")
    assert line and "shipping process ended" in line


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_leaving_the_shipper_takes_no_longer_than_its_grace(finished: Sweep):
    with outages.silent_server() as port:
        replace(finished, tracking_uri=f"http://127.0.0.1:{port}").save()
        with tracking.Shipper(finished.folder, interval=0.01, grace=1.0) as shipper:
            time.sleep(0.5)
            began = time.monotonic()
        # The silent server would delay it by some twenty seconds.
        assert time.monotonic() - began < 10
    assert shipper._process.poll() is not None


@pytest.mark.slow
def test_the_shipper_ends_with_the_process_that_launched_it(finished: Sweep):
    launch = f"""
import os, sys, pathlib
from onecycle_sweeps import tracking
with tracking.Shipper(pathlib.Path({str(finished.folder)!r})) as shipper:
    print(shipper._process.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    pid = int(subprocess.run([sys.executable, "-c", launch], capture_output=True, text=True, check=False).stdout)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert stored(finished, "a") == written(finished.trial("a"), 1)
