"""Whether a store has all of a sweep: seen from outside where that proves it, and else asked."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep, load
from onecycle_sweeps.tracking import ledger
from recorded import ask, attempt, database, finish, runs, stored, sweep, training, written

NAME = "onecycle max_lr=0.8 seed=0"


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


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    return delivered(tmp_path)


def test_that_nothing_is_missing_is_seen_without_mlflow(made: Sweep):
    code = f"""
import sys, pathlib
from onecycle_sweeps import sweep, tracking
print(tracking.is_current(sweep.load(pathlib.Path({str(made.folder)!r}))), "mlflow" in sys.modules)"""
    assert elsewhere(code) == "True False\n"


def elsewhere(code: str) -> str:
    """What another process prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_store_that_others_write_to_is_asked(made: Sweep, tmp_path: Path):
    delivered(tmp_path / "other", id="other", experiment=f"{tmp_path.name} other", uri=made.tracking_uri)
    before = ledger.load(made).stamp
    assert tracking.is_current(made)
    assert ledger.load(made).stamp != before


def run_it_again(made: Sweep) -> None:
    attempt(made.trial("a"), 0, 60)
    finish(made.trial("a"))


def write_the_report_again(made: Sweep) -> None:
    (made.report / "report.html").write_text("<p>constant</p>")


def ship_another_trial(made: Sweep) -> None:
    grown = sweep(made.runs_dir.parent, training("a"), training("b", "clr"))
    attempt(grown.trial("b"), 0, 50)
    finish(grown.trial("b"))
    tracking.ship(grown)


@pytest.mark.parametrize("change", [run_it_again, write_the_report_again, ship_another_trial])
def test_what_changes_in_the_sweep_is_missing(made: Sweep, change: Callable[[Sweep], None]):
    change(made)
    assert not tracking.is_current(as_written(made))
    deliver(as_written(made))
    assert tracking.is_current(as_written(made))


def as_written(made: Sweep) -> Sweep:
    """The sweep as it is on disk."""
    return load(made.folder)


def test_a_sweep_that_its_users_deleted_in_mlflow_is_filled_again(made: Sweep):
    parent = runs(made)["sweep 5weeb1d0"]["id"]
    importlib.import_module("mlflow").MlflowClient(made.tracking_uri).delete_run(parent)
    importlib.import_module("mlflow").MlflowClient(made.tracking_uri).delete_run(runs(made)[NAME]["id"])
    assert not tracking.is_current(made)
    deliver(made)
    assert stored(made, "a") == written(made.trial("a"), 1)
    assert runs(made)["sweep 5weeb1d0"]["id"] != parent


def test_a_store_that_was_removed_is_filled_again_by_another_process(tmp_path: Path):
    made = delivered(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db")
    database(made).unlink()
    # In this one MLflow would go on writing to the file that has no name any more.
    with pytest.raises(tracking.StoreUnreachable, match=r"mlflow\.db was replaced"):
        tracking.ship(made)
    code = f"""
import pathlib
from onecycle_sweeps import sweep, tracking
made = sweep.load(pathlib.Path({str(made.folder)!r}))
print(tracking.is_current(made), tracking.deliver(made, [], "onecycle"), tracking.is_current(made))"""
    assert elsewhere(code) == "False None True\n"
    assert stored(made, "a") == written(made.trial("a"), 1)


def test_a_write_ahead_log_hides_changes_so_its_store_is_asked(tmp_path: Path):
    made = sweep(tmp_path, training("a"), uri=f"sqlite:///{tmp_path}/mlflow.db")
    tracking.ship(made)
    ask(made, "PRAGMA journal_mode=WAL")
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    deliver(made)
    assert ledger.load(made).stamp is None
    assert tracking.is_current(made)
    parent = runs(made)["sweep 5weeb1d0"]["id"]
    importlib.import_module("mlflow").MlflowClient(made.tracking_uri).delete_run(parent)
    assert not tracking.is_current(made)
