"""What cannot work is refused with the setting's name, the bound and the value."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from onecycle_sweeps.policies import CLR, Constant, Cosine, Inv, OneCycle, Policy, Step, Wsd

EVERY: list[Callable[..., Policy]] = [Constant, Step, CLR, OneCycle, Cosine, Wsd, Inv]

REFUSALS: list[tuple[Callable[..., Policy], dict[str, Any], str]] = [
    (Step, {"steps_per_epoch": 0}, "steps_per_epoch must be a whole number of at least 1, got 0"),
    (Step, {"gamma": 0}, "gamma must be above 0 and at most 1, got 0"),
    (Step, {"gamma": 1.5}, "gamma must be above 0 and at most 1, got 1.5"),
    (Step, {"step_size": 2.5}, "step_size must be a whole number of at least 1, got 2.5"),
    (Step, {"step_size": 3, "milestones": [1, 2]}, "milestones and step_size exclude each other, got [1, 2] and 3"),
    (Step, {"milestones": []}, "milestones must hold at least one milestone, got []"),
    (Step, {"milestones": 0.5}, "milestones must be a list of numbers, got 0.5"),
    (Step, {"milestones": "30,60"}, "milestones must be a list of numbers, got '30,60'"),
    (Step, {"milestones": [0.5, "x"]}, "milestones must be a finite number, got 'x'"),
    (Step, {"milestones": [-1, 2]}, "milestones must be above 0, got -1"),
    (Step, {"milestones": [0.001]}, "milestones must fall after step 0, got 0.001 of 100 steps"),
    (Step, {"milestones": [5, 5]}, "milestones must increase, got [5, 5] at steps [5, 5]"),
    (Step, {"milestones": [0.5, 30]}, "milestones must increase, got [0.5, 30] at steps [50, 30]"),
    (CLR, {"base_lr": -0.1}, "base_lr must be at least 0, got -0.1"),
    (CLR, {"base_lr": 0.5}, "base_lr must be at most max_lr=0.4, got 0.5"),
    (CLR, {"step_size_up": 0}, "step_size_up must be a whole number of at least 1, got 0"),
    (CLR, {"step_size_down": True}, "step_size_down must be a whole number of at least 1, got True"),
    (CLR, {"step_size_down": 50}, "too few for two whole cycles with a rise of 0 and a fall of 50 steps"),
    (CLR, {"total_steps": 3}, "total_steps=3 is too few for two whole cycles"),
    (CLR, {"mode": "sine"}, "mode must be one of triangular, triangular2, exp_range, got 'sine'"),
    (CLR, {"gamma": 1.1}, "gamma must be above 0 and at most 1, got 1.1"),
    (CLR, {"cycle_momentum": "no"}, "cycle_momentum must be true or false, got 'no'"),
    (CLR, {"max_momentum": 1}, "max_momentum must be at least 0 and below 1, got 1"),
    (CLR, {"base_momentum": 0.95}, "base_momentum must be at most max_momentum=0.9, got 0.95"),
    (OneCycle, {"pct_start": 1.0}, "pct_start must lie strictly between 0 and 1, got 1.0"),
    (OneCycle, {"pct_start": 0}, "pct_start must lie strictly between 0 and 1, got 0"),
    (OneCycle, {"pct_start": "0.3"}, "pct_start must be a finite number, got '0.3'"),
    (OneCycle, {"pct_start": 0.01}, "pct_start * total_steps must be above 1, got 0.01 * 100 = 1:"),
    (OneCycle, {"total_steps": 2, "pct_start": 0.5}, "pct_start * total_steps must be above 1, got 0.5 * 2 = 1:"),
    (OneCycle, {"anneal_strategy": "sqrt"}, "anneal_strategy must be one of cos, linear, got 'sqrt'"),
    (OneCycle, {"cycle_momentum": 1}, "cycle_momentum must be true or false, got 1"),
    (OneCycle, {"base_momentum": -0.1}, "base_momentum must be at least 0 and below 1, got -0.1"),
    (OneCycle, {"base_momentum": 0.96}, "base_momentum must be at most max_momentum=0.95, got 0.96"),
    (OneCycle, {"div_factor": 0.5}, "div_factor must be at least 1, got 0.5"),
    (OneCycle, {"final_div_factor": 0.03}, "final_div_factor must be at least 0.04, got 0.03"),
    (OneCycle, {"three_phase": "yes"}, "three_phase must be true or false, got 'yes'"),
    (
        OneCycle,
        {"three_phase": True, "pct_start": 0.6},
        "must be below total_steps - 1 = 99, got 118 from pct_start=0.6",
    ),
    (OneCycle, {"three_phase": True, "total_steps": 9, "pct_start": 5 / 9}, "must be below total_steps - 1 = 8, got 8"),
    (OneCycle, {"three_phase": True, "tail": "linear"}, "three_phase and a tail exclude each other, got tail=linear"),
    (OneCycle, {"tail": "sqrt"}, "tail must be one of none, constant, linear, cos, got 'sqrt'"),
    (OneCycle, {"pct_tail": 0}, "pct_tail must lie strictly between 0 and 1, got 0"),
    (
        OneCycle,
        {"tail": "cos", "pct_tail": 0.7},
        "pct_start + pct_tail must be below 1, the fall lies between them, got",
    ),
    (OneCycle, {"tail": "cos", "pct_tail": 0.005}, "pct_tail * total_steps must be at least 1, got 0.005 * 100"),
    (OneCycle, {"tail_div": 0.5}, "tail_div must be at least 1, got 0.5"),
    (Cosine, {"eta_min": -1}, "eta_min must be at least 0, got -1"),
    (Cosine, {"eta_min": 0.5}, "eta_min must be at most max_lr=0.4, got 0.5"),
    (Cosine, {"pct_warmup": 1}, "pct_warmup must be at least 0 and below 1, got 1"),
    (Cosine, {"pct_warmup": 0.999}, "pct_warmup must leave a step after the warm-up, got 0.999 of 100 steps"),
    (Wsd, {"pct_warmup": -0.1}, "pct_warmup must be at least 0 and below 1, got -0.1"),
    (Wsd, {"pct_warmup": 0.999, "pct_decay": 0}, "pct_warmup must leave a step after the warm-up"),
    (Wsd, {"pct_decay": 1.1}, "pct_decay must be at least 0 and at most 1, got 1.1"),
    (Wsd, {"pct_warmup": 0.5, "pct_decay": 0.6}, "pct_warmup + pct_decay must be at most 1, got 0.5 + 0.6"),
    (Wsd, {"anneal_strategy": "exp"}, "anneal_strategy must be one of linear, cos, sqrt, got 'exp'"),
    (Wsd, {"eta_min": 1}, "eta_min must be at most max_lr=0.4, got 1"),
    (Inv, {"gamma": -1}, "gamma must be at least 0, got -1"),
    (Inv, {"power": math.nan}, "power must be a finite number, got nan"),
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
        (0, "max_lr must be above 0, got 0"),
        (-0.1, "max_lr must be above 0, got -0.1"),
        ("abc", "max_lr must be a finite number, got 'abc'"),
        (None, "max_lr must be a finite number, got None"),
        (True, "max_lr must be a finite number, got True"),
        (math.nan, "max_lr must be a finite number, got nan"),
        (math.inf, "max_lr must be a finite number, got inf"),
    ],
)
def test_every_policy_refuses_a_rate_that_is_none(policy: Callable[..., Policy], max_lr: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        policy(max_lr, 100)


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize("total_steps", [0, -1, 10.0, True, "100", None])
def test_every_policy_refuses_a_length_that_is_none(policy: Callable[..., Policy], total_steps: Any) -> None:
    with pytest.raises(ValueError, match=f"^total_steps must be a whole number of at least 1, got {total_steps!r}$"):
        policy(0.1, total_steps)


@pytest.mark.parametrize("policy", EVERY)
def test_every_policy_refuses_a_step_before_the_first(policy: Callable[..., Policy]) -> None:
    with pytest.raises(ValueError, match=r"^step must be at least 0, got -1$"):
        policy(0.1, 100)(-1)
