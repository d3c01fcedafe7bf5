"""Series that can be checked by hand, and what holds for every policy."""

import copy
import pickle
import random
import subprocess
import sys
from typing import Any

import pytest

from onecycle_sweeps.policies import CLR, Constant, Cosine, Hyper, Inv, OneCycle, Step, Wsd

CYCLE: dict[str, Any] = dict(pct_start=0.5, pct_tail=0.2, anneal_strategy="linear", div_factor=10, tail_div=100)

GOLDEN: dict[str, tuple[Any, list[float]]] = {
    "constant": (Constant(0.3, 3), [0.3, 0.3, 0.3]),
    "step by default": (Step(1, 8), [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
    "step at fractions": (Step(1, 10, milestones=[0.3, 0.9], gamma=0.5), [1] * 3 + [0.5] * 6 + [0.25]),
    "step at epochs": (Step(1, 6, 2, milestones=[1, 2]), [1, 1, 0.1, 0.1, 0.01, 0.01]),
    "step at half epochs": (Step(1, 6, 2, milestones=[1.5]), [1, 1, 1, 0.1, 0.1, 0.1]),
    "step every second epoch": (Step(1, 6, 1, step_size=2), [1, 1, 0.1, 0.1, 0.01, 0.01]),
    "inv": (Inv(1, 4, gamma=1, power=1), [1, 1 / 2, 1 / 3, 1 / 4]),
    "inv of a square root": (Inv(2, 4, gamma=1, power=0.5), [2, 2**0.5, 2 / 3**0.5, 1]),
    "clr, two whole cycles": (CLR(1, 8, 0), [0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5]),
    "clr, 9 steps": (CLR(1, 9, 0), [0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5, 0]),
    "clr, 10 steps": (CLR(3, 10, 0), [0, 1.5, 3, 2, 1, 0, 1.5, 3, 2, 1]),
    "clr, 11 steps": (CLR(3, 11, 0), [0, 1.5, 3, 2, 1, 0, 1.5, 3, 2, 1, 0]),
    "clr, steep fall": (CLR(1, 8, 0, step_size_down=1), [0, 1 / 3, 2 / 3, 1, 0, 1 / 3, 2 / 3, 1]),
    "clr from a quarter": (CLR(1, 4), [0.25, 1, 0.25, 1]),
    "triangular2": (CLR(1, 12, 0, 2, mode="triangular2"), [0, 0.5, 1, 0.5, 0, 0.25, 0.5, 0.25, 0, 0.125, 0.25, 0.125]),
    "exp_range": (CLR(1, 5, 0, 1, mode="exp_range", gamma=0.5), [0, 0.5, 0, 0.125, 0]),
    "1cycle": (OneCycle(1, 5, 0.6, "linear", div_factor=5, final_div_factor=2), [0.2, 0.6, 1, 0.55, 0.1]),
    "constant tail": (
        OneCycle(1, 10, **CYCLE, tail="constant"),
        [0.1, 0.325, 0.55, 0.775, 1, 0.7, 0.4, 0.1, 1e-3, 1e-3],
    ),
    "linear tail": (
        OneCycle(1, 10, **CYCLE, tail="linear"),
        [0.1, 0.325, 0.55, 0.775, 1, 0.7, 0.4, 0.1, 0.0505, 0.001],
    ),
    "cos tail": (
        OneCycle(1, 12, 0.25, "linear", div_factor=5, tail="cos", pct_tail=1 / 3, tail_div=2),
        [0.2, 0.6, 1, 0.84, 0.68, 0.52, 0.36, 0.2, 0.15 + 0.05 * 0.5**0.5, 0.15, 0.15 - 0.05 * 0.5**0.5, 0.1],
    ),
    "cosine": (Cosine(1, 4), [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
    "cosine after a warm-up": (Cosine(1, 6, 0.2, pct_warmup=2 / 3), [0.2, 0.4, 0.6, 0.8, 1, 0.6]),
    "wsd": (Wsd(1, 10, 0.3, 0.4), [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
    "wsd, sqrt": (Wsd(1, 6, 0, 4 / 6, "sqrt"), [1, 1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]),
    "wsd, cos": (Wsd(1, 6, 0, 4 / 6, "cos"), [1, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
    "wsd to a floor": (Wsd(1, 4, 0, 0.5, eta_min=0.2), [1, 1, 1, 0.6]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_policy_gives_the_series_worked_out_by_hand(name: str) -> None:
    policy, expected = GOLDEN[name]
    assert [policy(step).lr for step in range(policy.total_steps)] == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("tail", ["constant", "linear", "cos"])
def test_momentum_mirrors_the_rate_and_is_held_in_the_tail(tail: Any) -> None:
    policy = OneCycle(1, 10, **CYCLE, tail=tail)
    expected = [0.95, 0.925, 0.9, 0.875, 0.85, 0.95 - 0.2 / 3, 0.95 - 0.1 / 3, 0.95, 0.95, 0.95]
    assert [policy(step).momentum for step in range(10)] == pytest.approx(expected, rel=1e-12)


def test_momentum_of_triangular2_is_halved_with_the_rate() -> None:
    policy = CLR(1, 12, 0, 2, mode="triangular2")
    expected = [0.9, 0.85, 0.8, 0.85, 0.9, 0.875, 0.85, 0.875, 0.9, 0.8875, 0.875, 0.8875]
    assert [policy(step).momentum for step in range(12)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", GOLDEN)
def test_policy_stays_within_its_bounds_and_reaches_max_lr(name: str) -> None:
    policy, _ = GOLDEN[name]
    rates = [policy(step).lr for step in range(policy.total_steps)]
    assert all(0 <= lr <= policy.max_lr for lr in rates)
    # exp_range shrinks from the first step on, so its peaks lie below.
    assert max(rates) == policy.max_lr or name == "exp_range"


@pytest.mark.parametrize("name", GOLDEN)
def test_policy_answers_alike_in_any_order_and_after_a_copy(name: str) -> None:
    policy, _ = GOLDEN[name]
    trajectory = [policy(step) for step in range(policy.total_steps)]
    order = random.Random(0).sample(range(policy.total_steps), policy.total_steps)
    for again in (policy, copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert again == policy and hash(again) == hash(policy)
        assert {step: again(step) for step in order} == dict(enumerate(trajectory))


@pytest.mark.parametrize("name", GOLDEN)
def test_policy_holds_its_last_value_past_the_end(name: str) -> None:
    policy, _ = GOLDEN[name]
    last = policy(policy.total_steps - 1)
    assert [policy(policy.total_steps + extra) for extra in (0, 1, 1000)] == [last] * 3


@pytest.mark.parametrize(
    "name", [name for name, (policy, _) in GOLDEN.items() if not isinstance(policy, CLR | OneCycle)]
)
def test_policy_that_does_not_cycle_momentum_leaves_the_optimizers_own(name: str) -> None:
    policy, _ = GOLDEN[name]
    assert {policy(step).momentum for step in range(policy.total_steps)} == {None}


def test_cycle_momentum_false_leaves_the_optimizers_own() -> None:
    assert CLR(1, 10, cycle_momentum=False)(3).momentum is None
    assert OneCycle(1, 10, cycle_momentum=False)(3) == Hyper(OneCycle(1, 10)(3).lr)


def test_importing_the_policies_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, onecycle_sweeps.policies; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
