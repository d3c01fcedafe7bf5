"""A trial: one config brought to one result; divergence is a result, and a failure says why and can be resumed."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import users_code
from onecycle_sweeps import journal, trial
from onecycle_sweeps.config import nodes
from onecycle_sweeps.journal import evaluation_points
from onecycle_sweeps.loop import evaluate
from onecycle_sweeps.trial import Stopped, TrialFailed, train
from onecycle_sweeps.trial.train import DivergenceCheck
from onecycle_sweeps.trial_folder import Busy, TrialFolder
from real_trials import SHORT, learner_of, made, names, series, stop_after

SERIES = {"schedule/lr", "schedule/momentum", "train/loss", "train/accuracy", "val/loss", "val/accuracy"}


def files(folder: TrialFolder) -> set[str]:
    return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}


def rebuilt(folder: TrialFolder) -> Any:
    """A learner from the trial's own config, with the weights it kept."""
    learner = learner_of(folder)
    learner.model.load_state_dict(torch.load(folder.path / "model.pt", weights_only=True))
    return learner


def test_a_finished_trial_has_the_promised_files_and_no_others(runs_dir: Path):
    folder = made(runs_dir, *SHORT)
    trial.run(folder)
    promised = {"config.yaml", "resolved.json", "result.json", "log.txt", "journal/0001.jsonl"}
    assert files(folder) == promised | {"lock"}


def test_a_finished_trial_has_the_promised_series_at_the_promised_steps(runs_dir: Path):
    folder = made(runs_dir, *SHORT)
    trial.run(folder)
    assert names(folder) == SERIES
    for name in ("schedule/lr", "schedule/momentum", "train/loss"):
        assert series(folder, name)[0] == list(range(10))
    assert series(folder, "val/loss")[0] == series(folder, "val/accuracy")[0] == [4, 9]
    assert journal.read(folder.journal).durable == 10


def test_a_result_has_the_promised_fields_and_metrics(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    accuracies = iter((0.5, 0.9, 0.7, 0.8))
    monkeypatch.setattr(train, "evaluate", lambda *_: {"loss": 1.0, "accuracy": next(accuracies)})
    folder = made(runs_dir, *SHORT, "evaluations_per_epoch=2")
    result = trial.run(folder)
    assert series(folder, "val/accuracy") == ([1, 4, 7, 9], [0.5, 0.9, 0.7, 0.8])
    seconds = result["metrics"]["seconds"]
    assert result["metrics"] == {
        "final/val_accuracy": 0.8,
        "best/val_accuracy": 0.9,
        "seconds": seconds,
        "images_per_second": 10 * 256 / seconds,
        "samples_per_second": 10 * 256 / seconds,
    }
    rest = {key: result[key] for key in ("kind", "status", "cause", "steps", "steps_per_epoch", "attempt", "warnings")}
    ended = {"kind": "train", "status": "finished", "cause": None}
    assert rest == ended | {"steps": 10, "steps_per_epoch": 5, "attempt": 1, "warnings": []}
    assert folder.result() == result


@pytest.mark.slow
def test_the_first_attempt_writes_down_what_it_fixed(runs_dir: Path):
    folder = made(runs_dir, *SHORT, "max_lr_scale=3", "precision=bf16", "threads=2")
    trial.run(folder)
    resolved = folder.resolved()
    assert resolved is not None
    assert resolved["max_lr"] == pytest.approx(0.3)
    assert resolved["max_lr_from"] == "config"
    assert (resolved["device"], resolved["precision"], resolved["threads"]) == ("cpu", "bf16", 2)
    assert (resolved["steps_per_epoch"], resolved["total_steps"]) == (5, 10)
    assert resolved["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert "onecycle_sweeps.models.simple_cnn.SimpleCNN" in resolved["code"]


def test_on_a_cpu_a_trial_has_one_thread_and_full_precision_by_default(runs_dir: Path):
    folder = made(runs_dir, *SHORT)
    trial.run(folder)
    resolved = folder.resolved()
    assert resolved is not None
    assert (resolved["threads"], resolved["precision"]) == (1, "fp32")


def test_later_attempts_keep_what_the_first_one_fixed(runs_dir: Path):
    folder = made(runs_dir, *SHORT)
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(3))
    fixed = folder.resolved()
    assert fixed is not None
    folder.write("resolved", fixed | {"precision": "bf16", "max_lr": 0.2})
    trial.run(folder)
    assert max(series(folder, "schedule/lr")[1][3:]) > 0.19
    assert folder.resolved() == fixed | {"precision": "bf16", "max_lr": 0.2}


def test_a_finished_trial_returns_its_result_without_another_attempt(runs_dir: Path):
    folder = made(runs_dir, *SHORT)
    first = trial.run(folder)
    before = {name: (folder.path / name).read_bytes() for name in files(folder)}
    assert trial.run(folder) == first
    assert {name: (folder.path / name).read_bytes() for name in files(folder)} == before


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["constant", "step", "clr", "onecycle", "cosine", "wsd", "inv"])
def test_the_recorded_trajectory_is_the_planned_one_exactly(runs_dir: Path, policy: str):
    folder = made(runs_dir, *SHORT, f"policy={policy}")
    result = trial.run(folder)
    plan = nodes.policy(folder.config(), 0.1, 5)
    planned = [plan(step) for step in range(10)]
    assert series(folder, "schedule/lr")[1] == [hyper.lr for hyper in planned]
    cycles = planned[0].momentum is not None
    assert series(folder, "schedule/momentum")[1] == [hyper.momentum if cycles else 0.9 for hyper in planned]
    assert result["warnings"] == []


@pytest.mark.parametrize(("name", "planned"), [("schedule/lr", "0.1"), ("schedule/momentum", "0.9")])
def test_a_trajectory_that_is_not_the_planned_one_is_reported(runs_dir: Path, name: str, planned: str):
    folder = made(runs_dir, *SHORT, "policy=constant")
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(4))
    path = folder.journal / "0001.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if name in line.get("metrics", {}):
            line["metrics"][name][2] = 0.5
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (warning,) = trial.run(folder)["warnings"]
    assert all(fact in warning for fact in (name, "step 2", "0.5", planned))
    assert f"WARNING {warning}" in folder.log.read_text()


def test_evaluations_are_spread_evenly_and_the_end_of_each_epoch_is_one() -> None:
    assert sorted(evaluation_points(20, 10, 1)) == [10, 20]
    assert sorted(evaluation_points(20, 10, 3)) == [3, 7, 10, 13, 17, 20]
    assert evaluation_points(6, 3, 100) == {1, 2, 3, 4, 5, 6}


def test_the_kept_model_is_the_one_that_was_evaluated_last(runs_dir: Path):
    folder = made(runs_dir, *SHORT, "save_model=true")
    result = trial.run(folder)
    learner = rebuilt(folder)
    assert evaluate(learner, "val")["accuracy"] == result["metrics"]["final/val_accuracy"] > 0.5


def test_save_model_added_later_trains_again_to_the_same_result(runs_dir: Path):
    folder = made(runs_dir, *SHORT)
    first = trial.run(folder)
    assert not (folder.path / "model.pt").exists()
    assert made(runs_dir, *SHORT, "save_model=true").path == folder.path
    second = trial.run(folder)
    assert (folder.path / "model.pt").exists()
    assert second["attempt"] == 2
    assert second["metrics"]["final/val_accuracy"] == first["metrics"]["final/val_accuracy"]


def test_with_a_val_fraction_the_official_test_part_is_scored_once_at_the_end(runs_dir: Path):
    folder = made(runs_dir, *SHORT, "data.val_fraction=0.2", "save_model=true")
    result = trial.run(folder)
    learner = rebuilt(folder)
    assert (len(learner.data.train), len(learner.data.val), len(learner.data.test)) == (1150, 287, 360)
    assert result["metrics"]["final/test_accuracy"] == evaluate(learner, "test")["accuracy"]
    assert result["metrics"]["final/val_accuracy"] == evaluate(learner, "val")["accuracy"]
    assert names(folder) == SERIES


def test_adam_takes_the_momentum_as_beta1(runs_dir: Path):
    folder = made(runs_dir, *SHORT, "optimizer=adamw", "max_lr=0.01")
    trial.run(folder)
    momenta = series(folder, "schedule/momentum")[1]
    assert momenta[0] == pytest.approx(0.95)
    assert min(momenta) == pytest.approx(0.85)


def test_a_trial_at_work_is_busy_for_everybody_else(runs_dir: Path):
    folder = made(runs_dir, *SHORT)
    with folder.lock(), pytest.raises(Busy, match=f"another process works on {folder.path}"):
        trial.run(folder)
    assert folder.attempts() == 0
    assert trial.run(folder)["status"] == "finished"


def test_a_trial_writes_to_its_own_log_and_leaves_none_open(runs_dir: Path):
    first, second = made(runs_dir, *SHORT), made(runs_dir, *SHORT, "seed=1")
    trial.run(first)
    trial.run(second)
    assert second.signature not in first.log.read_text()
    assert first.signature not in second.log.read_text()
    assert logging.getLogger("onecycle_sweeps").handlers == []


def test_a_rate_out_of_reach_is_a_result_and_no_failure(runs_dir: Path):
    folder = made(runs_dir, *SHORT, "max_lr=1e6")
    result = trial.run(folder)
    losses = series(folder, "train/loss")[1]
    last = len(losses) - 1
    assert result["status"] == "diverged"
    assert result["cause"] == f"the loss is {losses[last]} at step {last}"
    assert [math.isfinite(loss) for loss in losses] == [True] * last + [False]
    assert series(folder, "schedule/lr")[0] == list(range(last + 1))
    assert 0 < last < 10
    assert set(result["metrics"]) == {"seconds"}
    assert (result["warnings"], folder.failure()) == ([], None)
    assert not folder.checkpoint.exists()
    assert trial.run(folder) == result


def test_an_epoch_at_three_times_the_first_loss_has_diverged(runs_dir: Path):
    folder = made(runs_dir, *SHORT, "policy=constant", "max_lr=10")
    result = trial.run(folder)
    losses = series(folder, "train/loss")[1]
    mean = sum(losses) / 5
    assert result["status"] == "diverged"
    assert result["cause"] == f"the mean loss of epoch 1 is {mean:.4g}, above 3x the untrained net's"
    assert (len(losses), result["steps"]) == (5, 5)
    assert mean > 3 * losses[0]
    assert series(folder, "val/accuracy")[0] == []


@pytest.mark.slow
@pytest.mark.parametrize("max_lr", ["1e6", "10"])
def test_when_losses_are_read_does_not_change_when_a_training_has_diverged(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, max_lr: str
):
    seen = []
    for steps, seconds in [(1, 1e9), (3, 1e9), (1000, 1e9), (1000, 0.0)]:
        monkeypatch.setattr(train, "BLOCK_STEPS", steps)
        monkeypatch.setattr(train, "BLOCK_SECONDS", seconds)
        folder = made(runs_dir, *SHORT, "policy=constant", f"max_lr={max_lr}")
        folder.set_aside()
        folder.journal.mkdir()
        result = trial.run(folder)
        seen.append((result["status"], result["cause"], result["steps"], repr(series(folder, "train/loss"))))
    assert seen[0][0] == "diverged"
    assert seen == [seen[0]] * 4


def test_each_epoch_is_measured_against_the_first_loss_alone():
    check = DivergenceCheck(steps_per_epoch=2)
    assert [check.update(loss) for loss in (1.0, 4.0, 5.9, 0.1, 0.0, 6.0)] == [None] * 6
    assert check.update(0.0) is None
    assert check.update(6.1) == "the mean loss of epoch 4 is 3.05, above 3x the untrained net's"


def test_a_few_steps_with_most_of_the_loss_are_no_divergence():
    check = DivergenceCheck(steps_per_epoch=10)
    # The first batch has none of the samples that have most of the loss.
    assert [check.update(loss) for loss in [0.1, *[0.2] * 5, *[2.0] * 4] * 3] == [None] * 30
    assert any(check.update(loss) for loss in [0.2] * 5 + [2.0] * 5)


def test_a_loss_that_was_negative_once_may_grow():
    check = DivergenceCheck(steps_per_epoch=2)
    assert [check.update(loss) for loss in (1.0, -0.5, 90.0, 90.0)] == [None] * 4


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_has_diverged(loss: float):
    check = DivergenceCheck(steps_per_epoch=100)
    assert check.update(2.0) is None
    assert check.update(loss) == f"the loss is {loss} at step 1"


@pytest.mark.parametrize(
    ("override", "cause"),
    [
        (
            "model._target_=users_code.Impossible",
            r"RuntimeError: no room for 10 classes \(users_code.py:\d+ in __init__\)",
        ),
        ("optimizer._target_=users_code.Sulking", r"ArithmeticError: not today \(users_code.py:\d+ in step\)"),
        ("model.channels=[]", r"channels must be .* got \[\]"),
    ],
)
def test_a_trial_whose_code_fails_says_why_in_one_line(runs_dir: Path, override: str, cause: str):
    folder = made(runs_dir, *SHORT, override)
    with pytest.raises(TrialFailed, match=f"^{cause}$") as raised:
        trial.run(folder)
    failure = folder.failure()
    assert failure is not None
    assert (failure["cause"], failure["attempt"]) == (str(raised.value), 1)
    assert folder.result() is None
    attempt = journal.read(folder.journal).attempts[-1]
    assert (attempt.end, attempt.cause) == ("failed", str(raised.value))
    assert "Traceback" in folder.log.read_text()


def test_a_trial_that_failed_goes_on_from_its_checkpoint_once_its_code_is_mended(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    def break_in_the_seventh_pass(passes: int) -> None:
        if passes == 7:
            raise RuntimeError("a stroke of bad luck")

    monkeypatch.setattr(users_code, "in_training", [break_in_the_seventh_pass])
    model = ("~model", "+model={_target_: users_code.WithDropout}")
    folder = made(runs_dir, *SHORT, *model, "checkpoint_minutes=1e-9")
    with pytest.raises(TrialFailed, match="a stroke of bad luck"):
        trial.run(folder)
    monkeypatch.setattr(users_code, "in_training", [])
    result = trial.run(folder)
    assert (result["status"], result["attempt"]) == ("finished", 2)
    assert [attempt.start for attempt in journal.read(folder.journal).attempts] == [0, 6]
    assert folder.failure() is None


def test_a_record_whose_loader_is_gone_is_trained_on_decoded_data_and_without_them_fails_in_one_line(runs_dir: Path):
    folder = made(runs_dir, *SHORT)
    config = folder.config()
    config["data"]["_target_"] = config["data"]["_target_"].replace("sources.digits", "data.digits")
    folder.write_config(config)
    assert trial.run(folder)["status"] == "finished"
    folder.remove("result.json")
    (runs_dir / "data").unlink()
    with pytest.raises(TrialFailed, match=r"^data\._target_=onecycle_sweeps\.data\.digits\.load [^\n]*: [^\n]*$"):
        trial.run(folder)
