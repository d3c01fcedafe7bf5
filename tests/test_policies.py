"""Series that can be checked by hand, and what holds for every policy."""

import copy
import dataclasses
import math
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from onecycle_sweeps.policies import CLR, Constant, Cosine, Hyper, Inv, Linear, OneCycle, Policy, Step, Wsd

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
    "linear": (Linear(1, 5, 0, 0.2), [0.5, 1, 0.75, 0.5, 0.25]),
    "linear to a floor": (Linear(1, 4, 0.2, 0), [1, 0.8, 0.6, 0.4]),
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


CONF = Path(__file__).parents[1] / "conf"
NAMES = sorted(path.stem for path in (CONF / "policy").glob("*.yaml"))
ADDED_BY_THE_TRIAL = {"total_steps", "steps_per_epoch"}


def composed(*overrides: str) -> Any:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(overrides=["+max_lr=0.5", *overrides])
    return OmegaConf.to_container(config, resolve=True)


def built(name: str, total_steps: int, *overrides: str) -> Policy:
    return hydra.utils.instantiate(composed(f"+policy={name}", *overrides)["policy"], total_steps=total_steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_file_builds_a_policy_at_max_lr_and_lists_all_its_keys(name: str) -> None:
    keys = set(composed(f"+policy={name}")["policy"]) - {"_target_"}
    policy: Any = built(name, 950)
    assert policy.max_lr == 0.5
    assert keys == {field.name for field in dataclasses.fields(policy)} - ADDED_BY_THE_TRIAL


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("onecycle_")])
def test_file_states_the_defaults_of_its_class(name: str) -> None:
    policy: Any = built(name, 950)
    assert policy == type(policy)(0.5, 950)


def test_smiths_tail_is_a_thousandth_of_the_base_rate() -> None:
    policy = built("onecycle_smith", 9500)
    knots = {0: 0.05, 4099: 0.5, 8199: 0.05, 8200: 5e-5, 9499: 5e-5}
    assert {step: policy(step).lr for step in knots} == pytest.approx(knots)
    assert [policy(step).momentum for step in (0, 4099, 8199, 9499)] == pytest.approx([0.95, 0.85, 0.95, 0.95])


def test_the_tail_of_fastai_07_falls_to_a_hundredth_of_the_base_rate() -> None:
    policy = built("onecycle_fastai07", 9500)
    knots = {0: 0.05, 4099: 0.5, 8199: 0.05, 8849: 0.05 * 0.505, 9499: 5e-4}
    assert {step: policy(step).lr for step in knots} == pytest.approx(knots)


def test_fastai_v2_ends_at_a_hundred_thousandth_of_the_peak() -> None:
    policy = built("onecycle_fastai", 1000)
    assert [policy(step).lr for step in (0, 249, 999)] == pytest.approx([0.02, 0.5, 5e-6])
    assert isinstance(policy, OneCycle) and (policy.base_momentum, policy.max_momentum) == (0.85, 0.95)


def test_milestones_of_a_config_become_a_tuple() -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(overrides=["+max_lr=0.5", "+policy=step", "policy.milestones=[0.3,0.6]"])
    assert hydra.utils.instantiate(config.policy, total_steps=10) == Step(0.5, 10, milestones=(0.3, 0.6))


@pytest.mark.slow
@example(hundreds=1, percent=34)  # (1 - 0.34) * 100 is 65.99999999999999 in floating point.
@given(hundreds=st.integers(1, 40), percent=st.integers(4, 60))
def test_a_constant_tail_begins_on_its_step_whatever_floating_point_says(hundreds: int, percent: int) -> None:
    policy = OneCycle(1.0, 100 * hundreds, tail="constant", pct_tail=percent / 100)
    in_tail = [policy(step).lr == pytest.approx(0.04 / 100) for step in range(100 * hundreds)]
    assert in_tail == [step >= hundreds * (100 - percent) for step in range(100 * hundreds)]


def test_the_decay_of_wsd_begins_where_its_share_of_a_long_run_says() -> None:
    rates = [Wsd(1.0, 1000)(step).lr for step in range(1000)]
    assert [step for step, lr in enumerate(rates) if lr == 1.0] == list(range(50, 801))


@given(percent=st.integers(1, 99), div_factor=st.sampled_from([3, 5, 7, 10, 25, 50]))
def test_the_peak_is_max_lr_to_the_last_bit(percent: int, div_factor: int) -> None:
    max_lr = percent / 100
    for policy in (OneCycle(max_lr, 20, div_factor=div_factor), CLR(max_lr, 20, max_lr / div_factor)):
        assert max(policy(step).lr for step in range(20)) == max_lr


@given(total_steps=st.integers(4, 500))
def test_clr_by_default_reaches_its_peak_twice_and_begins_no_third_rise(total_steps: int) -> None:
    policy = CLR(0.8, total_steps)
    rates = [policy(step).lr for step in range(total_steps)]
    assert rates.count(0.8) == 2
    assert total_steps < 6 or rates[-1] < rates[-2]


@given(
    total_steps=st.integers(20, 300),
    pct_start=st.floats(0.06, 0.5),
    tail=st.sampled_from(["none", "constant", "linear", "cos"]),
    anneal_strategy=st.sampled_from(["cos", "linear"]),
)
def test_momentum_of_a_cycle_moves_against_the_rate(total_steps: int, **keys: Any) -> None:
    policy = OneCycle(0.7, total_steps, **keys)
    trajectory = [policy(step) for step in range(total_steps)]
    momenta = [hyper.momentum or 0.0 for hyper in trajectory]
    assert all(0.85 <= momentum <= 0.95 + 1e-15 for momentum in momenta)
    assert all(hyper.lr <= 0.7 for hyper in trajectory)
    peak = policy.pct_start * total_steps - 1
    for step in range(1, total_steps):
        if step - 1 < peak < step:
            continue  # The peak lies between these two: they are on different sides of it.
        change, against = trajectory[step].lr - trajectory[step - 1].lr, momenta[step] - momenta[step - 1]
        assert change * against <= 1e-18, step


EVERY: list[Callable[..., Policy]] = [Constant, Step, CLR, OneCycle, Cosine, Linear, Wsd, Inv]

REFUSALS: list[tuple[Callable[..., Policy], dict[str, Any], str]] = [
    (Step, {"steps_per_epoch": 0}, "steps_per_epoch must be a whole number of at least 1, got 0"),
    (Step, {"gamma": 0}, "gamma must be a number in (0, 1], got 0"),
    (Step, {"gamma": 1.5}, "gamma must be a number in (0, 1], got 1.5"),
    (Step, {"step_size": 2.5}, "step_size must be a whole number of at least 1, got 2.5"),
    (Step, {"step_size": 3, "milestones": [1, 2]}, "milestones and step_size exclude each other, got [1, 2] and 3"),
    (Step, {"milestones": []}, "milestones must have at least one element, got []"),
    (Step, {"milestones": 0.5}, "milestones must be a list of numbers, got 0.5"),
    (Step, {"milestones": "30,60"}, "milestones must be a list of numbers, got '30,60'"),
    (Step, {"milestones": [0.5, "x"]}, "milestones must be a number above 0, got 'x'"),
    (Step, {"milestones": [-1, 2]}, "milestones must be a number above 0, got -1"),
    (Step, {"milestones": [0.001]}, "milestones must fall after step 0, got 0.001 of 100 steps"),
    (Step, {"milestones": [5, 5]}, "milestones must increase, got [5, 5] at steps [5, 5]"),
    (Step, {"milestones": [0.5, 30]}, "milestones must increase, got [0.5, 30] at steps [50, 30]"),
    (CLR, {"base_lr": -0.1}, "base_lr must be a number of at least 0, got -0.1"),
    (CLR, {"base_lr": 0.5}, "base_lr must be at most max_lr=0.4, got 0.5"),
    (CLR, {"step_size_up": 0}, "step_size_up must be a whole number of at least 1, got 0"),
    (CLR, {"step_size_down": True}, "step_size_down must be a whole number of at least 1, got True"),
    (CLR, {"step_size_down": 50}, "too few for two whole cycles with a rise of 0 and a fall of 50 steps"),
    (CLR, {"total_steps": 3}, "total_steps=3 is too few for two whole cycles"),
    (CLR, {"mode": "sine"}, "mode must be triangular, triangular2 or exp_range, got 'sine'"),
    (CLR, {"gamma": 1.1}, "gamma must be a number in (0, 1], got 1.1"),
    (CLR, {"cycle_momentum": "no"}, "cycle_momentum must be true or false, got 'no'"),
    (CLR, {"max_momentum": 1}, "max_momentum must be a number in [0, 1), got 1"),
    (CLR, {"base_momentum": 0.95}, "base_momentum must be at most max_momentum=0.9, got 0.95"),
    (OneCycle, {"pct_start": 1.0}, "pct_start must be a number in (0, 1), got 1.0"),
    (OneCycle, {"pct_start": 0}, "pct_start must be a number in (0, 1), got 0"),
    (OneCycle, {"pct_start": "0.3"}, "pct_start must be a number in (0, 1), got '0.3'"),
    (OneCycle, {"pct_start": 0.01}, "pct_start * total_steps must be above 1, got 0.01 * 100 = 1:"),
    (OneCycle, {"total_steps": 2, "pct_start": 0.5}, "pct_start * total_steps must be above 1, got 0.5 * 2 = 1:"),
    (OneCycle, {"anneal_strategy": "sqrt"}, "anneal_strategy must be cos or linear, got 'sqrt'"),
    (OneCycle, {"cycle_momentum": 1}, "cycle_momentum must be true or false, got 1"),
    (OneCycle, {"base_momentum": -0.1}, "base_momentum must be a number in [0, 1), got -0.1"),
    (OneCycle, {"base_momentum": 0.96}, "base_momentum must be at most max_momentum=0.95, got 0.96"),
    (OneCycle, {"div_factor": 0.5}, "div_factor must be a number of at least 1, got 0.5"),
    (OneCycle, {"final_div_factor": 0.03}, "final_div_factor must be a number of at least 0.04, got 0.03"),
    (OneCycle, {"three_phase": "yes"}, "three_phase must be true or false, got 'yes'"),
    (
        OneCycle,
        {"three_phase": True, "pct_start": 0.6},
        "must be below total_steps - 1 = 99, got 118 from pct_start=0.6",
    ),
    (OneCycle, {"three_phase": True, "total_steps": 9, "pct_start": 5 / 9}, "must be below total_steps - 1 = 8, got 8"),
    (OneCycle, {"three_phase": True, "tail": "linear"}, "three_phase and a tail exclude each other, got tail=linear"),
    (OneCycle, {"tail": "sqrt"}, "tail must be none, constant, linear or cos, got 'sqrt'"),
    (OneCycle, {"pct_tail": 0}, "pct_tail must be a number in (0, 1), got 0"),
    (
        OneCycle,
        {"tail": "cos", "pct_tail": 0.7},
        "pct_start + pct_tail must be below 1, the fall lies between them, got",
    ),
    (OneCycle, {"tail": "cos", "pct_tail": 0.005}, "pct_tail * total_steps must be at least 1, got 0.005 * 100"),
    (OneCycle, {"tail_div": 0.5}, "tail_div must be a number of at least 1, got 0.5"),
    (Cosine, {"eta_min": -1}, "eta_min must be a number of at least 0, got -1"),
    (Cosine, {"eta_min": 0.5}, "eta_min must be at most max_lr=0.4, got 0.5"),
    (Cosine, {"pct_warmup": 1}, "pct_warmup must be a number in [0, 1), got 1"),
    (Cosine, {"pct_warmup": 0.999}, "pct_warmup must leave a step after the warm-up, got 0.999 of 100 steps"),
    (Linear, {"eta_min": 0.5}, "eta_min must be at most max_lr=0.4, got 0.5"),
    (Linear, {"pct_warmup": 1}, "pct_warmup must be a number in [0, 1), got 1"),
    (Wsd, {"pct_warmup": -0.1}, "pct_warmup must be a number in [0, 1), got -0.1"),
    (Wsd, {"pct_warmup": 0.999, "pct_decay": 0}, "pct_warmup must leave a step after the warm-up"),
    (Wsd, {"pct_decay": 1.1}, "pct_decay must be a number in [0, 1], got 1.1"),
    (Wsd, {"pct_warmup": 0.5, "pct_decay": 0.6}, "pct_warmup + pct_decay must be at most 1, got 0.5 + 0.6"),
    (Wsd, {"anneal_strategy": "exp"}, "anneal_strategy must be linear, cos or sqrt, got 'exp'"),
    (Wsd, {"eta_min": 1}, "eta_min must be at most max_lr=0.4, got 1"),
    (Inv, {"gamma": -1}, "gamma must be a number of at least 0, got -1"),
    (Inv, {"power": math.nan}, "power must be a number of at least 0, got nan"),
]


@pytest.mark.parametrize(("policy", "keys", "message"), REFUSALS)
def test_setting_that_cannot_work_is_refused(policy: Callable[..., Policy], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        policy(**{"max_lr": 0.4, "total_steps": 100, **keys})
    assert message in str(refusal.value)


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize(
    ("max_lr", "message"),
    [
        (0, "max_lr must be a number above 0, got 0"),
        (-0.1, "max_lr must be a number above 0, got -0.1"),
        ("abc", "max_lr must be a number above 0, got 'abc'"),
        (None, "max_lr must be a number above 0, got None"),
        (True, "max_lr must be a number above 0, got True"),
        (math.nan, "max_lr must be a number above 0, got nan"),
        (math.inf, "max_lr must be a number above 0, got inf"),
    ],
)
def test_every_policy_refuses_an_invalid_rate(policy: Callable[..., Policy], max_lr: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        policy(max_lr, 100)


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize("total_steps", [0, -1, 10.0, True, "100", None])
def test_every_policy_refuses_an_invalid_length(policy: Callable[..., Policy], total_steps: Any) -> None:
    with pytest.raises(ValueError, match=f"^total_steps must be a whole number of at least 1, got {total_steps!r}$"):
        policy(0.1, total_steps)


@pytest.mark.parametrize("policy", EVERY)
def test_every_policy_refuses_a_step_before_the_first(policy: Callable[..., Policy]) -> None:
    with pytest.raises(ValueError, match=r"^step must be at least 0, got -1$"):
        policy(0.1, 100)(-1)
