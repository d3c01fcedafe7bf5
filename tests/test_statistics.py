import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onecycle_sweeps.report.statistics import (
    LEVEL,
    Arrival,
    Difference,
    detectable_effect,
    end_slope,
    holm,
    holm_levels,
    independent_difference,
    independent_speed_up,
    paired_difference,
    speed_up,
)

SAMPLES = st.lists(st.tuples(*[st.floats(0.1, 1.0)] * 2), min_size=2, max_size=12)
P_VALUES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8)


def keyed(values):
    return {str(i): value for i, value in enumerate(values)}


def arrivals(steps, budget=100):
    """When each seed came to a target, None for one that did not within its budget."""
    return keyed(Arrival(budget, False) if one is None else Arrival(one, True) for one in steps)


@given(SAMPLES)
def test_a_paired_difference_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    found = paired_difference(keyed(a), keyed(b))
    if found.p is None or found.low is None or found.high is None:
        assert max(x - y for x, y in pairs) - min(x - y for x, y in pairs) < 1e-6, "equal but for rounding"
        return
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    # The two sum in another order, which shows where differences are large beside their spread.
    assert found.mean == pytest.approx(sum(a) / len(a) - sum(b) / len(b), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-9)
    assert found.low < found.mean < found.high and found.pairs == len(pairs)


@given(SAMPLES)
def test_exchanging_the_sides_changes_only_the_sign(pairs: list[tuple[float, float]]) -> None:
    a, b = map(keyed, zip(*pairs, strict=True))
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.mean, one.p, one.detectable) == (-other.mean, other.p, other.detectable)
    assert one.low is None or one.low == -(other.high or 0.0)


def test_pairs_are_made_by_key_and_not_by_place() -> None:
    assert paired_difference({"1": 0.9, "0": 0.5}, {"0": 0.4, "1": 0.7}).mean == pytest.approx(0.15)
    with pytest.raises(ValueError, match=r"same keys.*\['0'\].*\['1'\]"):
        paired_difference({"0": 0.5}, {"1": 0.5})
    with pytest.raises(ValueError, match="same keys"):
        speed_up({}, {})


def test_one_pair_has_a_difference_and_no_interval() -> None:
    assert paired_difference({"0": 0.75}, {"0": 0.5}) == Difference(0.25, None, None, None, 1, None, relative=0.5)


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02])
def test_equal_differences_have_no_p_value_even_where_rounding_makes_them_unequal(shift: float) -> None:
    values = (0.93, 0.92, 0.91, 0.1)
    found = paired_difference(keyed(values), keyed([value - shift for value in values]))
    assert found.mean == pytest.approx(shift) and found.pairs == 4
    assert found.low is found.high is found.p is found.detectable is None


# statsmodels 0.15.0 with scipy 1.17.1: statsmodels.stats.power.TTestPower().solve_power(effect_size=None, nobs=n,
# alpha=0.05, power=0.8, alternative="two-sided").
@pytest.mark.parametrize(
    ("pairs", "effect"),
    [(2, 11.54989), (3, 3.2640436), (4, 2.1279493), (5, 1.6819971), (10, 0.9960019), (30, 0.5292357)],
)
def test_the_detectable_effect_is_that_of_statsmodels(pairs: int, effect: float) -> None:
    assert detectable_effect(pairs) == pytest.approx(effect, rel=1e-5)


def test_the_detectable_difference_is_the_effect_times_the_spread_of_the_differences() -> None:
    found = paired_difference(keyed([0.8, 0.9, 1.0]), keyed([0.5, 0.5, 0.5]))
    assert found.detectable == pytest.approx(0.1 * 3.2640436)


def test_more_pairs_detect_less_and_one_pair_detects_nothing() -> None:
    effects = [detectable_effect(pairs) for pairs in (*range(2, 60), 1000)]
    assert all(more < fewer for fewer, more in itertools.pairwise(effects))
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        detectable_effect(1)


# statsmodels 0.15.0: statsmodels.stats.multitest.multipletests(p, method="holm")[1].
@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5], [0.5]),
        ([0.02, 0.02, 0.9], [0.06, 0.06, 0.9]),
        ([0.0001, 0.2, 0.013, 0.013, 0.4], [0.0005, 0.4, 0.052, 0.052, 0.4]),
    ],
)
def test_adjusted_p_values_are_those_of_statsmodels(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_an_empty_list_of_p_values_stays_empty() -> None:
    assert holm([]) == []


@given(P_VALUES)
def test_an_adjustment_raises_p_values_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1.0 for p, q in zip(p_values, adjusted, strict=True))
    ordered = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert ordered == sorted(ordered)


@given(P_VALUES, st.floats(0.001, 0.5))
def test_an_adjusted_p_value_rejects_what_the_stepwise_test_rejects(p_values: list[float], level: float) -> None:
    rejected = 0
    for p in sorted(p_values):
        if (len(p_values) - rejected) * p > level:
            break
        rejected += 1
    assert sum(q <= level for q in holm(p_values)) == rejected


@pytest.mark.parametrize("pairs", [2, 3, 5, 10])
@pytest.mark.parametrize("comparisons", [2, 3, 50])
def test_at_a_stricter_level_the_detectable_effect_has_eighty_percent_power_too(pairs: int, comparisons: int) -> None:
    level = LEVEL / comparisons
    shift = detectable_effect(pairs, level) * math.sqrt(pairs)
    power = stats.nct.sf(stats.t.ppf(1 - level / 2, pairs - 1), pairs - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert detectable_effect(pairs, level) > detectable_effect(pairs)


@pytest.mark.slow
@given(st.lists(SAMPLES, min_size=1, max_size=6))
def test_an_interval_at_holms_level_leaves_out_zero_exactly_where_the_adjusted_p_is_below_the_level(
    samples: list[list[tuple[float, float]]],
) -> None:
    sides = [(keyed(one for one, _ in pairs), keyed(other for _, other in pairs)) for pairs in samples]
    tested = [(one, other) for one, other in sides if paired_difference(one, other).p is not None]
    p_values = [p for one, other in tested if (p := paired_difference(one, other).p) is not None]
    for (one, other), adjusted, level in zip(tested, holm(p_values), holm_levels(p_values), strict=True):
        found = paired_difference(one, other, level)
        assert found.low is not None and found.high is not None and found.detectable is not None
        assert (found.low > 0 or found.high < 0) == (adjusted < LEVEL)
        assert level <= LEVEL
        # What was seen and was not enough is never more than what would have been.
        assert adjusted < LEVEL or abs(found.mean) < found.detectable


@pytest.mark.parametrize(
    ("p_values", "levels"),
    [
        ([0.01], [0.05]),
        ([0.6], [0.05]),
        ([0.04, 0.01, 0.02], [0.05, 0.05 / 3, 0.025]),
        # 0.02 is not below 0.05 / 3, so the test ends there, and 0.024 stays at that level.
        ([0.02, 0.024, 0.5], [0.05 / 3] * 3),
        ([], []),
    ],
)
def test_the_levels_are_those_of_the_stepwise_test(p_values: list[float], levels: list[float]) -> None:
    assert holm_levels(p_values) == pytest.approx(levels)


def test_a_speed_up_is_the_geometric_mean_of_the_ratios_of_steps() -> None:
    found = speed_up(arrivals([10, 20, 40]), arrivals([20, 80, 80]))
    assert (found.pairs, found.missed_baseline, found.missed, found.bound) == (3, 0, 0, None)
    assert found.ratio == pytest.approx((2 * 4 * 2) ** (1 / 3))
    interval = stats.ttest_1samp([math.log(2), math.log(4), math.log(2)], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


def test_a_seed_that_never_reached_the_target_counts_with_all_its_steps_and_makes_a_bound() -> None:
    late = speed_up(arrivals([10, 20]), arrivals([40, None]))
    assert late.ratio == pytest.approx((4 * 5) ** 0.5) and late.low is late.high is None
    assert (late.bound, late.pairs, late.missed_baseline, late.missed) == ("at least", 2, 1, 0)
    never = speed_up(arrivals([10, None]), arrivals([40, 50]))
    assert never.ratio == pytest.approx((4 * 0.5) ** 0.5)
    assert (never.bound, never.pairs, never.missed_baseline, never.missed) == ("at most", 2, 0, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "missed"),
    [([10, None, 30, 20], [20, 30, None, None], (2, 1)), ([10, None], [None, None], (2, 1))],
)
def test_where_both_sides_missed_the_target_there_is_no_speed_up(ours, theirs, missed) -> None:
    found = speed_up(arrivals(ours), arrivals(theirs))
    assert found.ratio is found.low is found.high is found.bound is None
    assert (found.missed_baseline, found.missed) == missed and found.pairs == len(ours)


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=6),
    st.integers(50, 400),
    st.sampled_from([0, 1]),
)
def test_a_bound_holds_whenever_the_target_would_have_been_reached(
    steps: list[tuple[int, int]], budget: int, cut: int
) -> None:
    """The whole runs against the same ones of which one side was cut at a budget."""
    whole = [keyed(Arrival(pair[side], True) for pair in steps) for side in (0, 1)]
    seen = list(whole)
    seen[cut] = {key: one if one.steps <= budget else Arrival(budget, False) for key, one in whole[cut].items()}
    true, found = speed_up(*whole).ratio, speed_up(*seen)
    assert true is not None and found.ratio is not None
    if found.bound is None:
        assert found.ratio == pytest.approx(true)
    else:
        assert found.bound == ("at most", "at least")[cut]
        assert found.ratio <= true * (1 + 1e-9) if cut else found.ratio >= true * (1 - 1e-9)


def test_equal_ratios_are_a_speed_up_without_an_interval() -> None:
    found = speed_up(arrivals([10, 30, 50]), arrivals([20, 60, 100]))
    assert found.ratio == pytest.approx(2.0) and found.low is found.high is None and found.pairs == 3


def noisy_lines(drawn: random.Random, curves: int, slope: float) -> list[list[tuple[float, float]]]:
    """Curves that fall steeply and end in a line over their last tenth, each with a slope of its own and noise."""
    made = []
    for _ in range(curves):
        own = slope + drawn.gauss(0, 0.1)
        start = [(float(step), 500.0 - step) for step in range(0, 90, 5)]
        made.append([*start, *((float(step), own * step + drawn.gauss(0, 0.1)) for step in range(90, 101))])
    return made


def test_the_slope_at_the_end_is_that_of_the_last_tenth() -> None:
    curves = noisy_lines(random.Random(0), 5, -1.0)
    found = end_slope(curves)
    assert found
    fits: list[Any] = [stats.linregress([x for x, _ in one[-11:]], [y for _, y in one[-11:]]) for one in curves]
    lines = [fit.slope for fit in fits]
    expected: Any = stats.ttest_1samp(lines, 0.0)
    assert (found.mean, found.p) == pytest.approx((sum(lines) / 5, expected.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (found.curves, found.span) == (5, 10.0)


@pytest.mark.slow
@pytest.mark.parametrize("curves", [1, 4])
def test_the_interval_of_a_slope_covers_it_as_often_as_promised(curves: int) -> None:
    drawn, covered = random.Random(1), 0
    for _ in range(400):
        made = noisy_lines(drawn, curves, 0.0) if curves > 1 else [[(x, drawn.gauss(0, 1)) for x in range(12)]]
        found = end_slope(made)
        assert found and found.low is not None and found.high is not None and found.p is not None
        assert (found.low <= 0 <= found.high) == (found.p >= LEVEL)
        covered += found.low <= 0 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_a_slope_needs_three_points() -> None:
    assert end_slope([[], [(1.0, 2.0), (2.0, 1.0)]]) is None
    found = end_slope([[(0.0, 3.0), (10.0, 2.0), (20.0, 1.0)], []])
    assert found and (found.mean, found.p, found.span) == (pytest.approx(-0.1), None, 20.0)


def test_a_speed_up_of_independent_runs_is_that_of_welchs_test_on_logarithms() -> None:
    ours, theirs = [20, 25, 22, 30], [40, 55, 47]
    found = independent_speed_up([Arrival(x, True) for x in ours], [Arrival(x, True) for x in theirs])
    expected: Any = stats.ttest_ind([math.log(x) for x in theirs], [math.log(x) for x in ours], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    bound = independent_speed_up([Arrival(x, True) for x in ours], [Arrival(60, False), Arrival(40, True)])
    assert (bound.bound, bound.missed_baseline, bound.low) == ("at least", 1, None)


def through_float32(value: float) -> float:
    return float(np.float32(value))


@given(
    st.integers(100, 5000),
    st.integers(1, 99),
    st.integers(-20, 20),
    st.integers(2, 8),
    st.sampled_from([1.0, 1e-6, 3e7]),
)
def test_equal_differences_are_equal_also_after_float32(
    samples: int, right: int, more: int, seeds: int, size: float
) -> None:
    counts = [max(right, 21) + seed for seed in range(seeds)]
    ours = [through_float32(size * (count + more) / samples) for count in counts]
    theirs = [through_float32(size * count / samples) for count in counts]
    found = paired_difference(keyed(ours), keyed(theirs))
    assert (found.low, found.high, found.p, found.detectable) == (None, None, None, None)
    assert found.mean == pytest.approx(size * more / samples, abs=1e-6 * size) and bool(found.mean) == bool(more)


def test_independent_runs_that_are_equal_but_for_float32_show_no_difference() -> None:
    ours, theirs = [through_float32(0.815), 0.815, 0.815], [0.84, through_float32(0.84), 0.84]
    assert independent_difference(ours, theirs).p is None
    same = independent_difference(ours, [0.815] * 3)
    assert same.p is None and same.mean == 0


def test_one_sample_of_a_million_is_a_difference() -> None:
    base = [0.5, 0.500003, 0.499998]
    values = [one + more * 1e-6 for one, more in zip(base, (2, 3, 2), strict=True)]
    assert (paired_difference(keyed(values), keyed(base)).p or 1) < LEVEL
    assert independent_difference(values, base).p is not None


def test_the_slope_of_a_curve_that_is_flat_but_for_float32_is_no_slope() -> None:
    flat = [(step, 0.8 if step % 2 else through_float32(0.8)) for step in range(30)]
    found = end_slope([flat])
    assert found is not None and found.mean == 0 and found.p is None
    rising = end_slope([[(step, through_float32(0.8 + 0.001 * step)) for step in range(30)]])
    assert rising is not None and rising.p is None and rising.mean == pytest.approx(0.001, rel=1e-3)
    noisy = end_slope([[(step, 0.8 + 0.001 * step + 1e-5 * (-1) ** step) for step in range(100)]])
    assert noisy is not None and noisy.p is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_makes_no_difference_and_no_test(bad: float) -> None:
    paired = paired_difference({"0": 0.5, "1": bad}, {"0": 0.4, "1": 0.4})
    for found in (paired, independent_difference([0.5, bad], [0.4, 0.4])):
        assert math.isnan(found.mean) and found.p is None and found.low is None
