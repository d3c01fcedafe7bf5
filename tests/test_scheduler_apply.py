"""How a policy's values reach an optimizer's param groups, and how they are read back."""

import pytest
import torch
from torch.optim import SGD, Adagrad, AdamW, Optimizer, RMSprop

from onecycle_sweeps.policies import Hyper, OneCycle
from onecycle_sweeps.scheduler import PolicyScheduler, apply, used


def two_groups() -> list[dict[str, object]]:
    return [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 7.0)]


@pytest.mark.parametrize("optimizer", [SGD(two_groups()), RMSprop(two_groups()), AdamW(two_groups())])
def test_what_is_applied_is_what_is_used(optimizer: Optimizer) -> None:
    apply(optimizer, Hyper(0.1, 0.85))
    assert used(optimizer) == Hyper(0.1, 0.85)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_a_group_with_lr_scale_gets_so_many_times_the_rate_and_the_same_momentum() -> None:
    head, body, tail = ({"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(3))
    optimizer = SGD([body | {"lr_scale": 0.1}, head, tail | {"lr_scale": 0.01, "lr": torch.tensor(1.0)}], momentum=0.5)
    apply(optimizer, Hyper(0.3, 0.85))
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.3 * 0.1, 0.3, pytest.approx(0.003)]
    assert {group["momentum"] for group in optimizer.param_groups} == {0.85}
    assert used(optimizer) == Hyper(0.3, 0.85)


def test_the_scheduler_scales_every_group_alike_also_after_a_resume() -> None:
    def made() -> tuple[SGD, PolicyScheduler]:
        head, body = ({"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2))
        optimizer = SGD([head, body | {"lr_scale": 0.1}], momentum=0.5)
        return optimizer, PolicyScheduler(optimizer, OneCycle(0.3, 20))

    optimizer, scheduler = made()
    policy = OneCycle(0.3, 20)
    for step in range(20):
        if step == 7:
            saved = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = made()
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
        rates = [policy(step).lr, policy(step).lr * 0.1]
        assert [group["lr"] for group in optimizer.param_groups] == rates == scheduler.get_last_lr()
        assert {group["momentum"] for group in optimizer.param_groups} == {policy(step).momentum}
        optimizer.step()
        scheduler.step()


def test_momentum_none_leaves_the_optimizers_own() -> None:
    optimizer = SGD(two_groups(), momentum=0.7)
    apply(optimizer, Hyper(0.1))
    assert used(optimizer) == Hyper(0.1, 0.7)


def test_only_the_first_beta_of_every_group_is_set() -> None:
    optimizer = AdamW(two_groups(), betas=(0.9, 0.99))
    apply(optimizer, Hyper(0.1, 0.85))
    assert [group["betas"] for group in optimizer.param_groups] == [(0.85, 0.99)] * 2


def test_rate_that_is_a_tensor_stays_the_same_tensor() -> None:
    rate = torch.tensor(1.0, dtype=torch.float64)
    optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    apply(optimizer, Hyper(0.25))
    assert optimizer.param_groups[0]["lr"] is rate
    assert used(optimizer) == Hyper(0.25, 0.9)


def test_momentum_for_an_optimizer_without_one_is_refused_before_anything_is_set() -> None:
    optimizer = Adagrad(two_groups())
    with pytest.raises(ValueError) as refusal:
        apply(optimizer, Hyper(0.1, 0.9))
    assert "Adagrad has neither momentum nor betas" in str(refusal.value)
    assert "set cycle_momentum=false" in str(refusal.value)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 7.0]
    apply(optimizer, Hyper(0.1))
    assert used(optimizer) == Hyper(0.1)
