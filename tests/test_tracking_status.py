from collections.abc import Callable
from pathlib import Path

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import TrialFolder
from recorded import attempt, fail, finish, runs, sweep, training

NAME = "onecycle max_lr=0.8 seed=0"


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of one trial, `a`, that has not begun."""
    return sweep(tmp_path, training("a", target_accuracy=0.5))


def test_a_trial_that_has_not_begun_has_no_run_and_is_no_backlog(made: Sweep):
    assert not tracking.ship(made)
    assert list(runs(made)) == ["sweep 5weeb1d0"]


def diverge(trial: TrialFolder) -> None:
    finish(trial, "diverged", cause="the loss is nan")


def stop(trial: TrialFolder) -> None:
    attempt(trial, 10, 20, saved=20, end="stopped")


@pytest.mark.parametrize(
    ("ending", "word", "status"),
    [
        (finish, "finished", "FINISHED"),
        (diverge, "diverged", "FINISHED"),
        (lambda trial: fail(trial, "the disk is full"), "failed", "FAILED"),
        (lambda trial: None, "lost", "FAILED"),
        (stop, "waiting", "SCHEDULED"),
    ],
)
def test_each_status_has_its_word_in_mlflow(
    made: Sweep, ending: Callable[[TrialFolder], object], word: str, status: str
):
    attempt(made.trial("a"), 0, 10)
    ending(made.trial("a"))
    tracking.ship(made)
    found = runs(made)
    assert (found[NAME]["tags"]["status"], found[NAME]["status"]) == (word, status)
    assert found["sweep 5weeb1d0"]["status"] == status
    assert (found[NAME]["end"] is not None) == (word != "waiting")


def test_a_trial_at_work_is_running_and_so_is_its_sweep(made: Sweep):
    attempt(made.trial("a"), 0, 10)
    with made.trial("a").lock():
        tracking.ship(made)
    assert {run["status"] for run in runs(made).values()} == {"RUNNING"}


def test_a_run_lasts_from_the_first_attempt_to_the_result(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 10, saved=10, end="stopped")
    began = (trial.journal / "0001.jsonl").stat().st_mtime
    attempt(trial, 10, 20)
    finished = finish(trial)
    tracking.ship(made)
    assert runs(made)[NAME]["start"] == pytest.approx(1000 * began, abs=500)
    assert runs(made)[NAME]["end"] == round(1000 * finished)


def test_a_failed_trial_that_is_run_again_ends_finished_and_without_a_cause(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 10)
    fail(trial, "the disk is full")
    tracking.ship(made)
    assert runs(made)[NAME]["tags"]["cause"] == "the disk is full"
    trial.remove("failure.json")
    attempt(trial, 0, 20)
    finished = finish(trial)
    tracking.ship(made)
    run = runs(made)[NAME]
    assert (run["status"], run["tags"]["status"], run["end"]) == ("FINISHED", "finished", round(1000 * finished))
    assert "cause" not in run["tags"]
    assert runs(made)["sweep 5weeb1d0"]["status"] == "FINISHED"
