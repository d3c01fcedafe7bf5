"""The ramp of a range test, and where the test ends."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from onecycle_sweeps.range_test import Ramp, smooth, until_diverged


@dataclass(frozen=True)
class Seen:
    lr: float
    loss: float


def test_an_exponential_ramp_rises_by_one_factor_and_reaches_its_end() -> None:
    ramp = Ramp(1e-7, 10.0, 100, "exp")
    lrs = [ramp(step).lr for step in range(100)]
    assert (lrs[0], lrs[-1]) == (1e-7, 10.0)
    assert lrs == pytest.approx(np.geomspace(1e-7, 10, 100).tolist(), rel=1e-12)


def test_a_linear_ramp_rises_by_one_amount_and_may_start_at_zero() -> None:
    ramp = Ramp(0.0, 3.0, 101, "linear")
    assert [ramp(step).lr for step in (0, 1, 50, 100)] == pytest.approx([0.0, 0.03, 1.5, 3.0], rel=1e-12)


def test_a_ramp_leaves_the_momentum_to_the_optimizer_and_holds_its_last_rate() -> None:
    ramp = Ramp(1e-3, 1.0, 100)
    assert ramp(7).momentum is None
    assert ramp(5000) == ramp(99)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"start_lr": 0.0}, "start_lr must be a number above 0, got 0.0"),
        ({"start_lr": -0.1, "mode": "linear"}, "start_lr must be a number of at least 0, got -0.1"),
        ({"start_lr": 1.0}, "start_lr must be below end_lr=1.0, got 1.0"),
        ({"start_lr": "abc"}, "start_lr must be a number above 0, got 'abc'"),
        ({"end_lr": math.inf}, "end_lr must be a finite number, got inf"),
        ({"total_steps": 99}, "total_steps of a range test must be at least 100, got 99"),
        ({"total_steps": 150.5}, "total_steps must be a whole number of at least 1, got 150.5"),
        ({"mode": "cos"}, "mode must be exp or linear, got 'cos'"),
    ],
)
def test_a_ramp_that_cannot_work_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Ramp(**({"start_lr": 1e-4, "end_lr": 1.0, "total_steps": 100, "mode": "exp"} | setting))
    assert str(refusal.value) == message


def test_a_ramp_has_no_step_below_zero() -> None:
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        Ramp(1e-4, 1.0, 100)(-1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_test_ends_with_the_step_whose_loss_is_not_finite(bad: float) -> None:
    taken = []

    def steps() -> Iterator[Seen]:
        for i, loss in enumerate([2.0, 1.9, bad, 1.8, 1.7]):
            taken.append(i)
            yield Seen(i, loss)

    seen = list(until_diverged(steps()))
    assert [step.lr for step, _ in seen] == [0, 1, 2]
    assert taken == [0, 1, 2]
    assert not math.isfinite(seen[-1][1])


def test_a_test_ends_above_four_times_the_lowest_smoothed_loss() -> None:
    losses = [1.0] * 20 + [50.0] * 20
    seen = list(until_diverged(Seen(i, loss) for i, loss in enumerate(losses)))
    smoothed = smooth(losses)
    first_above = next(i for i, value in enumerate(smoothed) if value > 4 * min(smoothed[: i + 1]))
    assert [step.lr for step, _ in seen] == list(range(first_above + 1))
    assert [value for _, value in seen] == smoothed[: first_above + 1]
    assert smoothed[first_above - 1] <= 4 < smoothed[first_above]


def test_a_first_batch_without_the_samples_that_have_most_of_the_loss_is_no_divergence() -> None:
    losses = [0.1, *[0.2, 0.2, 2.0, 0.3] * 25]
    assert len(list(until_diverged(Seen(i, loss) for i, loss in enumerate(losses)))) == len(losses)


def test_a_loss_that_falls_below_zero_is_refused_and_no_divergence() -> None:
    losses = [0.5 - 0.02 * i for i in range(100)]
    with pytest.raises(ValueError, match=r"at least 0, got -0\.02"):
        list(until_diverged(Seen(i, loss) for i, loss in enumerate(losses)))


def test_a_test_that_never_diverges_runs_to_its_end() -> None:
    assert len(list(until_diverged(Seen(i, 2.3) for i in range(100)))) == 100


def test_no_step_is_taken_before_it_is_drawn() -> None:
    taken = []

    def steps() -> Iterator[Seen]:
        for i in range(100):
            taken.append(i)
            yield Seen(i, 1.0)

    for step, _ in until_diverged(steps()):
        if step.lr == 4:
            break
    assert taken == [0, 1, 2, 3, 4]


def test_losses_may_be_tensors() -> None:
    @dataclass(frozen=True)
    class TensorStep:
        loss: torch.Tensor

    seen = until_diverged(TensorStep(torch.tensor(value)) for value in (2.0, 1.0))
    assert [value for _, value in seen] == pytest.approx(smooth([2.0, 1.0]))
