"""What holds for a policy whatever its settings."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onecycle_sweeps.policies import CLR, OneCycle, Wsd


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
