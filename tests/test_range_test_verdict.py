"""The verdict of a range test, on made-up tests whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle_sweeps.range_test import curve, onset, smooth, suggestions, verdict

LRS = np.geomspace(1e-7, 10, 100).tolist()


def losses(noise: float = 0.0, seed: int = 0, diverges_at: float = 0.5) -> list[float]:
    """From 2.3 down to 0.7, steepest at 10^-2.5; from diverges_at on it rises by a factor e^4 a decade."""
    x = np.log10(LRS)
    over = np.maximum(x - math.log10(diverges_at), 0)
    falling = 2.3 - 1.6 / (1 + np.exp(-2.2 * (x + 2.5)))
    return (falling + np.expm1(4 * over) + np.random.default_rng(seed).normal(0, noise, 100)).tolist()


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_the_verdict_is_a_tenth_of_the_minimum_and_below_divergence(noise: float, seed: int) -> None:
    rate = verdict(LRS, losses(noise, seed))
    start = onset(LRS, losses(noise, seed))
    assert start is not None
    assert rate < start / 10
    assert 0.05 < rate < 0.08
    if noise <= 0.05:
        assert rate == suggestions(*curve(LRS, losses(noise, seed)))["minimum"]


def test_divergence_begins_where_half_of_the_descent_is_lost() -> None:
    # the descent is 2.3 to 0.7; 1.5 is passed where e^(4x)-1 = 0.8, x = 0.147 decades above 0.5
    assert onset(LRS, losses()) == pytest.approx(0.5 * 10**0.147, rel=0.2)


def test_a_test_that_never_diverges_has_no_onset_and_gives_a_tenth_of_its_last_rates() -> None:
    falling = losses(diverges_at=100)
    assert onset(LRS, falling) is None
    assert verdict(LRS, falling) == LRS[-6] / 10


def test_a_spike_from_which_training_recovers_is_no_divergence() -> None:
    spiked = losses(0.02)
    spiked[40:44] = [9.0] * 4
    assert onset(LRS, spiked) == onset(LRS, losses(0.02))
    assert verdict(LRS, spiked) == verdict(LRS, losses(0.02))


def test_one_lucky_loss_amid_divergence_does_not_put_it_off() -> None:
    lucky = losses()
    lucky[94] = 0.7
    assert onset(LRS, lucky) == onset(LRS, losses())


def test_the_noise_after_divergence_does_not_hide_the_descent_before_it() -> None:
    wild = [2.3] * 25 + [0.7] * 15 + np.random.default_rng(0).uniform(5, 50, 60).tolist()
    assert onset(LRS, wild) == LRS[40]
    assert verdict(LRS, wild) == LRS[39] / 10


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [65, 80, 99])
def test_divergence_begins_at_a_loss_that_is_not_finite(bad: float, at: int) -> None:
    broken = losses(diverges_at=100)
    broken[at] = bad
    assert onset(LRS, broken) == LRS[at]
    assert verdict(LRS, broken) == pytest.approx(LRS[min(at - 1, 94)] / 10)
    assert verdict(LRS[: at + 1], broken[: at + 1]) == pytest.approx(LRS[at - 5] / 10)


def test_the_lag_of_the_smoothing_does_not_carry_the_verdict_past_the_onset() -> None:
    # It learns at once at 60 and collapses to a plateau at 75, still below the smoothed curve: that falls to the end.
    collapsing = [2.3] * 60 + [0.05] * 15 + [1.5] * 25
    assert int(np.argmin(smooth(collapsing)[10:-5])) + 10 == 94
    assert onset(LRS, collapsing) == LRS[75]
    assert verdict(LRS, collapsing) == LRS[74] / 10


def test_early_noise_does_not_draw_the_verdict_down() -> None:
    lucky = losses(0.02)
    lucky[0], lucky[3] = 0.01, 0.3
    assert verdict(LRS, lucky) == verdict(LRS, losses(0.02))


def test_the_verdict_is_not_the_valley() -> None:
    assert verdict(LRS, losses()) > 20 * suggestions(*curve(LRS, losses()))["valley"]


@pytest.mark.parametrize(
    "flat",
    [
        [2.3] * 100,
        (2.3 + np.random.default_rng(0).normal(0, 0.2, 100)).tolist(),
        np.linspace(2.3, 2.29, 100).tolist(),
    ],
    ids=["constant", "noise", "half a percent"],
)
def test_a_flat_test_is_refused_with_what_to_do(flat: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must fall by more than 1 % .*range_test\.end_lr .*set max_lr yourself"):
        verdict(LRS, flat)


def test_a_test_that_rises_at_once_is_refused_with_what_to_do() -> None:
    rising = (2.3 * np.exp(np.arange(100) / 20)).tolist()
    with pytest.raises(ValueError, match=r"got 3\.02 and 3\.02 at best: .*lower range_test\.start_lr \(first 1e-07\)"):
        verdict(LRS, rising)


def test_a_test_that_breaks_within_its_first_steps_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"got 0 of 3 steps: it diverged too early, so lower range_test\.start_lr"):
        verdict(LRS[:3], [2.3, 90.0, math.nan])


def test_an_onset_can_be_at_the_first_step() -> None:
    assert onset(LRS[:2], [math.nan, 1.0]) == LRS[0]
    assert onset([], []) is None


@given(st.lists(st.floats(0, 1e30) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=120))
def test_any_losses_give_a_rate_within_the_test_or_a_refusal(raw: list[float]) -> None:
    lrs = np.geomspace(1e-7, 10, len(raw) + 1).tolist()[:-1]
    try:
        rate = verdict(lrs, raw)
    except ValueError as refusal:
        assert "set max_lr yourself" in str(refusal)
    else:
        assert lrs[0] / 10 < rate < (onset(lrs, raw) or math.inf)
