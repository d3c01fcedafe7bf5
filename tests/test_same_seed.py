"""Policies are compared seed by seed, because a seed fixes the weights and the batches whatever the policy."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from onecycle_sweeps import trial
from onecycle_sweeps.config import nodes
from real_trials import SHORT, in_one_go, made, series

# At such a rate the weights stay as they were drawn, so that each step's loss tells its batch.
STILL = ("epochs=2", "batch_size=256", "max_lr=1e-9")


def losses(runs_dir: Path, *overrides: str) -> list[float]:
    folder = made(runs_dir, *overrides)
    trial.run(folder)
    return series(folder, "train/loss")[1]


@pytest.mark.slow
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


def test_a_seed_is_that_of_python_and_numpy_too(runs_dir: Path, beside: Path) -> None:
    model = ("~model", "+model={_target_: users_code.WithDraws}", "save_model=true", *SHORT)
    first = in_one_go(runs_dir, *model)
    random.seed(1)
    np.random.seed(1)
    assert in_one_go(beside, *model) == first
    assert in_one_go(beside, *model, "seed=1")["weights"] != first["weights"]


@pytest.mark.slow
def test_a_range_test_comes_out_the_same_where_the_net_draws_from_python_and_numpy(
    runs_dir: Path, beside: Path
) -> None:
    test = ("task=range_test", "range_test.steps=100", "batch_size=256", "~model")
    found = []
    for place in (runs_dir, beside):
        folder = made(place, *test, "+model={_target_: users_code.WithDraws}")
        random.seed(len(found))
        np.random.seed(len(found))
        trial.run(folder)
        found.append(series(folder, "train/loss"))
    assert found[0] == found[1]


def test_a_data_set_that_its_loader_draws_is_the_same_wherever_it_is_drawn() -> None:
    def drawn(seed: int) -> bytes:
        config = {"data": {"_target_": "users_code.drawn_images", "count": 16, "split_seed": seed}}
        images = nodes.loader(config)().train_images
        assert isinstance(images, np.ndarray)
        return images.tobytes()

    first = drawn(3)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    assert drawn(3) == first == drawn(2**40)
