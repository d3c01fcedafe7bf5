"""Policies are compared seed by seed, because a seed fixes the weights and the batches whatever the policy."""

from pathlib import Path

import pytest

from onecycle_sweeps import trial
from real_trials import made, series

# At such a rate the weights stay as they were drawn, so that each step's loss tells its batch.
STILL = ("epochs=2", "batch_size=256", "max_lr=1e-9")


def losses(runs_dir: Path, *overrides: str) -> list[float]:
    folder = made(runs_dir, *overrides)
    trial.run(folder)
    return series(folder, "train/loss")[1]


def test_a_seed_gives_the_same_weights_and_batches_to_every_policy(tmp_path: Path) -> None:
    constant, onecycle, step = (losses(tmp_path, f"policy={p}", *STILL) for p in ("constant", "onecycle", "step"))
    assert constant[0] == onecycle[0] == step[0]
    assert len(constant) == 10
    assert onecycle == pytest.approx(constant, rel=1e-5) and step == pytest.approx(constant, rel=1e-5)
    assert len({round(loss, 4) for loss in constant}) > 5
    other = losses(tmp_path, "policy=constant", "seed=1", *STILL)
    assert constant != pytest.approx(other, rel=1e-3)


def test_a_rate_changes_neither_the_first_weights_nor_the_first_batch(tmp_path: Path) -> None:
    slow, fast = (losses(tmp_path, "policy=constant", *STILL, f"max_lr={rate}") for rate in (0.01, 0.1))
    assert slow[0] == fast[0] and slow[-1] != fast[-1]
