"""What a store has of a sweep is known after a crash, for each experiment apart, and for a database that was moved."""

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recorded
from onecycle_sweeps import tracking
from onecycle_sweeps.files import read_json
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger, ui
from onecycle_sweeps.tracking import runs as store_runs
from onecycle_sweeps.tracking.ledger import Ledger, RunFile
from program import with_store
from recorded import (
    NAME,
    ask,
    attempt,
    client,
    database,
    experiment_tags,
    finish,
    runs,
    shared_store,
    stored,
    sweep,
    training,
    written,
)


def delivered(folder: Path, **rest: str) -> Sweep:
    """A sweep of one finished trial, `a`, of which the store has everything."""
    made = sweep(folder, training("a"), **rest)
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    assert tracking.deliver(made, [], "onecycle") is None
    return made


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of one trial, `a`, that has not begun."""
    return sweep(tmp_path, training("a"))


def count(made: Sweep) -> int:
    """The number of runs in the store, including deleted ones."""
    return ask(made, "SELECT count(*) FROM runs")[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("write", range(1, 9))
def test_a_crash_before_any_write_of_the_ledger_loses_and_doubles_nothing(
    made: Sweep, write: int, monkeypatch: pytest.MonkeyPatch
):
    attempt(made.trial("a"), 0, 800)
    finish(made.trial("a"))
    writes = iter(range(1, 100))

    def dying(save: Callable[[Any], None]) -> Callable[[Any], None]:
        def die(record: Any) -> None:
            if next(writes) >= write:
                raise KeyboardInterrupt
            save(record)

        return die

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, "save", dying(Ledger.save))
        patch.setattr(RunFile, "save", dying(RunFile.save))
        tracking.ship(made)
    assert tracking.backlog(made)
    assert not tracking.ship(made)
    assert stored(made, "a") == written(made.trial("a"), 1)
    assert len(recorded.runs(made)) == 2


@pytest.mark.slow
def test_a_sweep_whose_parent_run_is_gone_is_shipped_again(made: Sweep, tmp_path: Path):
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    tracking.ship(made)
    known = ledger.load(made)
    known.parent = "0" * 32
    known.save()
    fresh = replace(made, experiment=f"{tmp_path.name} again")
    assert not tracking.ship(fresh)
    assert stored(fresh, "a") == written(made.trial("a"), 1)


def downgrade(made: Sweep) -> None:
    """Rewrite the ledger in format 0, which does not tell experiments apart."""
    path = made.folder / "tracking.json"
    ((place, by_name),) = (read_json(path) or {}).items()
    (known,) = by_name.values()
    path.write_text(json.dumps({place: known}))
    for file in (made.folder / "tracking").glob("*.json"):
        (run,) = (read_json(file) or {}).values()
        file.write_text(json.dumps({place: run}) + "\n")


def test_a_finished_sweep_can_be_shipped_to_another_experiment_too(tmp_path: Path):
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
    for each in (made, second):
        assert tracking.deliver(each, [], "onecycle") is None
        assert tracking.is_current(each)
    assert count(made) == before


def test_a_ledger_of_format_0_belongs_to_the_experiment_that_it_filled(tmp_path: Path):
    made = delivered(tmp_path)
    before = count(made)
    downgrade(made)
    second = replace(made, experiment=f"{tmp_path.name} second")
    assert tracking.deliver(second, [], "onecycle") is None
    assert stored(second, "a") == written(made.trial("a"), 1)
    assert count(made) == before + 2
    assert tracking.deliver(made, [], "onecycle") is None
    assert stored(made, "a") == written(made.trial("a"), 1)
    assert count(made) == before + 2


@pytest.mark.slow
def test_an_experiment_keeps_the_views_of_its_latest_sweeps_and_makes_an_older_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_runs, "KEPT_VIEWS", 2)
    made = [delivered(tmp_path / f"{i}", id=f"sweep{i}", uri=shared_store(tmp_path), experiment="e") for i in range(4)]
    client(made[0]).set_experiment_tag(ledger.load(made[0]).experiment, ui.view_tag("mine"), "a user's own")
    tokens = [ledger.load(one).token for one in made]
    assert views(made[0]) == {"mine", tokens[2], tokens[3]}
    before = count(made[0])
    assert tracking.deliver(made[0], [], "onecycle") is None
    assert views(made[0]) == {"mine", tokens[3], tokens[0]}
    assert (count(made[0]), ledger.load(made[0]).token) == (before, tokens[0])
    state = experiment_tags(made[0])[ui.view_tag(tokens[0])].removeprefix("deflate;")
    assert b"val/accuracy" in zlib.decompress(base64.b64decode(state))
    tracking.make_view_again(made[2])
    assert views(made[0]) == {"mine", tokens[0], tokens[2]}
    assert count(made[0]) == before
    client(made[1]).delete_run(ledger.load(made[1]).parent)
    tracking.make_view_again(made[1])
    assert views(made[0]) == {"mine", tokens[0], tokens[2]}, "its runs are deleted"


def views(made: Sweep) -> set[str]:
    """The tokens of the views that an experiment has."""
    prefix = ui.view_tag("")
    return {key.removeprefix(prefix) for key in experiment_tags(made) if key.startswith(prefix)}


def test_a_single_trial_is_shipped_by_a_ledger_of_format_0(tmp_path: Path):
    made = delivered(tmp_path)
    before = count(made)
    downgrade(made)
    assert not tracking.ship(made, only=["a"])
    assert ledger.load(made).named
    assert count(made) == before


def test_a_renamed_experiment_is_filled_under_both_names(tmp_path: Path):
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
    assert count(made) == before + 1, "only the trial that was trained again has another run"


@pytest.mark.slow
@pytest.mark.parametrize(("of_format_0", "linked"), [(False, False), (True, False), (False, True)])
def test_a_moved_database_is_recognised_by_its_content(tmp_path: Path, of_format_0: bool, linked: bool):
    (tmp_path / "here").mkdir()
    made = delivered(tmp_path, uri=f"sqlite:///{with_store(tmp_path / 'here')}/mlflow.db")
    if of_format_0:
        downgrade(made)
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


@pytest.mark.slow
def test_a_copy_of_a_database_is_another_store(tmp_path: Path):
    made = delivered(tmp_path, uri=f"sqlite:///{with_store(tmp_path)}/mlflow.db")
    shutil.copy(database(made), tmp_path / "copy.db")
    copied = replace(made, tracking_uri=f"sqlite:///{tmp_path}/copy.db", experiment="mine")
    assert tracking.deliver(copied, [], "onecycle") is None
    attempt(made.trial("a"), 50, 60)
    finish(made.trial("a"))
    for each in (made, copied):
        assert tracking.deliver(each, [], "onecycle") is None
        assert stored(each, "a")
