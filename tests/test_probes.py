"""The search for a policy's rate by short trainings, on made-up trainings whose best rate is known."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle_sweeps.policies import CLR, Constant, Cosine, Linear, OneCycle, Policy, Step, Wsd, near_peak
from onecycle_sweeps.range_test import probes
from onecycle_sweeps.range_test.probes import Found, Probe, Probed
from onecycle_sweeps.range_test.verdict import Reading
from onecycle_sweeps.trial.probing import run_search

UNTRAINED, STEPS, BUDGET = 3.0, 2000, 900


def bowl(best: float, *, stable: float = math.inf, rise: float = 0.1) -> Callable[[Probe], float]:
    """Scores that are 1 at the best rate, and more by `rise` an octave beside it; infinite from `stable` on."""
    return lambda probe: math.inf if probe.rate >= stable else 1 + rise * math.log2(probe.rate / best) ** 2


def find(score: Callable[[Probe], float], start: float, *, budget: int = BUDGET, doubts: tuple[str, ...] = ()) -> Found:
    """What the search finds from a range test's rate `start`."""
    search = probes.search(Reading(start, start / 1.2, start * 1.2), STEPS, budget, UNTRAINED, doubts)
    return run_search(search, lambda probe: Probed(probe.rate, probe.steps, probe.seed, score(probe), probe.steps))


@given(st.floats(-0.9, 0.9), st.floats(-5, 1))
def test_where_both_witnesses_agree_the_rate_is_between_them_and_confident(octaves: float, decades: float):
    best = 10**decades
    found = find(bowl(best), best * 2**octaves)
    assert found.word == "confident"
    low, high = sorted((best, best * 2**octaves))
    assert low / 1.01 <= found.max_lr.rate <= high * 1.01
    assert found.max_lr.low <= found.max_lr.rate <= found.max_lr.high


@given(st.floats(1.5, 5.2))
def test_a_range_test_that_is_far_too_high_is_overruled_and_the_verdict_ambiguous(octaves: float):
    found = find(bowl(0.01), 0.01 * 2**octaves)
    assert found.word == "ambiguous"
    assert found.max_lr.rate == pytest.approx(0.01, rel=0.01)
    assert found.grid[0] < 0.01 < found.grid[-1]


@pytest.mark.parametrize(
    ("steps", "ramp", "lost", "word"),
    [
        *((200, 100, 9, "ambiguous"), (299, 200, 9, "ambiguous"), (300, 200, 9, "confident")),
        *((400, 400, 9, "ambiguous"), (400, 400, 2, "confident"), (300, 200, 11, "ambiguous")),
    ],
)
def test_trainings_that_are_longer_than_a_range_test_outweigh_it_where_they_ask_for_less(
    steps: int, ramp: int, lost: int, word: str
):
    # Four octaves below the range test's rate, at which `lost` per cent of the way are lost.
    best, rise = 0.3 / 16, lost / 100 * (UNTRAINED - 1) / 16
    low = probes.search(Reading(0.3, 0.25, 0.36), 6000, 7 * steps, UNTRAINED, ("not every seed diverged",), ramp=ramp)
    score = bowl(best, rise=rise)
    found = run_search(low, lambda one: Probed(one.rate, one.steps, one.seed, score(one), one.steps))
    assert max(one.steps for one in found.probed) == steps
    assert (found.max_lr.rate, found.word) == (pytest.approx(best, rel=0.01), word)


def test_trainings_of_any_length_that_ask_for_more_than_the_range_test_are_ambiguous():
    high = probes.search(Reading(0.3, 0.25, 0.36), 6000, 2800, UNTRAINED, ())
    found = run_search(high, lambda one: Probed(one.rate, one.steps, one.seed, bowl(2)(one), one.steps))
    assert (found.max_lr.rate, found.word) == (0.3, "ambiguous")


def test_a_doubt_of_the_range_test_is_settled_by_trainings_that_agree_with_it():
    assert find(bowl(0.1), 0.1, doubts=("not every seed diverged",)).word == "confident"


def test_a_best_rate_at_the_end_of_those_that_were_tried_is_ambiguous():
    found = find(lambda probe: 1 + 0.01 * math.log10(probe.rate / 1e-9), 0.1)
    assert "lowest" in found.doubts[0]


def test_rates_that_diverge_are_not_found():
    found = find(bowl(0.05, stable=0.06), 0.05)
    assert found.max_lr.rate < 0.06
    assert math.isinf(max(one.score for one in found.probed))


def test_at_the_edge_of_stability_the_range_tests_rate_is_kept_unless_it_is_in_doubt_itself():
    sure = find(bowl(0.1, stable=0.15), 0.1)
    assert (sure.max_lr.rate, sure.word) == (0.1, "confident")
    unsure = find(bowl(0.1, stable=0.15), 0.1, doubts=("the net memorises",))
    assert (unsure.max_lr.rate, unsure.doubts) == (0.05, ("the net memorises",))
    assert unsure.max_lr.low <= unsure.max_lr.rate <= unsure.max_lr.high < 0.15


def test_where_all_first_trainings_diverge_lower_rates_are_tried():
    found = find(bowl(0.001, stable=0.002), 0.1)
    assert found.max_lr.rate < 0.002
    assert found.word == "ambiguous"


def test_where_no_training_beats_the_untrained_net_the_rate_is_ambiguous_and_the_one_that_did_least_harm():
    for best in (0.3, 0.03):
        found = find(lambda probe, best=best: UNTRAINED + bowl(best)(probe), 0.3)
        assert found.max_lr.rate == pytest.approx(best, rel=0.5)
        assert found.word == "ambiguous"
        assert found.max_lr.low <= found.max_lr.rate <= found.max_lr.high
    assert find(lambda probe: UNTRAINED + bowl(3)(probe), 0.3).max_lr.rate == 0.3
    diverging = find(lambda _: math.inf, 0.3)
    assert diverging.max_lr.rate == min(one.rate for one in diverging.probed)
    assert diverging.word == "ambiguous"


@given(st.integers(0, 5000), st.floats(-4, 4))
def test_the_budget_is_kept_and_no_training_is_too_short(budget: int, octaves: float):
    found = find(bowl(0.1), 0.1 * 2**octaves, budget=budget)
    assert sum(one.steps for one in found.probed) <= budget
    assert all(one.steps >= probes.FEWEST for one in found.probed)
    assert bool(found.probed) is (probes.lengths(budget, STEPS) is not None)


@pytest.mark.parametrize(("slope", "word"), [(0.003, "confident"), (0.05, "ambiguous")])
def test_far_apart_the_lower_one_is_confident_if_the_range_tests_rate_is_as_good(slope: float, word: str):
    def flat(probe: Probe) -> float:
        return 1 + slope * abs(math.log2(probe.rate / 0.02)) + (2 if probe.rate > 0.1 else 0)

    found = find(flat, 0.08)
    assert found.word == word
    assert found.max_lr.rate == pytest.approx(0.02, rel=0.01)
    assert found.max_lr.low <= found.max_lr.rate <= found.max_lr.high


MEMORISING = [(1.0, 0, "confident"), (0.8, 0, "confident"), (0.6, 0, "ambiguous"), (None, 0, "confident")]


@pytest.mark.parametrize(
    ("trained", "epoch", "word"),
    # Within an epoch no sample comes twice, so the samples of val are just harder.
    [*MEMORISING, (0.6, 100, "ambiguous"), (0.6, 200, "confident")],
)
def test_a_net_that_memorises_makes_the_verdict_ambiguous(trained: float | None, epoch: int, word: str):
    search = probes.search(Reading(0.1, 0.09, 0.11), STEPS, BUDGET, UNTRAINED, (), epoch=epoch)
    score = bowl(0.1)
    found = run_search(search, lambda one: Probed(one.rate, one.steps, one.seed, score(one), one.steps, trained))
    assert {one.steps for one in found.probed} == {64, 128}
    assert found.word == word


@pytest.mark.parametrize(
    ("learnt", "word"), [(-0.02, "ambiguous"), (0.04, "ambiguous"), (0.2, "confident"), (None, "confident")]
)
def test_trainings_that_hardly_come_beyond_chance_make_the_verdict_ambiguous(learnt: float | None, word: str):
    search = probes.search(Reading(0.1, 0.09, 0.11), STEPS, BUDGET, UNTRAINED, ())
    score = bowl(0.1)
    found = run_search(search, lambda one: Probed(one.rate, one.steps, one.seed, score(one), one.steps, None, learnt))
    assert found.word == word


@pytest.mark.parametrize("untrained", [math.inf, math.nan])
def test_an_untrained_net_without_a_score_leaves_the_rate_ambiguous(untrained: float):
    search = probes.search(Reading(0.1, 0.09, 0.11), STEPS, BUDGET, untrained, ())
    found = run_search(search, lambda one: Probed(one.rate, one.steps, one.seed, bowl(0.1)(one), one.steps))
    assert found.max_lr.rate == pytest.approx(0.1, rel=0.5)
    assert found.word == "ambiguous"


@pytest.mark.parametrize(
    ("policy", "is_lowered"),
    [
        (OneCycle(1.0, 300), False),
        (CLR(1.0, 300), False),
        (Cosine(1.0, 300), False),
        (Linear(1.0, 300), False),
        (Step(1.0, 300), True),
        (Wsd(1.0, 300), True),
        (Constant(1.0, 300), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_policy_that_stays_near_its_peak_gets_half_of_the_rate(policy: Policy, is_lowered: bool):
    search = probes.search(Reading(0.1, 0.09, 0.11), STEPS, BUDGET, UNTRAINED, (), near_peak(policy))
    found = run_search(search, lambda one: Probed(one.rate, one.steps, one.seed, bowl(0.1)(one), one.steps))
    assert found.is_lowered is is_lowered
    assert found.max_lr.rate == pytest.approx(0.05 if is_lowered else 0.1)
    assert found.max_lr.low <= found.max_lr.rate <= found.max_lr.high
    assert found.word == "confident"


@pytest.mark.parametrize(
    ("start", "near_peak", "expected"),
    [
        (0.1, 0.0, 0.05),
        # Not halved twice.
        (0.1, 1.0, 0.05),
        # Far apart, the rate of the short trainings is taken as it is.
        (1.0, 0.0, 0.1),
    ],
)
def test_an_adaptive_optimizer_gets_half_of_the_rate_on_which_both_agree(
    start: float, near_peak: float, expected: float
):
    reading = Reading(start, start / 1.2, start * 1.2)
    search = probes.search(reading, STEPS, BUDGET, UNTRAINED, (), near_peak, adaptive=True)
    found = run_search(search, lambda one: Probed(one.rate, one.steps, one.seed, bowl(0.1)(one), one.steps))
    assert found.max_lr.rate == pytest.approx(expected, rel=0.05)
    assert found.is_lowered is found.agrees


def test_a_rate_far_above_the_range_tests_is_not_taken():
    found = find(bowl(0.4), 0.1)
    assert (found.max_lr.rate, found.word) == (0.1, "ambiguous")
    assert found.max_lr.low <= 0.1 <= 0.4 <= found.max_lr.high


def test_without_steps_for_short_trainings_the_range_tests_verdict_is_passed_on():
    for doubts in ((), ("the interval is wide",)):
        found = find(bowl(0.1), 0.4, budget=100, doubts=doubts)
        assert (found.max_lr.rate, found.max_lr.low, found.doubts) == (0.4, 0.4 / 1.2, doubts)


def test_the_last_trainings_have_another_seed_and_no_rate_and_length_is_trained_twice():
    probed = find(bowl(0.1), 0.1).probed
    by_steps = {one.steps: one.seed for one in probed}
    assert len(by_steps) == len(set(by_steps.values())) == 2
    assert len({(one.rate, one.steps) for one in probed}) == len(probed)
