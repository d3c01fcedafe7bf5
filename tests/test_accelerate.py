"""PolicyScheduler with Hugging Face's accelerate, in whichever order both are made: it counts optimizer steps."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

from onecycle_sweeps.max_lr import find_max_lr
from onecycle_sweeps.policies import OneCycle
from onecycle_sweeps.scheduler import PolicyScheduler, is_adaptive

accelerate = pytest.importorskip("accelerate")
POLICY = OneCycle(0.5, 20)
ORDERS = ["together", "optimizer first", "both, optimizer first"]


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


@pytest.mark.parametrize("order", ORDERS)
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


@pytest.mark.parametrize("order", ORDERS)
def test_the_schedule_of_several_processes_is_not_several_times_as_fast(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, scheduler = made(order)
    state = type("State", (), {"num_processes": 4})
    monkeypatch.setattr(accelerate.scheduler, "AcceleratorState", state)
    for step in range(20):
        assert in_use(optimizer) == planned(step)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("order", ORDERS)
def test_the_schedule_counts_the_updates_of_a_loop_that_accumulates_gradients(order: str) -> None:
    optimizer, scheduler = made(order)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    for batch in range(80):
        with accelerator.accumulate(model):
            assert in_use(optimizer) == planned(batch // 4)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize(("kind", "expected"), [(AdamW, True), (SGD, False)])
def test_the_optimizer_that_accelerate_wraps_is_tried_whether_it_is_adaptive(
    kind: type[AdamW | SGD], expected: bool
) -> None:
    plain = kind([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    wrapped = accelerate.Accelerator(cpu=True).prepare(plain)
    assert wrapped is not plain
    assert is_adaptive(wrapped) is expected


def test_a_range_test_whose_optimizer_waits_for_more_gradients_is_refused() -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = torch.nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(net, SGD(net.parameters(), lr=1.0))

    def step() -> torch.Tensor:
        with accelerator.accumulate(model):
            loss = model(torch.ones(4, 2)).square().mean()
            accelerator.backward(loss)
            return loss

    with pytest.raises(ValueError, match=r"took no update .* without accelerator\.accumulate"):
        find_max_lr(model, optimizer, step=step)


def in_one_process(folder: Path) -> None:
    """Train in one of several processes, and write down the rates that were used."""
    accelerator = accelerate.Accelerator(cpu=True)
    net = torch.nn.Linear(2, 1)
    optimizer = SGD(net.parameters(), lr=1.0, momentum=0.9)
    data = DataLoader(TensorDataset(torch.ones(80, 2)), batch_size=2)
    model, wrapped, loader, scheduler = accelerator.prepare(net, optimizer, data, PolicyScheduler(optimizer, POLICY))
    rates = []
    for (inputs,) in loader:
        rates.append(wrapped.param_groups[0]["lr"])
        accelerator.backward(model(inputs).square().mean())
        wrapped.step()
        scheduler.step()
        wrapped.zero_grad()
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps([accelerator.num_processes, rates]))


@pytest.mark.slow
def test_two_processes_train_at_the_policys_rates(tmp_path: Path) -> None:
    program = (
        "import accelerate, pathlib, test_accelerate as here; "
        f"accelerate.debug_launcher(here.in_one_process, (pathlib.Path({str(tmp_path)!r}),), num_processes=2)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parent.parent}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for process in (0, 1):
        assert json.loads((tmp_path / f"{process}.json").read_text()) == [2, [POLICY(step).lr for step in range(20)]]
