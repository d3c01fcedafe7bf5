"""A training that diverges is a result: at which step follows from its losses alone."""

import math
from pathlib import Path

import pytest

from onecycle_sweeps import trial
from onecycle_sweeps.trial import train
from onecycle_sweeps.trial.train import DivergenceCheck
from real_trials import SHORT, made, series


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


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_no_number_has_diverged(loss: float):
    check = DivergenceCheck(steps_per_epoch=100)
    assert check.update(2.0) is None
    assert check.update(loss) == f"the loss is {loss} at step 1"
