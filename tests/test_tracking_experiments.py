"""What a store has of a sweep is known for each experiment apart, and for a database that was moved or renamed."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.files import read_json
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from recorded import ask, attempt, database, finish, runs, stored, sweep, training, written

NAME = "onecycle max_lr=0.8 seed=0"


def delivered(folder: Path, **rest: str) -> Sweep:
    """A sweep of one finished trial, `a`, of which the store has everything."""
    made = sweep(folder, training("a"), **rest)
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    assert tracking.deliver(made, [], "onecycle") is None
    return made


def client(made: Sweep):
    return importlib.import_module("mlflow").MlflowClient(made.tracking_uri)


def count(made: Sweep) -> int:
    """How many runs the store has in all, the deleted ones too."""
    return ask(made, "SELECT count(*) FROM runs")[0][0]


def as_kept_by_store_alone(made: Sweep) -> None:
    """Make the ledger one of an earlier version, which did not tell experiments apart."""
    path = made.folder / "tracking.json"
    ((place, by_name),) = (read_json(path) or {}).items()
    (known,) = by_name.values()
    path.write_text(json.dumps({place: known}))
    for page in (made.folder / "tracking").glob("*.json"):
        (shipped,) = (read_json(page) or {}).values()
        page.write_text(json.dumps({place: shipped}) + "\n")


def test_another_experiment_gets_the_finished_sweep_as_well(tmp_path: Path):
    made = delivered(tmp_path)
    second = replace(made, experiment=f"{tmp_path.name} second")
    assert not tracking.is_current(second)
    assert tracking.overlay_link(second).endswith("/#/experiments")
    assert tracking.deliver(second, [], "onecycle") is None
    assert stored(second, "a") == stored(made, "a") == written(made.trial("a"), 1)
    assert runs(second)[NAME]["id"] != runs(made)[NAME]["id"]
    assert runs(second)[NAME]["tags"]["mlflow.parentRunId"] == runs(second)["sweep 5weeb1d0"]["id"]
    assert tracking.overlay_link(second) != tracking.overlay_link(made)
    before = count(made)
    for one in (made, second):
        assert tracking.deliver(one, [], "onecycle") is None
        assert tracking.is_current(one)
    assert count(made) == before


def test_a_ledger_that_was_kept_by_store_alone_belongs_to_the_experiment_that_it_filled(tmp_path: Path):
    made = delivered(tmp_path)
    before = count(made)
    as_kept_by_store_alone(made)
    second = replace(made, experiment=f"{tmp_path.name} second")
    assert tracking.deliver(second, [], "onecycle") is None
    assert stored(second, "a") == written(made.trial("a"), 1)
    assert count(made) == before + 2
    assert tracking.deliver(made, [], "onecycle") is None
    assert stored(made, "a") == written(made.trial("a"), 1)
    assert count(made) == before + 2


def test_one_trial_alone_is_shipped_by_a_ledger_that_was_kept_by_store_alone(tmp_path: Path):
    made = delivered(tmp_path)
    before = count(made)
    as_kept_by_store_alone(made)
    assert not tracking.ship(made, only=["a"])
    assert ledger.load(made).named
    assert count(made) == before


def test_a_renamed_experiment_goes_on_under_both_names(tmp_path: Path):
    made = delivered(tmp_path)
    before, experiment = count(made), ledger.load(made).experiment
    assert experiment
    renamed = replace(made, experiment=f"{tmp_path.name} renamed")
    client(made).rename_experiment(experiment, renamed.experiment)
    attempt(made.trial("a"), 50, 60)
    finish(made.trial("a"))
    assert tracking.deliver(made, [], "onecycle") is None
    assert tracking.deliver(renamed, [], "onecycle") is None
    assert ledger.load(renamed).experiment == experiment
    assert count(made) == before + 1, "the trial was run again: its run, and nothing else, is another"


@pytest.mark.parametrize(("kept_by_store_alone", "linked"), [(False, False), (True, False), (False, True)])
def test_a_database_that_was_moved_is_known_by_what_it_has(tmp_path: Path, kept_by_store_alone: bool, linked: bool):
    made = delivered(tmp_path, uri=f"sqlite:///{tmp_path}/here/mlflow.db")
    if kept_by_store_alone:
        as_kept_by_store_alone(made)
    before = count(made)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = replace(made, tracking_uri=f"sqlite:///{tmp_path}/there/mlflow.db")
    line = tracking.deliver(moved, [], "onecycle")
    assert line and f"{tmp_path}/here is gone" in line, "MLflow would put files there"
    assert not (tmp_path / "here").exists()
    if linked:
        (tmp_path / "here").symlink_to(tmp_path / "there")
    else:
        (tmp_path / "here").mkdir()
    assert tracking.deliver(moved, [], "onecycle") is None
    assert count(moved) == before
    assert stored(moved, "a") == written(made.trial("a"), 1)


def test_a_copy_of_a_database_is_a_store_of_its_own(tmp_path: Path):
    made = delivered(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db")
    shutil.copy(database(made), tmp_path / "copy.db")
    copied = replace(made, tracking_uri=f"sqlite:///{tmp_path}/copy.db", experiment="mine")
    assert tracking.deliver(copied, [], "onecycle") is None
    attempt(made.trial("a"), 50, 60)
    finish(made.trial("a"))
    for one in (made, copied):
        assert tracking.deliver(one, [], "onecycle") is None
        assert stored(one, "a")
