"""Torch as the oracle: every policy that torch has equals torch's scheduler at every step, driven as in real use."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR, StepLR

from onecycle_sweeps.policies import CLR, Cosine, Hyper, Linear, OneCycle, Policy, Step

LRS = st.floats(1e-4, 10)
OPTIMIZERS: dict[str, Callable[[float], Optimizer]] = {
    "sgd": lambda lr: SGD([torch.nn.Parameter(torch.zeros(1))], lr, momentum=0.7),
    "adamw": lambda lr: AdamW([torch.nn.Parameter(torch.zeros(1))], lr, betas=(0.7, 0.99)),
}


def seen(optimizer: Optimizer) -> Hyper:
    group = optimizer.param_groups[0]
    return Hyper(group["lr"], group["momentum"] if "momentum" in group else group["betas"][0])


def driven(optimizer: Optimizer, scheduler: LRScheduler, total_steps: int, steps_per_epoch: int = 1) -> list[Hyper]:
    """What each optimizer step used; the scheduler steps at the end of an epoch, but not after the last one."""
    trajectory = []
    for step in range(total_steps):
        trajectory.append(seen(optimizer))
        optimizer.step()
        if (step + 1) % steps_per_epoch == 0 and step + 1 < total_steps:
            scheduler.step()
    return trajectory


def assert_equal(policy: Policy, expected: list[Hyper]) -> None:
    for step, hyper in enumerate(expected):
        assert policy(step).lr == pytest.approx(hyper.lr, rel=1e-9, abs=1e-12), f"lr at step {step}"
        momentum = policy(step).momentum
        own = 0.7 if momentum is None else momentum
        assert own == pytest.approx(hyper.momentum, rel=1e-9), f"momentum at step {step}"


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cycle_momentum", [True, False])
@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize(("total_steps", "pct_start"), [(20, 0.3), (97, 0.25), (10, 0.25), (101, 0.45)])
def test_onecycle_equals_torch_at_every_step(
    name: str, cycle_momentum: bool, anneal_strategy: Any, three_phase: bool, total_steps: int, pct_start: float
) -> None:
    keys: dict[str, Any] = dict(
        pct_start=pct_start, anneal_strategy=anneal_strategy, cycle_momentum=cycle_momentum, three_phase=three_phase
    )
    optimizer = OPTIMIZERS[name](0.1)
    expected = driven(optimizer, OneCycleLR(optimizer, 2.0, total_steps, **keys), total_steps)
    assert_equal(OneCycle(2.0, total_steps, **keys), expected)


@settings(max_examples=60, deadline=None)
@given(
    max_lr=LRS,
    total_steps=st.integers(8, 120),
    pct_start=st.floats(0.13, 0.5),
    anneal_strategy=st.sampled_from(["cos", "linear"]),
    three_phase=st.booleans(),
    base_momentum=st.floats(0.0, 0.9),
    div_factor=st.floats(1, 100),
    final_div_factor=st.floats(1, 1e5),
)
def test_onecycle_equals_torch_for_any_setting(max_lr: float, total_steps: int, **keys: Any) -> None:
    optimizer = OPTIMIZERS["sgd"](0.1)
    expected = driven(optimizer, OneCycleLR(optimizer, max_lr, total_steps, **keys), total_steps)
    assert_equal(OneCycle(max_lr, total_steps, **keys), expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cycle_momentum", [True, False])
@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize(("up", "down"), [(4, None), (1, 1), (7, 3), (5, 12)])
def test_clr_equals_torch_at_every_step(name: str, cycle_momentum: bool, mode: Any, up: int, down: int | None) -> None:
    keys: dict[str, Any] = dict(
        step_size_up=up, step_size_down=down, mode=mode, gamma=0.98, cycle_momentum=cycle_momentum
    )
    optimizer = OPTIMIZERS[name](0.1)
    expected = driven(optimizer, CyclicLR(optimizer, 0.1, 1.0, **keys), 53)
    assert_equal(CLR(1.0, 53, base_lr=0.1, **keys), expected)


@settings(max_examples=60, deadline=None)
@given(
    base_lr=st.floats(0, 1e-4),
    max_lr=LRS,
    total_steps=st.integers(1, 120),
    step_size_up=st.integers(1, 40),
    step_size_down=st.none() | st.integers(1, 40),
    mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
    gamma=st.floats(0.9, 1),
    base_momentum=st.floats(0.0, 0.9),
)
def test_clr_equals_torch_for_any_setting(base_lr: float, max_lr: float, total_steps: int, **keys: Any) -> None:
    optimizer = OPTIMIZERS["sgd"](0.1)
    expected = driven(optimizer, CyclicLR(optimizer, base_lr, max_lr, **keys), total_steps)
    assert_equal(CLR(max_lr, total_steps, base_lr=base_lr, **keys), expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=30, deadline=None)
@given(
    max_lr=LRS,
    epochs=st.integers(1, 12),
    steps_per_epoch=st.integers(1, 9),
    step_size=st.integers(1, 5),
    gamma=st.floats(0.1, 1),
)
def test_step_size_equals_torch_stepped_per_epoch(
    name: str, max_lr: float, epochs: int, steps_per_epoch: int, step_size: int, gamma: float
) -> None:
    optimizer = OPTIMIZERS[name](max_lr)
    total_steps = epochs * steps_per_epoch
    expected = driven(optimizer, StepLR(optimizer, step_size, gamma), total_steps, steps_per_epoch)
    assert_equal(Step(max_lr, total_steps, steps_per_epoch, step_size=step_size, gamma=gamma), expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_per_epoch", [1, 7])
@pytest.mark.parametrize("milestones", [[1], [2, 5], [3, 4, 9, 30]])
def test_milestones_equal_torch_stepped_per_epoch(name: str, steps_per_epoch: int, milestones: list[int]) -> None:
    optimizer = OPTIMIZERS[name](0.8)
    total_steps = 12 * steps_per_epoch
    expected = driven(optimizer, MultiStepLR(optimizer, milestones, gamma=0.3), total_steps, steps_per_epoch)
    assert_equal(Step(0.8, total_steps, steps_per_epoch, milestones, gamma=0.3), expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("total_steps", "eta_min"), [(1, 0.0), (2, 0.0), (97, 0.0), (100, 0.01), (33, 0.5)])
def test_cosine_equals_torch_at_every_step(name: str, total_steps: int, eta_min: float) -> None:
    optimizer = OPTIMIZERS[name](0.5)
    expected = driven(optimizer, CosineAnnealingLR(optimizer, total_steps, eta_min), total_steps)
    assert_equal(Cosine(0.5, total_steps, eta_min, pct_warmup=0), expected)


def test_cosine_after_its_warmup_equals_torch_over_the_steps_left() -> None:
    optimizer = OPTIMIZERS["sgd"](0.5)
    expected = driven(optimizer, CosineAnnealingLR(optimizer, 80), 80)
    policy = Cosine(0.5, 100, pct_warmup=0.2)
    assert [policy(20 + step).lr for step in range(80)] == pytest.approx([h.lr for h in expected], rel=1e-9)


@pytest.mark.parametrize("pct_warmup", [0, 0.2])
def test_linear_after_its_warmup_equals_torch_over_the_steps_left(pct_warmup: float) -> None:
    optimizer, warmup = OPTIMIZERS["sgd"](0.5), round(100 * pct_warmup)
    decay = LinearLR(optimizer, start_factor=1, end_factor=0, total_iters=100 - warmup)
    expected = driven(optimizer, decay, 100 - warmup)
    policy = Linear(0.5, 100, pct_warmup=pct_warmup)
    rates = [policy(warmup + step).lr for step in range(100 - warmup)]
    assert rates == pytest.approx([hyper.lr for hyper in expected], rel=1e-9)
