"""PolicyScheduler in a plain training loop: what the optimizer uses is what the policy says, also after a resume."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, AdamW, Optimizer

from onecycle_sweeps.policies import CLR, Constant, Hyper, OneCycle, Policy
from onecycle_sweeps.scheduler import PolicyScheduler, used

POLICY = OneCycle(0.5, 20)


def made(kind: str = "sgd") -> Optimizer:
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    groups = [{"params": list(layers[0].parameters())}, {"params": list(layers[1].parameters())}]
    if kind == "sgd":
        return SGD(groups, lr=9.0, momentum=0.7, nesterov=True)
    return AdamW(groups, lr=9.0, betas=(0.7, 0.99))


def trained(optimizer: Optimizer, scheduler: PolicyScheduler, steps: int) -> list[Hyper]:
    """The usual loop: the scheduler steps after every optimizer step, the last one too."""
    trajectory = []
    for _ in range(steps):
        trajectory.append(used(optimizer))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 0.01)
        optimizer.step()
        scheduler.step()
    return trajectory


def planned(policy: Policy, steps: range) -> list[Hyper]:
    return [policy(step) for step in steps]


def saved(*objects: Any) -> list[dict[str, Any]]:
    """The state of each, through a file that loads with weights_only."""
    file = io.BytesIO()
    torch.save([thing.state_dict() for thing in objects], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("policy", [POLICY, CLR(0.4, 20)])
def test_optimizer_uses_the_policys_values_at_every_step(kind: str, policy: Policy) -> None:
    optimizer = made(kind)
    assert trained(optimizer, PolicyScheduler(optimizer, policy), 20) == planned(policy, range(20))


def test_last_value_is_held_past_the_end() -> None:
    optimizer = made()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 20)
    assert trained(optimizer, scheduler, 5) == [POLICY(19)] * 5


def test_every_param_group_has_the_policys_rate() -> None:
    optimizer = made()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 4)
    values = [Hyper(group["lr"], group["momentum"]) for group in optimizer.param_groups]
    assert values == [POLICY(4)] * 2
    assert scheduler.get_last_lr() == [POLICY(4).lr] * 2


def test_momentum_stays_the_optimizers_where_the_policy_has_none() -> None:
    for kind in ("sgd", "adamw"):
        optimizer = made(kind)
        assert trained(optimizer, PolicyScheduler(optimizer, Constant(0.1, 3)), 3) == [Hyper(0.1, 0.7)] * 3


def test_policy_that_cycles_momentum_is_refused_where_there_is_none() -> None:
    optimizer = Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    with pytest.raises(ValueError, match="Adagrad has neither momentum nor betas"):
        PolicyScheduler(optimizer, POLICY)
    assert used(optimizer) == Hyper(0.3)
    scheduler = PolicyScheduler(optimizer, OneCycle(0.5, 20, cycle_momentum=False))
    assert [hyper.momentum for hyper in trained(optimizer, scheduler, 3)] == [None] * 3


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("done", range(21))
def test_resume_at_any_step_equals_an_undisturbed_run(kind: str, done: int) -> None:
    first = made(kind)
    scheduler = PolicyScheduler(first, POLICY)
    trained(first, scheduler, done)
    states = saved(first, scheduler)
    for order in ((0, 1), (1, 0)):
        optimizer = made(kind)
        resumed = PolicyScheduler(optimizer, POLICY)
        for index in order:
            (optimizer, resumed)[index].load_state_dict(states[index])
        assert resumed.get_last_lr() == [POLICY(done).lr] * 2
        assert trained(optimizer, resumed, 20 - done) == planned(POLICY, range(done, 20))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_resume_with_another_policy_obeys_the_one_it_is_given(order: tuple[int, int]) -> None:
    first = made()
    scheduler = PolicyScheduler(first, OneCycle(5.0, 20))
    trained(first, scheduler, 8)
    states = saved(first, scheduler)
    longer = OneCycle(0.3, 40)
    optimizer = made()
    resumed = PolicyScheduler(optimizer, longer)
    for index in order:
        (optimizer, resumed)[index].load_state_dict(states[index])
    assert trained(optimizer, resumed, 32) == planned(longer, range(8, 40))


def test_state_is_the_step_count_alone() -> None:
    optimizer = made()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 6)
    assert scheduler.state_dict() == {"last_epoch": 6}


def test_scheduler_alone_restored_sets_the_rate_at_once() -> None:
    optimizer = made()
    PolicyScheduler(optimizer, POLICY).load_state_dict({"last_epoch": 11})
    assert used(optimizer) == POLICY(11)


def test_last_epoch_starts_at_the_step_after_it() -> None:
    optimizer = made()
    scheduler = PolicyScheduler(optimizer, POLICY, last_epoch=4)
    assert trained(optimizer, scheduler, 15) == planned(POLICY, range(5, 20))


def test_scheduler_that_is_gone_leaves_the_optimizer_alone() -> None:
    optimizer = made()
    PolicyScheduler(optimizer, POLICY)
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.123
    optimizer.load_state_dict(state)
    assert used(optimizer).lr == 0.123


def test_scheduler_and_optimizer_can_be_copied_and_pickled() -> None:
    optimizer = made()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 3)
    for again in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert trained(again.optimizer, again, 17) == planned(POLICY, range(3, 20))
