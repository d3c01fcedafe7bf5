"""PolicyScheduler and param groups that are not alike: a policy sets one rate, times each group's lr_scale."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from onecycle_sweeps import trial
from onecycle_sweeps.policies import Constant, OneCycle
from onecycle_sweeps.scheduler import PolicyScheduler
from real_trials import SHORT, made

POLICY = OneCycle(0.5, 20)


def groups(*keys: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"params": [torch.nn.Parameter(torch.zeros(1))]} | one for one in keys]


def rates(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def test_groups_of_unlike_rates_are_refused_and_left_as_they_are() -> None:
    optimizer = SGD(groups({"lr": 0.1}, {"lr": 0.01}), lr=1.0, momentum=0.9)
    with pytest.raises(ValueError, match=r"rates 0\.1, 0\.01.*lr_scale"):
        PolicyScheduler(optimizer, POLICY)
    assert rates(optimizer) == [0.1, 0.01]
    assert all("initial_lr" not in group for group in optimizer.param_groups)


def test_a_scale_gives_a_group_its_share_whatever_rate_it_was_made_with() -> None:
    optimizer = SGD(groups({"lr": 0.1}, {"lr": 0.01, "lr_scale": 0.1}), lr=1.0, momentum=0.9)
    scheduler = PolicyScheduler(optimizer, POLICY)
    for step in range(20):
        assert rates(optimizer) == [POLICY(step).lr, POLICY(step).lr * 0.1]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf"), "0.1", True, None])
def test_a_scale_that_is_none_is_refused(scale: Any) -> None:
    with pytest.raises(ValueError, match="lr_scale"):
        PolicyScheduler(SGD(groups({}, {"lr_scale": scale}), lr=1.0, momentum=0.9), POLICY)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: SGD(groups({"momentum": 0.9}, {"momentum": 0.5}), lr=1.0),
        lambda: AdamW(groups({"betas": (0.9, 0.99)}, {"betas": (0.5, 0.99)})),
    ],
)
def test_groups_of_unlike_momenta_are_refused_where_the_policy_cycles_it(optimizer: Any) -> None:
    with pytest.raises(ValueError, match=r"momenta 0\.9, 0\.5.*cycle_momentum=false"):
        PolicyScheduler(optimizer(), POLICY)
    kept = optimizer()
    PolicyScheduler(kept, Constant(0.1, 3))
    assert {group.get("momentum", group.get("betas", (0,))[0]) for group in kept.param_groups} == {0.9, 0.5}


def test_a_group_that_is_added_obeys_from_the_next_step_on() -> None:
    optimizer = SGD(groups({}), lr=1.0, momentum=0.9)
    scheduler = PolicyScheduler(optimizer, POLICY)
    for group in groups({}, {"lr_scale": 0.1}):
        optimizer.add_param_group(group)
    optimizer.step()
    scheduler.step()
    assert rates(optimizer) == scheduler.get_last_lr() == [POLICY(1).lr, POLICY(1).lr, POLICY(1).lr * 0.1]


def test_a_group_that_is_added_with_a_rate_of_its_own_is_refused() -> None:
    optimizer = SGD(groups({}), lr=1.0, momentum=0.9)
    scheduler = PolicyScheduler(optimizer, POLICY)
    optimizer.add_param_group(groups({"lr": 0.01})[0])
    optimizer.step()
    with pytest.raises(ValueError, match=r"added with the rate 0\.01.*lr_scale"):
        scheduler.step()


def test_a_second_scheduler_takes_over_groups_that_are_scaled() -> None:
    optimizer = SGD(groups({}, {"lr_scale": 0.1}), lr=1.0, momentum=0.9)
    PolicyScheduler(optimizer, POLICY)
    PolicyScheduler(optimizer, Constant(0.3, 5))
    assert rates(optimizer) == [0.3, 0.3 * 0.1]


@pytest.mark.parametrize(("key", "word"), [("lr", "lr_scale"), ("momentum", "cycle_momentum=false")])
def test_a_trial_refuses_an_optimizer_of_unlike_groups(runs_dir: Path, key: str, word: str) -> None:
    folder = made(runs_dir, *SHORT, "optimizer._target_=users_code.unlike_groups", f"+optimizer.key={key}")
    with pytest.raises(trial.TrialFailed, match=word):
        trial.run(folder)
