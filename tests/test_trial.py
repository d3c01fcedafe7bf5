"""A trial: one config brought to one result, with all its folder promises, whatever it comes to."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import users_code
from onecycle_sweeps import journal, settings, trial
from onecycle_sweeps.folder import Busy, TrialFolder
from onecycle_sweeps.training import Evaluation, evaluate
from onecycle_sweeps.trial import Stopped, TrialFailed, recording, resolve, train
from onecycle_sweeps.trial.recording import Watch
from onecycle_sweeps.trial.train import evaluation_points
from real_trials import SHORT, made, stop_after

SERIES = {"schedule/lr", "schedule/momentum", "train/loss", "val/loss", "val/accuracy"}
AUTO = ("epochs=1", "batch_size=256")


def files(folder: TrialFolder) -> set[str]:
    return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}


def series(folder: TrialFolder, name: str) -> tuple[list[int], list[float]]:
    return journal.read(folder.journal).series(name)


def names(folder: TrialFolder) -> set[str]:
    return {name for block in journal.read(folder.journal).blocks for name in block.metrics}


def rebuilt(folder: TrialFolder) -> Any:
    """A learner from the trial's own config, with the weights it kept."""
    config, resolved = folder.config(), folder.resolved()
    assert resolved is not None
    data = resolve.data(folder, config, resolve.facts(folder, config), resolved)
    learner = resolve.learner(config, resolved, data, seed=99)
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
    monkeypatch.setattr(train, "evaluate", lambda *_: Evaluation(1.0, next(accuracies)))
    folder = made(runs_dir, *SHORT, "evaluations_per_epoch=2")
    result = trial.run(folder)
    assert series(folder, "val/accuracy") == ([1, 4, 7, 9], [0.5, 0.9, 0.7, 0.8])
    seconds = result["metrics"]["seconds"]
    assert result["metrics"] == {
        "final/val_accuracy": 0.8,
        "best/val_accuracy": 0.9,
        "seconds": seconds,
        "images_per_second": 10 * 256 / seconds,
    }
    rest = {key: result[key] for key in ("kind", "status", "cause", "steps", "steps_per_epoch", "attempt", "warnings")}
    ended = {"kind": "train", "status": "finished", "cause": None}
    assert rest == ended | {"steps": 10, "steps_per_epoch": 5, "attempt": 1, "warnings": []}
    assert folder.result() == result


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


def test_on_a_cpu_a_trial_has_one_thread_and_full_precision_unless_asked(runs_dir: Path):
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


@pytest.mark.parametrize("policy", ["constant", "step", "clr", "onecycle", "cosine", "wsd", "inv"])
def test_the_recorded_trajectory_is_the_planned_one_exactly(runs_dir: Path, policy: str):
    folder = made(runs_dir, *SHORT, f"policy={policy}")
    result = trial.run(folder)
    plan = settings.policy(folder.config(), 0.1, 5)
    planned = [plan(step) for step in range(10)]
    assert series(folder, "schedule/lr")[1] == [hyper.lr for hyper in planned]
    cycles = planned[0].momentum is not None
    assert series(folder, "schedule/momentum")[1] == [hyper.momentum if cycles else 0.9 for hyper in planned]
    assert result["warnings"] == []


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("schedule/lr", "schedule/lr at step 2 was 0.5, where the policy plans 0.1"),
        ("schedule/momentum", "schedule/momentum at step 2 was 0.5, where the policy plans 0.9"),
    ],
)
def test_a_trajectory_that_is_not_the_planned_one_is_said(runs_dir: Path, name: str, warning: str):
    folder = made(runs_dir, *SHORT, "policy=constant")
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(4))
    path = folder.journal / "0001.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if name in line.get("metrics", {}):
            line["metrics"][name][2] = 0.5
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert trial.run(folder)["warnings"] == [warning]
    assert f"WARNING {warning}" in folder.log.read_text()


def test_evaluations_are_spread_evenly_and_the_end_of_each_epoch_is_one() -> None:
    assert sorted(evaluation_points(20, 10, 1)) == [10, 20]
    assert sorted(evaluation_points(20, 10, 3)) == [3, 7, 10, 13, 17, 20]
    assert evaluation_points(6, 3, 100) == {1, 2, 3, 4, 5, 6}


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


@pytest.mark.parametrize("max_lr", ["1e6", "10"])
def test_when_losses_are_read_does_not_change_when_a_training_has_diverged(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, max_lr: str
):
    seen = []
    for number, (steps, seconds) in enumerate([(1, 1e9), (3, 1e9), (1000, 1e9), (1000, 0.0)]):
        monkeypatch.setattr(recording, "BLOCK_STEPS", steps)
        monkeypatch.setattr(recording, "BLOCK_SECONDS", seconds)
        # A key without a meaning tells the folders apart; the trainings are the same.
        folder = made(runs_dir, *SHORT, "policy=constant", f"max_lr={max_lr}", f"+number={number}")
        result = trial.run(folder)
        seen.append((result["status"], result["cause"], result["steps"], repr(series(folder, "train/loss"))))
    assert seen[0][0] == "diverged"
    assert seen == [seen[0]] * 4


def test_a_watch_measures_each_epoch_against_the_first_loss_alone():
    watch = Watch(steps_per_epoch=2)
    assert [watch.see(loss) for loss in (1.0, 4.0, 5.9, 0.1, 0.0, 6.0)] == [None] * 6
    assert watch.see(0.0) is None
    assert watch.see(6.1) == "the mean loss of epoch 4 is 3.05, above 3x the untrained net's"


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_watch_ends_at_the_first_loss_that_is_no_number(loss: float):
    watch = Watch(steps_per_epoch=100)
    assert watch.see(2.0) is None
    assert watch.see(loss) == f"the loss is {loss} at step 1"


@pytest.mark.parametrize(
    ("override", "cause"),
    [
        ("model._target_=users_code.Impossible", r"RuntimeError: no room for 10 classes \(users_code.py:\d+\)"),
        ("optimizer._target_=users_code.Sulking", r"ArithmeticError: not today \(users_code.py:\d+\)"),
        ("model.channels=[]", r"channels must name .* got \[\]"),
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


def test_a_range_test_has_its_curve_and_a_suggestion_by_every_rule(runs_dir: Path):
    folder = made(runs_dir, *AUTO, "task=range_test")
    result = trial.run(folder)
    rules = {f"suggestion/{rule}" for rule in ("minimum", "steepest", "valley", "slide", "max_lr")}
    assert (result["kind"], result["status"]) == ("range_test", "finished")
    assert set(result["metrics"]) == rules | {"seconds"}
    assert 0.01 < result["metrics"]["suggestion/max_lr"] < 1
    assert names(folder) == {"schedule/lr", "schedule/momentum", "train/loss", "range/loss_smoothed"}
    rates = series(folder, "schedule/lr")[1]
    assert rates[0] == pytest.approx(1e-5)
    assert rates == sorted(rates)
    assert result["steps"] == len(rates) <= 100


def test_a_range_test_of_several_seeds_takes_the_median_of_their_suggestions(runs_dir: Path):
    verdicts = [
        trial.run(made(runs_dir, *AUTO, "task=range_test", f"range_test.seeds=[{seed}]"))["metrics"]
        for seed in (0, 1, 2)
    ]
    folder = made(runs_dir, *AUTO, "task=range_test", "range_test.seeds=[0,1,2]")
    together = trial.run(folder)
    for name in verdicts[0].keys() - {"seconds"}:
        assert together["metrics"][name] == sorted(one[name] for one in verdicts)[1]
    rates = series(folder, "schedule/lr")[1]
    assert together["steps"] == len(rates)
    assert sum(rate == rates[0] for rate in rates) == 3


def test_a_range_test_that_was_stopped_begins_again_and_finds_the_same(runs_dir: Path, tmp_path: Path):
    folder = made(runs_dir, *AUTO, "task=range_test")
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(40))
    again = trial.run(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(runs_dir / "data")
    undisturbed = trial.run(made(tmp_path / "other", *AUTO, "task=range_test"))
    for result in (again, undisturbed):
        del result["metrics"]["seconds"], result["finished"]
    assert again == undisturbed | {"attempt": 2}


def test_one_range_test_finds_the_rate_of_all_trainings_and_each_says_so(runs_dir: Path):
    asked = [("policy=onecycle", "seed=0"), ("policy=constant", "seed=1"), ("policy=onecycle", "max_lr_scale=0.5")]
    folders = [made(runs_dir, *AUTO, *overrides) for overrides in asked]
    for folder in folders:
        trial.run(folder)
    (test,) = {folder.config()["needs"]["range_test"] for folder in folders}
    found = TrialFolder(runs_dir / test)
    result = found.result()
    assert found.attempts() == 1
    assert result is not None
    rate = result["metrics"]["suggestion/max_lr"]
    for folder, expected in zip(folders, (rate, rate, rate * 0.5), strict=True):
        resolved = folder.resolved()
        assert resolved is not None
        assert (resolved["max_lr"], resolved["max_lr_from"]) == (expected, f"range_test:{test}")
        assert f"max_lr is {expected:.4g}, from range_test:{test}" in folder.log.read_text()
        assert max(series(folder, "schedule/lr")[1]) == pytest.approx(expected, rel=0.3)


def test_a_rate_that_was_found_is_kept_when_its_range_test_is_gone(runs_dir: Path):
    folder = made(runs_dir, *AUTO, "policy=constant")
    # The range test and the training ask in turn whether to leave.
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(102))
    resolved = folder.resolved()
    assert resolved is not None
    test = TrialFolder(runs_dir / folder.config()["needs"]["range_test"])
    test.path.rename(runs_dir / "gone")
    trial.run(folder)
    assert folder.resolved() == resolved
    assert set(series(folder, "schedule/lr")[1]) == {resolved["max_lr"]}


def test_a_training_whose_range_test_fails_says_which_and_why(runs_dir: Path):
    flat = ("range_test.start_lr=1e-12", "range_test.end_lr=1e-11")
    folder = made(runs_dir, *AUTO, *flat)
    test = folder.config()["needs"]["range_test"]
    with pytest.raises(TrialFailed, match=f"^range test {test}: the loss of a range test must fall"):
        trial.run(folder)
    cause = TrialFolder(runs_dir / test).failure()
    assert cause is not None
    assert "raise range_test.end_lr (last 1e-11)" in cause["cause"]


def test_the_kept_model_is_the_one_that_was_evaluated_last(runs_dir: Path):
    folder = made(runs_dir, *SHORT, "save_model=true")
    result = trial.run(folder)
    learner = rebuilt(folder)
    assert evaluate(learner, learner.data.val).accuracy == result["metrics"]["final/val_accuracy"] > 0.5


def test_a_model_that_is_asked_for_later_is_trained_again_to_the_same_result(runs_dir: Path):
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
    assert result["metrics"]["final/test_accuracy"] == evaluate(learner, learner.data.test).accuracy
    assert result["metrics"]["final/val_accuracy"] == evaluate(learner, learner.data.val).accuracy
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
