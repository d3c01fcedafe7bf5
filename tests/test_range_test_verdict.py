"""The verdict of a range test, on made-up tests whose truth is known."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle_sweeps.range_test import Judgement, OneSeed, judge, onset, peers

LRS = np.geomspace(1e-7, 10, 100).tolist()


def losses(noise: float = 0.0, seed: int = 0, diverges_at: float = 0.5) -> list[float]:
    """From 2.3 down to 0.7, steepest at 10^-2.5; from diverges_at on it rises by a factor e^4 a decade."""
    x = np.log10(LRS)
    over = np.maximum(x - math.log10(diverges_at), 0)
    falling = 2.3 - 1.6 / (1 + np.exp(-2.2 * (x + 2.5)))
    return (falling + np.expm1(4 * over) + np.random.default_rng(seed).normal(0, noise, 100)).tolist()


def verdict(losses: list[float], lrs: list[float] | None = None) -> Judgement:
    return judge([OneSeed((lrs or LRS)[: len(losses)], losses)])


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_the_verdict_is_half_way_between_the_lowest_loss_and_divergence_and_half_of_that(
    noise: float, seed: int
) -> None:
    found = verdict(losses(noise, seed))
    assert found.divergence is not None
    assert found.max_lr.rate == pytest.approx(math.sqrt(found.lowest.rate * found.divergence.rate) / 2)
    assert found.divergence.rate == onset(LRS, losses(noise, seed))
    # The loss is flat from about 0.1 on and turns at 0.5.
    assert 0.1 < found.max_lr.rate < 0.4
    assert found.max_lr.low <= found.max_lr.rate <= found.max_lr.high
    assert found.last_clear_descent < found.lowest.high


def test_divergence_begins_where_half_of_the_descent_is_lost() -> None:
    # the descent is 2.3 to 0.7; 1.5 is passed where e^(4x)-1 = 0.8, x = 0.147 decades above 0.5
    assert onset(LRS, losses()) == pytest.approx(0.5 * 10**0.147, rel=0.2)


def test_a_test_that_never_diverges_has_no_onset_and_is_ambiguous() -> None:
    falling = losses(diverges_at=100)
    assert onset(LRS, falling) is None
    found = verdict(falling)
    assert found.divergence is None
    assert found.doubts == ("not every seed diverged up to 10: raise range_test.end_lr",)
    assert found.max_lr.rate == pytest.approx(math.sqrt(found.lowest.rate * LRS[-1]) / 2)


def test_a_spike_from_which_training_recovers_is_not_a_divergence() -> None:
    spiked = losses(0.02)
    spiked[40:44] = [9.0] * 4
    assert onset(LRS, spiked) == onset(LRS, losses(0.02))
    assert verdict(spiked).max_lr.rate == pytest.approx(verdict(losses(0.02)).max_lr.rate, rel=0.5)


def test_one_lucky_loss_amid_divergence_does_not_put_it_off() -> None:
    lucky = losses()
    lucky[94] = 0.7
    assert onset(LRS, lucky) == onset(LRS, losses())


def test_the_noise_after_divergence_does_not_hide_the_descent_before_it() -> None:
    wild = [2.3] * 25 + [0.7] * 15 + np.random.default_rng(0).uniform(5, 50, 60).tolist()
    assert onset(LRS, wild) == LRS[40]
    found = verdict(wild)
    assert LRS[25] <= found.lowest.rate <= LRS[39]
    assert LRS[22] <= found.steepest.rate <= LRS[27]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [65, 80, 99])
def test_divergence_begins_at_a_loss_that_is_not_finite(bad: float, at: int) -> None:
    broken = losses(diverges_at=100)
    broken[at] = bad
    assert onset(LRS, broken) == LRS[at]
    found = verdict(broken)
    assert found.divergence is not None
    assert found.divergence.high == pytest.approx(LRS[at])
    assert found == verdict(broken[: at + 1])


def test_nothing_lags_behind_a_collapse() -> None:
    # It learns at once at 60 and collapses to a plateau at 75.
    collapsing = [2.3] * 60 + [0.05] * 15 + [1.5] * 25
    assert onset(LRS, collapsing) == LRS[75]
    assert LRS[58] <= verdict(collapsing).steepest.rate <= LRS[61]


def test_early_noise_does_not_draw_the_verdict_down() -> None:
    lucky = losses(0.02)
    lucky[0], lucky[3] = 0.01, 0.3
    assert verdict(lucky).max_lr.rate == pytest.approx(verdict(losses(0.02)).max_lr.rate, rel=0.5)


def test_seeds_that_disagree_make_a_verdict_ambiguous_and_a_grid_covers_them() -> None:
    early = [*losses(0.02)[20:], *[50.0] * 20]
    found = judge([OneSeed(LRS, losses(0.02)), OneSeed(LRS, early)])
    assert found.word == "ambiguous"
    assert any("max_lr" in doubt and "factor of 4" in doubt for doubt in found.doubts)
    alone = [verdict(losses(0.02)).max_lr.rate, verdict(early).max_lr.rate]
    assert found.grid[0] < min(alone) < max(alone) < found.grid[-1]
    assert verdict(losses(0.02)).word == verdict(early).word == "confident"


def test_a_verdict_is_the_same_each_time() -> None:
    assert verdict(losses(0.1)) == verdict(losses(0.1))


def test_the_units_of_the_loss_do_not_count() -> None:
    one, other = verdict(losses(0.05)), verdict([1000 * loss for loss in losses(0.05)])
    assert other.max_lr.rate == pytest.approx(one.max_lr.rate, rel=1e-6)
    assert other.steepest.high == pytest.approx(one.steepest.high, rel=1e-6)


@pytest.mark.parametrize(
    "flat",
    [
        [2.3] * 100,
        np.linspace(2.3, 2.29, 100).tolist(),
    ],
    ids=["constant", "half a percent"],
)
def test_a_flat_test_is_refused_with_what_to_do(flat: list[float]) -> None:
    with pytest.raises(ValueError, match=r"\b1 %.*range_test\.end_lr .*max_lr yourself"):
        verdict(flat)


def readings(fall: float, noise: float, diverges_at: float = 0.5) -> list[Judgement | None]:
    """The verdicts on 20 tests whose loss falls by `fall` around 0.01 before it diverges; None where refused."""
    lrs = np.geomspace(1e-5, 10, 200)
    x = np.log10(lrs)
    over = np.maximum(x - math.log10(diverges_at), 0)
    curve = 3.2 - fall / (1 + np.exp(-2.2 * (x + 2))) + np.expm1(4 * over)
    found: list[Judgement | None] = []
    for seed in range(20):
        noisy = curve + np.random.default_rng(seed).normal(0, noise, 200)
        try:
            found.append(judge([OneSeed(lrs.tolist(), noisy.tolist())]))
        except ValueError as error:
            assert "must clearly fall" in str(error)
            found.append(None)
    return found


@pytest.mark.slow
def test_a_fall_within_the_noise_of_one_loss_is_read_and_never_trusted() -> None:
    (clear, *_), noisy = readings(0.4, 0.0), [one for one in readings(0.4, 0.5) if one]
    assert clear is not None and clear.word == "confident"
    assert len(noisy) == 20
    assert {one.word for one in noisy} == {"ambiguous"}
    assert np.median([one.max_lr.rate for one in noisy]) == pytest.approx(clear.max_lr.rate, rel=0.5)


@pytest.mark.slow
def test_of_a_test_that_is_all_noise_the_divergence_is_read_and_never_trusted() -> None:
    noisy = [one for one in readings(0.0, 0.3) if one]
    assert len(noisy) == 20
    for one in noisy:
        assert one.word == "ambiguous" and any("noise of one loss" in doubt for doubt in one.doubts)
    assert np.median([one.max_lr.rate for one in noisy]) == pytest.approx(0.5 / 8, rel=0.5)


def test_a_loss_that_clearly_only_rises_is_refused_with_what_to_do() -> None:
    rise = np.expm1(np.maximum(np.arange(100) - 40, 0) / 20)
    for seed in range(5):
        rising = (2.3 + rise + np.random.default_rng(seed).normal(0, 0.005, 100)).tolist()
        with pytest.raises(ValueError, match=r"rose at once, lower range_test\.start_lr"):
            verdict(rising)


@pytest.mark.slow
def test_noise_without_a_fall_and_a_divergence_is_mostly_refused_and_never_trusted() -> None:
    by_chance = [one for one in readings(0.0, 0.3, diverges_at=100) if one]
    assert len(by_chance) <= 5
    assert {one.word for one in by_chance} <= {"ambiguous"}


def test_a_test_that_rises_at_once_is_refused_with_what_to_do() -> None:
    rising = (2.3 * np.exp(np.arange(100) / 20)).tolist()
    with pytest.raises(ValueError, match=r"got 3: lower range_test\.start_lr.* or set max_lr yourself"):
        verdict(rising)


def test_a_test_that_breaks_within_its_first_steps_is_refused_with_what_to_do() -> None:
    advice = r"lower range_test\.start_lr and, in mode linear, range_test\.end_lr; raise"
    with pytest.raises(ValueError, match=rf"at least 16 steps before it diverges, got [01]: {advice}"):
        verdict([2.3, 90.0, math.nan])


def test_an_onset_can_be_at_the_first_step() -> None:
    assert onset(LRS[:2], [math.nan, 1.0]) == LRS[0]
    assert onset([], []) is None


@pytest.mark.slow
@given(st.lists(st.floats(0, 1e30) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=120))
def test_any_losses_give_a_rate_within_the_test_or_a_refusal(raw: list[float]) -> None:
    lrs = np.geomspace(1e-7, 10, len(raw) + 1).tolist()[:-1]
    try:
        found = verdict(raw, lrs)
    except ValueError as refusal:
        assert "set max_lr yourself" in str(refusal)
    else:
        assert lrs[0] / 2 <= found.max_lr.low <= found.max_lr.rate <= found.max_lr.high < (onset(lrs, raw) or 10)


def test_a_spike_does_not_bend_the_fit() -> None:
    spiked = losses(0.02)
    spiked[60] = 100.0
    one, other = verdict(spiked), verdict(losses(0.02))
    assert other.steepest.rate / 2 < one.steepest.rate < 2 * other.steepest.rate
    assert one.lowest_loss == pytest.approx(other.lowest_loss, rel=0.1)
    assert one.max_lr.rate == pytest.approx(other.max_lr.rate, rel=0.2)


def test_a_rule_of_a_peer_that_finds_a_test_too_short_is_left_out() -> None:
    short = [2 * math.exp(-i / 8) + 0.2 for i in range(30)] + [math.nan]
    assert verdict(short).max_lr.rate > 0
    assert not {"valley", "minimum"} & peers(LRS[:31], short, total_steps=200).keys()


def test_an_accuracy_that_rises_to_the_end_of_a_ramp_is_no_confident_verdict() -> None:
    lrs = np.linspace(0.001, 3, 200).tolist()
    falling = np.linspace(2.3, 0.5, 200).tolist()
    rising = OneSeed(lrs, falling, lrs[9::10], np.linspace(0.1, 0.9, 20).tolist())
    assert any(
        "val accuracy may improve beyond 3: raise range_test.end_lr" in doubt for doubt in judge([rising]).doubts
    )
    early = OneSeed(lrs, falling, lrs[9::10], [0.1, 0.5, 0.8, *[0.9] * 17])
    assert not any("val accuracy" in doubt for doubt in judge([early]).doubts)
    assert not any("first evaluation" in doubt for doubt in judge([early]).doubts)
    before = np.interp(lrs, [0, 0.1, 3], [2.3, 0.6, 0.5]).tolist()
    (doubt,) = (one for one in judge([replace(early, losses=before)]).doubts if "first evaluation" in one)
    assert re.fullmatch(r"\d\d % of the descent .* first evaluation, at 0\.14: lower range_test\.end_lr", doubt)
    with pytest.raises(ValueError, match=r"at least 6 times before it diverges, got 4: lower range_test\.end_lr"):
        judge([OneSeed(lrs, falling, lrs[9:40:10], [0.1, 0.2, 0.3, 0.4])])
