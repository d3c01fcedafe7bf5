"""The runs of a sweep in MLflow: nesting, params, tags, figures, files and status."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.tracking import run_data
from onecycle_sweeps.trial_folder import TrialFolder
from recorded import NAME, attempt, client, database, fail, finish, range_test, runs, sweep, training


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of one trial, `a`, that has not begun."""
    return sweep(tmp_path, training("a", target=0.5))


def test_a_sweep_has_a_parent_run_with_trials_and_range_tests_nested_in_it(made: Sweep, tmp_path: Path):
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


def test_params_are_the_config_with_the_learning_rate_used(made: Sweep):
    trial = made.trial("a")
    data = {"classes": [3, 7], "root": None}
    config = {"max_lr": "auto", "data": data, "seed": 0, "nesterov": True}
    attempt(trial, 0, 10, config=config | {"needs": {"data": "d"}, "tracking": {"uri": "http://me:secret@host"}})
    finish(trial)
    tracking.ship(made)
    used = {"max_lr": "0.8", "total_steps": "100"}
    asked = {"data.classes": "[3, 7]", "data.root": "null", "seed": "0", "nesterov": "true"}
    assert runs(made)[NAME]["params"] == asked | used


def test_params_do_not_change_when_a_resume_would_log_others(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 50, saved=50, end="stopped")
    tracking.ship(made)
    before = runs(made)[NAME]["params"]
    trial.write("resolved", {"max_lr": 0.8, "max_lr_from": "config", "total_steps": 999})
    attempt(trial, 50, 100)
    finish(trial)
    tracking.ship(made)
    assert runs(made)[NAME]["params"] == before


def test_end_metrics_and_tags_describe_the_result(made: Sweep):
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


def test_a_missed_target_has_no_metric(tmp_path: Path):
    made = sweep(tmp_path, training("a", target=0.95))
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    tracking.ship(made)
    assert "steps_to_target" not in runs(made)[NAME]["latest_metrics"]


def test_files_of_an_ended_trial_are_artifacts_beside_the_database(made: Sweep):
    trial = made.trial("a")
    attempt(trial, 0, 10, config={"tracking": {"uri": "http://me:secret@host/path"}, "seed": 0})
    (trial.path / "lr_momentum.png").write_bytes(b"png")
    finish(trial)
    tracking.ship(made)
    folder = database(made).parent / "mlruns" / runs(made)[NAME]["id"] / "artifacts"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "resolved.json", "lr_momentum.png"}
    assert "uri: http://host/path" in (folder / "config.yaml").read_text()


def test_the_report_is_on_the_page_of_its_sweep(made: Sweep, tmp_path: Path):
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


def comparison(folder: Path, policies: Sequence[str] = ("constant", "clr"), seeds: int = 2) -> Sweep:
    """A sweep of policies with several seeds, all of which have finished."""
    entries = [
        Entry(f"{policy}{seed}", TRAIN, {"policy": policy, "seed": str(seed)})
        for seed in range(seeds)
        for policy in policies
    ]
    made = sweep(folder, *entries, choices={"data": "digits", "model": "lenet"})
    config = {"evaluations_per_epoch": 1, "data": {"_target_": "some.images"}, "needs": {"data": "50a4d39675"}}
    for entry in entries:
        attempt(made.trial(entry.signature), 0, 10, config=config)
        finish(made.trial(entry.signature))
    return made


def test_a_sweep_is_named_by_what_it_compares(tmp_path: Path):
    made = comparison(tmp_path, ("constant", "step", "clr", "onecycle"), seeds=3)
    assert run_data.sweep_name(made) == "digits, lenet: 4 policies x 3 seeds"
    assert run_data.sweep_name(replace(made, trials=made.trials[:1])) == "digits, lenet: constant x 1 seed"
    rated = [
        Entry(f"a{i}", TRAIN, {"policy": "clr", "max_lr": rate, "seed": "0"}) for i, rate in enumerate(("0.1", "0.2"))
    ]
    assert run_data.sweep_name(replace(made, trials=tuple(rated))) == "digits, lenet: clr in 2 settings x 1 seed"
    assert run_data.sweep_name(replace(made, trials=(range_test("r"),))) == "digits, lenet: 1 range test"


def test_runs_are_grouped_by_their_tags_and_list_their_data(tmp_path: Path):
    made = comparison(tmp_path)
    tracking.ship(made)
    found = runs(made)
    assert "digits, lenet: 2 policies x 2 seeds" in found
    run = found["clr max_lr=0.8 seed=1"]
    assert run["tags"].items() >= {"policy": "clr", "data": "digits", "model": "lenet"}.items()
    (data,) = client(made).get_run(run["id"]).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "50a4d39675")
    assert "some.images" in data.dataset.source


def test_a_description_begins_with_the_answer_and_links_each_trial_in_the_mode_for_trainings(tmp_path: Path):
    made = comparison(tmp_path)
    answer = "On digits with lenet, clr reached 90 %."
    assert tracking.deliver(made, [], f"{answer}\n\nthe table") is None
    found = runs(made)
    parent = found.pop("digits, lenet: 2 policies x 2 seeds")
    first, links, rest = parent["tags"]["mlflow.note.content"].split("\n\n")
    assert (first, rest) == (answer, "the table")
    assert f"]({urlsplit(tracking.overlay_link(made))._replace(scheme='', netloc='', path='').geturl()})" in links
    for name, run in found.items():
        assert re.search(rf"\[{re.escape(name)}\]\(#/experiments/\d+/runs/{run['id']}\?workflowType=machine_l", links)


@pytest.mark.slow
def test_of_a_thousand_trials_as_many_are_linked_as_a_description_has_room_for(tmp_path: Path):
    made = comparison(tmp_path, seeds=20)
    assert tracking.deliver(made, [], "the answer\n\n" + "x" * 9000) is None
    text = runs(made)["digits, lenet: 2 policies x 20 seeds"]["tags"]["mlflow.note.content"]
    assert text.startswith("the answer\n\n") and len(text) == 8000
    shown, left = text.count("/runs/"), int(re.findall(r"and (\d+) more", text)[0])
    assert shown > 10 and shown + left == 40


def test_what_a_sweep_shows_is_in_the_tags_and_metrics_of_its_page(tmp_path: Path):
    made = comparison(tmp_path)
    assert tracking.deliver(made, [], "the answer", {"winner": "clr", "gain/mean": 0.0256}) is None
    parent = runs(made)["digits, lenet: 2 policies x 2 seeds"]
    assert parent["tags"]["winner"] == "clr"
    assert parent["latest_metrics"] == {"gain/mean": 0.0256}


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
def test_each_status_has_a_tag_and_an_mlflow_status(
    made: Sweep, ending: Callable[[TrialFolder], object], word: str, status: str
):
    attempt(made.trial("a"), 0, 10)
    ending(made.trial("a"))
    tracking.ship(made)
    found = runs(made)
    assert (found[NAME]["tags"]["status"], found[NAME]["status"]) == (word, status)
    assert found["sweep 5weeb1d0"]["status"] == status
    assert (found[NAME]["end"] is not None) == (word != "waiting")


def test_a_running_trial_and_its_sweep_have_running_runs(made: Sweep):
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


def test_a_failed_trial_that_succeeds_later_is_finished_without_a_cause(made: Sweep):
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
