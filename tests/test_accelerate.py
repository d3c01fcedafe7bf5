"""PolicyScheduler with Hugging Face's accelerate, in whichever order both are made."""

from typing import Any

import pytest
import torch
from torch.optim import SGD

from onecycle_sweeps.policies import OneCycle
from onecycle_sweeps.scheduler import PolicyScheduler

accelerate = pytest.importorskip("accelerate")
POLICY = OneCycle(0.5, 20)


def made(order: str) -> tuple[Any, Any]:
    """An optimizer of two groups, and its scheduler, as accelerate gives them back."""
    accelerator = accelerate.Accelerator(cpu=True)
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    plain = SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr_scale": 0.1}], lr=1.0, momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.ones(1)
    if order == "together":
        return accelerator.prepare(plain, PolicyScheduler(plain, POLICY))
    optimizer = accelerator.prepare(plain)
    scheduler = PolicyScheduler(optimizer, POLICY)
    return optimizer, accelerator.prepare(scheduler) if order == "both, optimizer first" else scheduler


def in_use(optimizer: Any) -> list[tuple[float, float]]:
    return [(group["lr"], group["momentum"]) for group in optimizer.param_groups]


def planned(step: int) -> list[tuple[float, float | None]]:
    hyper = POLICY(step)
    return [(hyper.lr, hyper.momentum), (hyper.lr * 0.1, hyper.momentum)]


@pytest.mark.parametrize("order", ["together", "optimizer first", "both, optimizer first"])
def test_every_step_is_taken_at_the_policys_rate_also_after_a_resume(order: str) -> None:
    optimizer, scheduler = made(order)
    for step in range(22):
        if step == 7:
            saved = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = made(order)
            scheduler.load_state_dict(saved[1])
            optimizer.load_state_dict(saved[0])
        assert in_use(optimizer) == planned(min(step, 19))
        optimizer.step()
        scheduler.step()


def test_the_policy_holds_after_the_state_of_the_wrapped_optimizer_is_loaded() -> None:
    optimizer, scheduler = made("optimizer first")
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = 0.123
    scheduler.load_state_dict({"last_epoch": 5})
    optimizer.load_state_dict(state)
    assert in_use(optimizer) == planned(5)
