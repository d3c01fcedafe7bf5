import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import recorded
from onecycle_sweeps import tracking
from onecycle_sweeps.journal import Block
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.tracking.ledger import Ledger, Page
from onecycle_sweeps.tracking.values import BATCH, batches
from recorded import attempt, finish, stored, sweep, training, whole_store, written


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of one trial, `a`, that has not begun."""
    return sweep(tmp_path, training("a"))


def test_importing_tracking_loads_neither_mlflow_nor_its_database():
    names = ("mlflow", "sqlalchemy", "alembic", "torch")
    code = f"import sys, onecycle_sweeps.tracking; print([n for n in {names} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_point_arrives_once_with_its_step_value_and_time(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 1500)
    finish(trial)
    assert not tracking.ship(made)
    assert stored(made, "a") == written(trial, 1)
    assert len(stored(made, "a")) == 3 * 1500 + 1


def test_a_second_ship_changes_no_row_of_the_store(made: Sweep):
    attempt(made.trial("a"), 0, 100)
    finish(made.trial("a"))
    tracking.ship(made)
    before = whole_store(made)
    tracking.ship(made)
    assert whole_store(made) == before


def test_points_wait_until_a_checkpoint_covers_them(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 100, saved=60)
    with trial.lock():
        tracking.ship(made)
    assert stored(made, "a") == written(trial, 1, lambda step: step < 60)
    finish(trial)
    tracking.ship(made)
    assert stored(made, "a") == written(trial, 1)


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


@pytest.mark.parametrize("write", range(1, 9))
def test_a_crash_before_any_write_of_the_ledger_loses_and_doubles_nothing(
    made: Sweep, write: int, monkeypatch: pytest.MonkeyPatch
):
    attempt(made.trial("a"), 0, 800)
    finish(made.trial("a"))
    writes = iter(range(1, 100))

    def dying(save: Callable[[Any], None]) -> Callable[[Any], None]:
        def die(kept: Any) -> None:
            if next(writes) >= write:
                raise KeyboardInterrupt
            save(kept)

        return die

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, "save", dying(Ledger.save))
        patch.setattr(Page, "save", dying(Page.save))
        tracking.ship(made)
    assert tracking.backlog(made)
    assert not tracking.ship(made)
    assert stored(made, "a") == written(made.trial("a"), 1)
    assert len(recorded.runs(made)) == 2


def test_what_is_not_a_number_arrives_as_nan(made: Sweep):
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


def test_a_store_that_was_removed_is_filled_again(made: Sweep, tmp_path: Path):
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    tracking.ship(made)
    book = ledger.load(made)
    book.parent = "0" * 32
    book.save()
    fresh = replace(made, experiment=f"{tmp_path.name} again")
    assert not tracking.ship(fresh)
    assert stored(fresh, "a") == written(made.trial("a"), 1)


def test_shipping_stops_between_two_batches_when_its_time_is_up_and_counts_what_is_left(made: Sweep):
    attempt(made.trial("a"), 0, 1000)
    finish(made.trial("a"))
    asked = iter([False, True])
    left = tracking.ship(made, expired=lambda: next(asked))
    # The result has one figure, its seconds.
    assert (left.runs, left.points) == (1, 3001 + 1 - len(stored(made, "a")))
    assert 0 < len(stored(made, "a")) < BATCH
    assert not tracking.ship(made)
    assert stored(made, "a") == written(made.trial("a"), 1)


def test_a_batch_has_whole_steps_in_order_and_at_most_a_request_of_them():
    columns = {"train/loss": [0.0] * 1000, "schedule/lr": [0.1] * 1000}
    blocks = (Block(1.0, 0, columns), Block(2.0, 499, {"val/loss": [3.0]}), Block(3.0, 1000, columns))
    found = list(batches(part for block in blocks if (part := block.between(10, 1900)).metrics))
    points = [point for batch in found for point in batch]
    assert max(map(len, found)) <= BATCH
    assert [point.step for point in points] == sorted(point.step for point in points)
    assert len(points) == len(set(points)) == 2 * (1900 - 10) + 1
    assert all(one[-1].step < other[0].step for one, other in pairwise(found))
