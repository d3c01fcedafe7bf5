"""PolicyScheduler in a plain training loop: what the optimizer uses is what the policy says, also after a resume."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

from onecycle_sweeps import trial
from onecycle_sweeps.policies import CLR, Constant, Hyper, Linear, OneCycle, Policy
from onecycle_sweeps.scheduler import PolicyScheduler, apply, is_adaptive, used
from own_loops import Wrapped
from real_trials import SHORT, made

POLICY = OneCycle(0.5, 20)


def sgd_or_adamw(kind: str = "sgd") -> Optimizer:
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    groups = [{"params": list(layers[0].parameters())}, {"params": list(layers[1].parameters())}]
    if kind == "sgd":
        return SGD(groups, lr=9.0, momentum=0.7, nesterov=True)
    return AdamW(groups, lr=9.0, betas=(0.7, 0.99))


def trained(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[Hyper]:
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
    optimizer = sgd_or_adamw(kind)
    assert trained(optimizer, PolicyScheduler(optimizer, policy), 20) == planned(policy, range(20))


def test_last_value_is_held_past_the_end() -> None:
    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 20)
    assert trained(optimizer, scheduler, 5) == [POLICY(19)] * 5


def test_every_param_group_has_the_policys_rate() -> None:
    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 4)
    values = [Hyper(group["lr"], group["momentum"]) for group in optimizer.param_groups]
    assert values == [POLICY(4)] * 2
    assert scheduler.get_last_lr() == [POLICY(4).lr] * 2


def test_momentum_stays_the_optimizers_where_the_policy_has_none() -> None:
    for kind in ("sgd", "adamw"):
        optimizer = sgd_or_adamw(kind)
        assert trained(optimizer, PolicyScheduler(optimizer, Constant(0.1, 3)), 3) == [Hyper(0.1, 0.7)] * 3


def test_a_policy_that_has_a_momentum_at_some_steps_only_is_refused_where_it_has_none() -> None:
    """The optimizer would keep the momentum of the step before, which is neither the policy's nor its own."""

    class Half:
        total_steps = 4

        def __call__(self, step: int) -> Hyper:
            return Hyper(0.1, 0.5 if step < 2 else None)

    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, Half())
    trained(optimizer, scheduler, 1)
    with pytest.raises(ValueError, match=r"^Half must give a momentum .* and None at step 2$"):
        trained(optimizer, scheduler, 1)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Hyper(float("nan")), "Second must return finite rates of at least 0, got lr=nan at step 1"),
        (Hyper(-0.1), "got lr=-0.1 at step 1"),
        (Hyper(0.1, 1.0), r"momenta in \[0, 1\) or None"),
        (0.1, r"must return Hyper\(lr, momentum\), got 0.1"),
    ],
)
def test_values_that_no_optimizer_can_use_are_refused_at_their_step(second: Any, message: str) -> None:
    class Second:
        total_steps = 4

        def __call__(self, step: int) -> Any:
            return second if step == 1 else Hyper(0.1, getattr(second, "momentum", None) and 0.5)

    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, Second())
    with pytest.raises(ValueError, match=message):
        trained(optimizer, scheduler, 1)
    with pytest.raises(ValueError, match=message):
        PolicyScheduler(optimizer, Second(), last_epoch=0)


def test_a_decay_that_goes_on_below_zero_after_its_end_is_not_refused() -> None:
    class Decay:
        total_steps = 4

        def __call__(self, step: int) -> Hyper:
            return Hyper((0.1, 0.05, 0.02, -1e-18, -0.02, -0.04)[step], None)

    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, Decay())
    trained(optimizer, scheduler, 4)
    with pytest.raises(ValueError, match=r"got lr=-0.04 at step 5"):
        trained(optimizer, scheduler, 1)


@pytest.mark.parametrize("policy", [OneCycle, 0.1])
def test_what_cannot_be_called_with_a_step_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"policy must be called with a step, .* got "):
        PolicyScheduler(sgd_or_adamw(), policy)


def test_policy_that_cycles_momentum_is_refused_where_there_is_none() -> None:
    optimizer = Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    with pytest.raises(ValueError, match="Adagrad has neither momentum nor betas"):
        PolicyScheduler(optimizer, POLICY)
    assert used(optimizer) == Hyper(0.3)
    scheduler = PolicyScheduler(optimizer, OneCycle(0.5, 20, cycle_momentum=False))
    assert [hyper.momentum for hyper in trained(optimizer, scheduler, 3)] == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("done", range(21))
def test_resume_at_any_step_equals_an_undisturbed_run(kind: str, done: int) -> None:
    first = sgd_or_adamw(kind)
    scheduler = PolicyScheduler(first, POLICY)
    trained(first, scheduler, done)
    states = saved(first, scheduler)
    for order in ((0, 1), (1, 0)):
        optimizer = sgd_or_adamw(kind)
        resumed = PolicyScheduler(optimizer, POLICY)
        for index in order:
            (optimizer, resumed)[index].load_state_dict(states[index])
        assert resumed.get_last_lr() == [POLICY(done).lr] * 2
        assert trained(optimizer, resumed, 20 - done) == planned(POLICY, range(done, 20))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_resume_with_another_policy_follows_that_policy(order: tuple[int, int]) -> None:
    first = sgd_or_adamw()
    scheduler = PolicyScheduler(first, OneCycle(5.0, 20))
    trained(first, scheduler, 8)
    states = saved(first, scheduler)
    longer = OneCycle(0.3, 40)
    optimizer = sgd_or_adamw()
    resumed = PolicyScheduler(optimizer, longer)
    for index in order:
        (optimizer, resumed)[index].load_state_dict(states[index])
    assert trained(optimizer, resumed, 32) == planned(longer, range(8, 40))


def test_state_is_only_the_step_count() -> None:
    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 6)
    assert scheduler.state_dict() == {"last_epoch": 6}


def test_scheduler_alone_restored_sets_the_rate_at_once() -> None:
    optimizer = sgd_or_adamw()
    PolicyScheduler(optimizer, POLICY).load_state_dict({"last_epoch": 11})
    assert used(optimizer) == POLICY(11)


def test_last_epoch_starts_at_the_step_after_it() -> None:
    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, POLICY, last_epoch=4)
    assert trained(optimizer, scheduler, 15) == planned(POLICY, range(5, 20))


def test_a_call_without_an_optimizer_step_changes_nothing() -> None:
    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, POLICY)
    for step in range(20):
        assert used(optimizer) == POLICY(step)
        optimizer.step()
        for _ in range(3):
            scheduler.step()
    assert scheduler.last_epoch == 20


def in_sequence(optimizer: Optimizer, *policies: Policy) -> SequentialLR:
    ends = [sum(policy.total_steps for policy in policies[:count]) for count in range(1, len(policies))]
    return SequentialLR(optimizer, [PolicyScheduler(optimizer, policy) for policy in policies], ends)


def one_after_the_other(*policies: Policy, own: float = 0.7) -> list[Hyper]:
    """The values of policies in turn; one without a momentum leaves that of the optimizer, or of the policy before."""
    values: list[Hyper] = []
    for policy in policies:
        for hyper in planned(policy, range(policy.total_steps)):
            own = own if hyper.momentum is None else hyper.momentum
            values.append(Hyper(hyper.lr, own))
    return values


SEQUENCES = [
    (Constant(0.01, 10), OneCycle(0.5, 20)),
    (OneCycle(0.5, 20), Constant(0.01, 10)),
    (Constant(0.01, 4), CLR(0.2, 11), OneCycle(0.5, 15)),
]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("policies", SEQUENCES)
def test_torchs_sequence_follows_one_policy_after_the_other(kind: str, policies: tuple[Policy, ...]) -> None:
    optimizer = sgd_or_adamw(kind)
    assert trained(optimizer, in_sequence(optimizer, *policies), 30) == one_after_the_other(*policies)


@pytest.mark.slow
@pytest.mark.parametrize("policies", SEQUENCES)
@pytest.mark.parametrize("done", [0, 3, 9, 10, 11, 19, 20, 29])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_sequence_resumes_where_it_was(policies: tuple[Policy, ...], done: int, order: tuple[int, int]) -> None:
    first = sgd_or_adamw()
    scheduler = in_sequence(first, *policies)
    trained(first, scheduler, done)
    states = saved(first, scheduler)
    optimizer = sgd_or_adamw()
    resumed = in_sequence(optimizer, *policies)
    for index in order:
        (optimizer, resumed)[index].load_state_dict(states[index])
    assert trained(optimizer, resumed, 30 - done) == one_after_the_other(*policies)[done:]


@pytest.mark.parametrize("policy_first", [True, False])
@pytest.mark.parametrize("order", [(), (0, 1), (1, 0)])
def test_a_policy_and_a_scheduler_of_torch_take_turns(policy_first: bool, order: tuple[int, ...]) -> None:
    def make() -> tuple[Optimizer, SequentialLR]:
        optimizer = sgd_or_adamw()
        kinds = [lambda: PolicyScheduler(optimizer, Constant(0.01, 10)), lambda: CosineAnnealingLR(optimizer, 10)]
        parts: list[LRScheduler] = [make() for make in (kinds if policy_first else reversed(kinds))]
        return optimizer, SequentialLR(optimizer, parts, [10])

    alone = sgd_or_adamw()
    cosine = [hyper.lr for hyper in trained(alone, CosineAnnealingLR(alone, 10), 10)]
    optimizer, sequence = make()
    rates = [hyper.lr for hyper in trained(optimizer, sequence, 15)]
    if order:
        states = saved(optimizer, sequence)
        optimizer, sequence = make()
        for index in order:
            (optimizer, sequence)[index].load_state_dict(states[index])
    rates += [hyper.lr for hyper in trained(optimizer, sequence, 5)]
    assert rates == pytest.approx([0.01] * 10 + cosine if policy_first else cosine + [0.01] * 10)


@pytest.mark.parametrize("warmup_first", [True, False])
def test_in_a_chain_it_acts_as_a_scheduler_of_torch_that_sets_the_rate(warmup_first: bool) -> None:
    def rates(ours: bool) -> list[float]:
        optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        # LinearLR multiplies the rate that it finds.
        makers = [
            lambda: (
                PolicyScheduler(optimizer, Linear(0.5, 10, pct_warmup=0))
                if ours
                else LambdaLR(optimizer, lambda step: 1 - step / 10)
            ),
            lambda: LinearLR(optimizer, 0.1, 1.0, 4),
        ]
        parts: list[LRScheduler] = [make() for make in (reversed(makers) if warmup_first else makers)]
        return [hyper.lr for hyper in trained(optimizer, ChainedScheduler(parts, optimizer), 9)]

    assert rates(ours=True) == pytest.approx(rates(ours=False))


def test_many_calls_without_an_optimizer_step_are_said() -> None:
    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, POLICY)
    with pytest.warns(UserWarning, match="100 times without an optimizer step"):
        for _ in range(200):
            scheduler.step()
    assert used(optimizer) == POLICY(0)


def test_a_copy_counts_the_steps_of_its_own_optimizer() -> None:
    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 3)
    again = copy.deepcopy(scheduler)
    again.optimizer.step()
    for _ in range(3):
        again.step()
        scheduler.step()
    assert (scheduler.last_epoch, again.last_epoch) == (3, 4)


def test_a_deleted_scheduler_does_not_change_the_optimizer() -> None:
    optimizer = sgd_or_adamw()
    PolicyScheduler(optimizer, POLICY)
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.123
    optimizer.load_state_dict(state)
    assert used(optimizer).lr == 0.123


def test_scheduler_and_optimizer_can_be_copied_and_pickled() -> None:
    optimizer = sgd_or_adamw()
    scheduler = PolicyScheduler(optimizer, POLICY)
    trained(optimizer, scheduler, 3)
    for again in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert trained(again.optimizer, again, 17) == planned(POLICY, range(3, 20))


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


@pytest.mark.parametrize("scales", [(0.5, 0.1), (0.0, 0.3), (0.1,)])
def test_what_is_used_is_what_is_applied_where_all_groups_are_scaled(scales: tuple[float, ...]) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in scales]
    optimizer = SGD(groups, momentum=0.5)
    apply(optimizer, Hyper(0.3, 0.85))
    assert (used(optimizer).lr, used(optimizer).momentum) == (pytest.approx(0.3), 0.85)


def test_the_scheduler_scales_every_group_alike_also_after_a_resume() -> None:
    def fresh() -> tuple[SGD, PolicyScheduler]:
        head, body = ({"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2))
        optimizer = SGD([head, body | {"lr_scale": 0.1}], momentum=0.5)
        return optimizer, PolicyScheduler(optimizer, OneCycle(0.3, 20))

    optimizer, scheduler = fresh()
    policy = OneCycle(0.3, 20)
    for step in range(20):
        if step == 7:
            saved = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = fresh()
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
def test_an_invalid_scale_is_refused(scale: Any) -> None:
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


def test_an_added_group_follows_the_policy_from_the_next_step_on() -> None:
    optimizer = SGD(groups({}), lr=1.0, momentum=0.9)
    scheduler = PolicyScheduler(optimizer, POLICY)
    for group in groups({}, {"lr_scale": 0.1}):
        optimizer.add_param_group(group)
    optimizer.step()
    scheduler.step()
    assert rates(optimizer) == scheduler.get_last_lr() == [POLICY(1).lr, POLICY(1).lr, POLICY(1).lr * 0.1]


def test_a_group_that_is_added_with_another_rate_is_refused() -> None:
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


class SmallSteps(SGD):
    """An optimizer of one's own whose constructor has other parameters, and whose steps do not shorten."""

    def __init__(self, weights: Any, step_size: float) -> None:
        super().__init__(weights, lr=step_size)
        self.defaults["step_size"] = step_size

    def step(self) -> None:  # type: ignore[override]
        for weight in self.param_groups[0]["params"]:
            weight.data -= self.defaults["step_size"] * weight.grad.sign()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        *((kind, True) for kind in ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adamax", "Muon")),
        *((kind, False) for kind in ("SGD", "ASGD", "LBFGS")),
    ],
)
def test_an_adaptive_optimizer_is_known_by_its_steps(kind: str, expected: bool) -> None:
    weights = torch.ones(3, 3, requires_grad=True)
    assert is_adaptive(getattr(torch.optim, kind)([weights], lr=0.0)) is expected
    assert torch.equal(weights, torch.ones(3, 3))


def test_an_optimizer_of_ones_own_is_tried_as_well_and_one_that_fails_is_not_adaptive() -> None:
    assert is_adaptive(SmallSteps([torch.zeros(1)], 0.1))
    assert is_adaptive(Wrapped(AdamW([torch.zeros(1)])))
    assert not is_adaptive(Wrapped(SGD([torch.zeros(1)])))
    assert not is_adaptive(type("Fails", (SGD,), {"step": lambda self: 1 / 0})([torch.zeros(1)], lr=0.1))
