from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.tracking.store import address, redacted
from onecycle_sweeps.tracking.values import as_params, as_tags
from recorded import ask, attempt, database, fail, finish, range_test, runs, sweep, training

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

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


def test_a_trial_that_has_not_begun_has_no_run_and_is_no_backlog(made: Sweep):
    assert not tracking.ship(made)
    assert list(runs(made)) == ["sweep 5weeb1d0"]


def test_params_are_the_config_and_the_rate_that_was_used(made: Sweep):
    trial = made.trial("a")
    data = {"classes": [3, 7], "root": None}
    config = {"max_lr": "auto", "data": data, "seed": 0, "nesterov": True}
    trial.create(config | {"needs": {"data": "d"}, "tracking": {"uri": "http://me:secret@host"}})
    attempt(trial, 0, 10)
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
    finish(trial, metrics={"final/val_accuracy": 0.9, "seconds": 12.5}, warnings=["odd", "very odd"])
    tracking.ship(made)
    run = runs(made)[NAME]
    figures = {"final/val_accuracy": 0.9, "seconds": 12.5, "steps_to_target": 100.0}
    assert run["latest_metrics"].items() >= figures.items()
    tags = {"kind": "train", "sweep": made.id, "signature": "a", "status": "finished", "max_lr_from": "range_test:r"}
    assert (
        run["tags"].items()
        >= (tags | {"git_commit": "c0ffee-dirty", "attempts": "2", "warnings": "odd\nvery odd"}).items()
    )


def test_a_target_that_was_not_reached_has_no_figure(tmp_path: Path):
    made = sweep(tmp_path, training("a", target_accuracy=0.95))
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    tracking.ship(made)
    assert "steps_to_target" not in runs(made)[NAME]["latest_metrics"]


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


def test_an_ended_trial_brings_its_files_beside_the_database(made: Sweep):
    trial = made.trial("a")
    trial.create({"tracking": {"uri": "http://me:secret@host/path"}, "seed": 0})
    attempt(trial, 0, 10)
    (trial.path / "lr_momentum.png").write_bytes(b"png")
    finish(trial)
    tracking.ship(made)
    folder = database(made).parent / "mlruns" / runs(made)[NAME]["id"] / "artifacts"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "resolved.json", "lr_momentum.png"}
    assert "uri: http://host/path" in (folder / "config.yaml").read_text()


def test_the_report_stands_on_the_page_of_its_sweep(made: Sweep, tmp_path: Path):
    (tmp_path / "report.html").write_text("<p>onecycle</p>")
    tracking.publish_report(made, [tmp_path / "report.html"], "# onecycle is best")
    run = runs(made)["sweep 5weeb1d0"]
    assert run["tags"]["mlflow.note.content"] == "# onecycle is best"
    assert (database(made).parent / "mlruns" / run["id"] / "artifacts" / "report" / "report.html").exists()


def test_the_overlay_link_asks_for_the_trainings_of_this_sweep_alone(made: Sweep):
    assert tracking.overlay_link(made) == "http://127.0.0.1:5000/#/experiments"
    tracking.ship(made)
    page, _, query = urlsplit(tracking.overlay_link(made)).fragment.partition("?")
    token = ledger.load(made.folder, made.tracking_uri).token
    ((experiment,),) = ask(made, "SELECT experiment_id FROM experiments WHERE name = ?", made.experiment)
    assert page == f"/experiments/{experiment}/runs"
    assert parse_qs(query)["searchFilter"] == [f"tags.ledger = '{token}' and tags.kind = 'train'"]
    assert "compareRunsMode=CHART&orderByKey=params.`max_lr`" in unquote(query)


def test_long_values_are_cut_with_a_mark_and_credentials_with_stars():
    params, tags = as_params({"list": ["x" * 7000]}), as_tags({"cause": "y" * 9000, "none": None, "empty": ""})
    assert len(params["list"]) == 6000
    assert params["list"].endswith("[... shortened from 7004 characters]")
    assert {key: len(value) for key, value in tags.items()} == {"cause": 8000}
    assert as_params({"url": "x http://me:s/ec@ret@host/p y"}) == {"url": "x http://***@host/p y"}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/p", "http://host:5000/p"),
        ("postgresql://me:se@cret@host/db?password=secret", "postgresql://host/db"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_an_address_has_no_credentials(uri: str, shown: str):
    assert address(uri) == shown
    assert "secret" not in redacted(shown)


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///mlflow.db", "sqlite:////there/mlflow.db"),
        ("sqlite:///../a/b.db?timeout=5", "sqlite:////a/b.db?timeout=5"),
        ("sqlite:////x/mlflow.db", "sqlite:////x/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql:///db", "postgresql:///db"),
    ],
)
def test_a_relative_sqlite_path_is_made_absolute(uri: str, absolute: str):
    assert tracking.absolute_uri(uri, Path("/there")) == absolute


def test_the_ui_is_served_on_loopback_and_its_uri_is_no_argument():
    uri = "postgresql://me:secret@host/db"
    command, environment = tracking.ui_command(uri, 5001), tracking.ui_environment(uri)
    assert "--host 127.0.0.1 --port 5001" in " ".join(command)
    assert "secret" not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    with pytest.raises(ValueError, match="http://host is an MLflow server"):
        tracking.ui_command("http://me:secret@host")
