"""A range test is a trial: one finds the rate of all trainings that ask for it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onecycle_sweeps import journal, trial
from onecycle_sweeps.measures import ACCURACY
from onecycle_sweeps.models.mlp import MLP
from onecycle_sweeps.outcome import range_test_curves
from onecycle_sweeps.trial import Stopped, TrialFailed
from onecycle_sweeps.trial_folder import Superseded, TrialFolder
from real_trials import made, names, planned, series, stop_after

AUTO = ("model.channels=[4,8,8]", "epochs=1", "batch_size=256", "range_test.steps=100")
PEERS = {"minimum", "steep", "valley", "slide", "torch_lr_finder", "lightning"}
READ = {"max_lr", "steepest", "lowest", "divergence"}


@pytest.mark.slow
def test_a_range_test_has_its_curve_and_a_suggestion_by_every_rule(runs_dir: Path):
    folder = made(runs_dir, *AUTO, "task=range_test")
    result = trial.run(folder)
    intervals = {f"{name}_{end}" for name in READ for end in ("low", "high")}
    rules = {f"suggestion/{name}" for name in PEERS | READ | intervals | {"last_clear_descent"}}
    assert (result["kind"], result["status"]) == ("range_test", "finished")
    assert set(result["metrics"]) == rules | {"range/lowest_loss", "seconds"}
    assert result["verdict"]["word"] in ("confident", "ambiguous")
    assert result["verdict"]["max_lr"]["rate"] == result["metrics"]["suggestion/max_lr"]
    assert 0.01 < result["metrics"]["suggestion/max_lr"] < 1
    assert names(folder) == {"schedule/lr", "schedule/momentum", "train/loss", "range/loss_smoothed"}
    rates = series(folder, "schedule/lr")[1]
    assert rates[0] == pytest.approx(1e-5)
    assert rates == sorted(rates)
    assert result["steps"] == len(rates) <= 100


@pytest.mark.slow
def test_a_range_test_of_several_seeds_takes_the_median_of_their_suggestions(runs_dir: Path):
    verdicts = [
        trial.run(made(runs_dir, *AUTO, "task=range_test", f"range_test.seeds=[{seed}]"))["metrics"]
        for seed in (0, 1, 2)
    ]
    folder = made(runs_dir, *AUTO, "task=range_test", "range_test.seeds=[0,1,2]")
    together = trial.run(folder)
    for name in PEERS | READ:
        key = f"suggestion/{name}"
        assert together["metrics"][key] == pytest.approx(sorted(one[key] for one in verdicts)[1])
    lows = [one["suggestion/max_lr_low"] for one in verdicts]
    assert min(lows) <= together["metrics"]["suggestion/max_lr_low"] <= max(lows)
    rates = series(folder, "schedule/lr")[1]
    assert together["steps"] == len(rates)
    assert sum(rate == rates[0] for rate in rates) == 3


@pytest.mark.slow
def test_a_linear_range_test_is_read_by_its_val_accuracy_as_smith_does(runs_dir: Path):
    folder = made(runs_dir, *AUTO, "task=range_test", "range_test.mode=linear", "range_test.end_lr=1")
    result = trial.run(folder)
    steps, accuracies = series(folder, "val/accuracy")
    assert list(steps) == [5 * i - 1 for i in range(1, 21)]
    assert max(accuracies) > 0.8
    rates = dict(zip(*series(folder, "schedule/lr"), strict=True))
    reached = [rates[step] for step, value in zip(steps, accuracies, strict=True) if value > 0.9 * max(accuracies)]
    found = result["metrics"]
    assert 0 < found["suggestion/base_lr"] < found["suggestion/max_lr"] <= max(reached)


@pytest.mark.slow
def test_a_linear_range_test_evaluates_with_recalibrated_batch_norms_if_bn_recalibrate_is_set(runs_dir: Path):
    """Weights, rates and train losses are the same; what is evaluated is not, so it is another range test."""
    linear = ("task=range_test", "range_test.mode=linear", "range_test.end_lr=1", "batch_size=64", "epochs=1")
    lagging = ("~model", "+model={_target_: users_code.Lagging}", *linear)
    plain, asked = (made(runs_dir, *lagging, "range_test.steps=100", *more) for more in ((), ("bn_recalibrate=true",)))
    assert plain.signature != asked.signature
    for folder in (plain, asked):
        trial.run(folder)
    for name in ("schedule/lr", "train/loss"):
        assert series(plain, name) == series(asked, name)
    before, after = (series(folder, "val/accuracy") for folder in (plain, asked))
    assert before[0] == after[0] and sum(after[1]) > 1.5 * sum(before[1])


def test_an_exponential_range_test_evaluates_nothing_and_serves_both(runs_dir: Path):
    plain, asked = (planned(runs_dir, *AUTO, *more).rate_from for more in ((), ("bn_recalibrate=true",)))
    assert plain and asked and plain.signature == asked.signature


@pytest.mark.slow
def test_the_smoothed_loss_that_is_recorded_ends_where_divergence_begins(runs_dir: Path):
    folder = made(runs_dir, *AUTO, "task=range_test", "range_test.seeds=[0,1]")
    verdict = trial.run(folder)["verdict"]
    for curve, fit in zip(range_test_curves(journal.read(folder.journal), ACCURACY), verdict["fits"], strict=True):
        at = next(i for i, value in enumerate((*curve.smoothed, math.nan)) if math.isnan(value))
        assert at and all(map(math.isnan, curve.smoothed[at:]))
        assert curve.smoothed[:at] == pytest.approx(np.interp(curve.lr[:at], fit["lrs"], fit["losses"]))


@pytest.mark.slow
def test_an_ambiguous_range_test_says_so_and_suggests_a_grid(runs_dir: Path):
    folder = made(runs_dir, *AUTO, "task=range_test", "range_test.end_lr=0.05")
    result = trial.run(folder)
    assert result["verdict"]["word"] == "ambiguous"
    (warning,) = [line for line in result["warnings"] if "raise range_test.end_lr" in line]
    assert "; train at the grid max_lr=" in warning
    assert warning in folder.log.read_text()


@pytest.mark.slow
def test_a_range_test_that_was_stopped_begins_again_and_finds_the_same(runs_dir: Path, beside: Path):
    folder = made(runs_dir, *AUTO, "task=range_test")
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(40))
    again = trial.run(folder)
    undisturbed = trial.run(made(beside, *AUTO, "task=range_test"))
    for result in (again, undisturbed):
        del result["metrics"]["seconds"], result["finished"]
    assert again == undisturbed | {"attempt": 2}


@pytest.mark.slow
def test_a_range_test_that_was_superseded_leaves_no_verdict(runs_dir: Path):
    folder = made(runs_dir, *AUTO, "task=range_test")
    steps = iter(range(200))

    def taken_over() -> bool:
        """Another host without this one's locks begins the second attempt."""
        if next(steps) == 40:
            (folder.journal / "0002.jsonl").write_text('{"attempt":2,"from":0,"time":0.0,"host":"elsewhere"}\n')
        return False

    with pytest.raises(Superseded):
        trial.run(folder, taken_over)
    assert folder.result() is None


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_rate_is_kept_when_its_range_test_is_deleted(runs_dir: Path):
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


@pytest.mark.slow
def test_a_training_whose_range_test_fails_says_which_and_why(runs_dir: Path):
    flat = ("range_test.start_lr=1e-12", "range_test.end_lr=1e-11")
    folder = made(runs_dir, *AUTO, *flat)
    test = folder.config()["needs"]["range_test"]
    with pytest.raises(TrialFailed, match=f"^range test {test}: the loss of a range test must clearly fall"):
        trial.run(folder)
    cause = TrialFolder(runs_dir / test).failure()
    assert cause is not None
    assert "raise range_test.end_lr (last 1e-11)" in cause["cause"]


class TrainedBefore(MLP):
    """A net that begins with the same weights for every seed, but for those of its head."""

    def __init__(self, in_features: int, out_features: int, **other: Any) -> None:
        super().__init__(in_features, out_features, **other)
        *body, _, _ = self.parameters()
        for place, weights in enumerate(body):
            drawn = torch.Generator().manual_seed(place)
            weights.data.normal_(std=0.1, generator=drawn)


@pytest.mark.slow
def test_a_range_test_of_a_net_that_was_trained_before_is_never_confident(runs_dir: Path):
    for net, count in ((MLP, 0), (TrainedBefore, 1)):
        node = f"model._target_={net.__module__}.{net.__name__}"
        result = trial.run(made(runs_dir, "model=mlp", node, "task=range_test", "batch_size=64"))
        assert len([doubt for doubt in result["verdict"]["doubts"] if "trained weights" in doubt]) == count
