from pathlib import Path

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep
from recorded import attempt, database, finish, range_test, runs, sweep, training

NAME = "onecycle max_lr=0.8 seed=0"


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of one trial, `a`, that has not begun."""
    return sweep(tmp_path, training("a", target_accuracy=0.5))


def test_a_sweep_has_a_parent_run_with_its_trials_and_range_tests_below_it(made: Sweep, tmp_path: Path):
    made = sweep(tmp_path, range_test("r"), training("a"), training("b", "clr"))
    for signature in ("r", "a", "b"):
        attempt(made.trial(signature), 0, 10)
        finish(made.trial(signature))
    tracking.ship(made)
    found = runs(made)
    parent = found.pop("sweep 5weeb1d0")
    assert set(found) == {"range test", NAME, "clr max_lr=0.8 seed=0"}
    assert {run["tags"]["mlflow.parentRunId"] for run in found.values()} == {parent["id"]}
    assert "1 x range test, 2 x train" in parent["tags"]["mlflow.note.content"]
    assert not parent["latest_metrics"]


def test_a_command_for_one_trial_has_one_run_and_no_parent(tmp_path: Path):
    made = sweep(tmp_path, training("a"), single=True)
    attempt(made.trial("a"), 0, 10)
    finish(made.trial("a"))
    tracking.ship(made)
    assert list(runs(made)) == [NAME]
    assert "mlflow.parentRunId" not in runs(made)[NAME]["tags"]


def test_params_are_the_config_and_the_rate_that_was_used(made: Sweep):
    trial = made.trial("a")
    data = {"classes": [3, 7], "root": None}
    config = {"max_lr": "auto", "data": data, "seed": 0, "nesterov": True}
    attempt(trial, 0, 10, config=config | {"needs": {"data": "d"}, "tracking": {"uri": "http://me:secret@host"}})
    finish(trial)
    tracking.ship(made)
    used = {"max_lr": "0.8", "total_steps": "100"}
    asked = {"data.classes": "[3, 7]", "data.root": "null", "seed": "0", "nesterov": "true"}
    assert runs(made)[NAME]["params"] == asked | used


def test_params_stay_when_a_resume_would_log_others(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 50, saved=50, end="stopped")
    tracking.ship(made)
    before = runs(made)[NAME]["params"]
    trial.write("resolved", {"max_lr": 0.8, "max_lr_from": "config", "total_steps": 999})
    attempt(trial, 50, 100)
    finish(trial)
    tracking.ship(made)
    assert runs(made)[NAME]["params"] == before


def test_figures_and_tags_say_what_the_trial_came_to(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 40, saved=40, end="stopped")
    attempt(trial, 40, 100)
    finish(
        trial,
        metrics={"final/val_accuracy": 0.9, "seconds": 12.5},
        warnings=["odd", "very odd"],
        verdict={"word": "ambiguous"},
    )
    tracking.ship(made)
    run = runs(made)[NAME]
    figures = {"final/val_accuracy": 0.9, "seconds": 12.5, "steps_to_target": 100.0}
    assert run["latest_metrics"].items() >= figures.items()
    tags = {"kind": "train", "sweep": made.id, "signature": "a", "status": "finished", "max_lr_from": "range_test:r"}
    assert (
        run["tags"].items()
        >= (
            tags | {"git_commit": "c0ffee-dirty", "attempts": "2", "warnings": "odd\nvery odd", "verdict": "ambiguous"}
        ).items()
    )


def test_a_target_that_was_not_reached_has_no_figure(tmp_path: Path):
    made = sweep(tmp_path, training("a", target_accuracy=0.95))
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    tracking.ship(made)
    assert "steps_to_target" not in runs(made)[NAME]["latest_metrics"]


def test_an_ended_trial_brings_its_files_beside_the_database(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 10, config={"tracking": {"uri": "http://me:secret@host/path"}, "seed": 0})
    (trial.path / "lr_momentum.png").write_bytes(b"png")
    finish(trial)
    tracking.ship(made)
    folder = database(made).parent / "mlruns" / runs(made)[NAME]["id"] / "artifacts"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "resolved.json", "lr_momentum.png"}
    assert "uri: http://host/path" in (folder / "config.yaml").read_text()


def test_the_report_stands_on_the_page_of_its_sweep(made: Sweep, tmp_path: Path):
    (tmp_path / "report.html").write_text("<p>onecycle</p>")
    (tmp_path / "lr.svg").write_text("<svg/>")
    description = "# onecycle is best\n" + "x" * 9000
    assert tracking.deliver(made, [tmp_path / "report.html", tmp_path / "lr.svg"], description) is None
    run = runs(made)["sweep 5weeb1d0"]
    described = run["tags"]["mlflow.note.content"]
    assert described.startswith("# onecycle is best")
    assert described.endswith(f"\n![lr](get-artifact?path=report/lr.svg&run_uuid={run['id']})\n")
    assert len(described) == 8000
    assert (database(made).parent / "mlruns" / run["id"] / "artifacts" / "report" / "report.html").exists()
