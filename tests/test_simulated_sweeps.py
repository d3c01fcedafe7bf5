"""Sweeps drawn with an effect that is known: how often the report's claims are right."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from hand_made import made_up
from onecycle_sweeps.report.claims import Claims, claims_of
from onecycle_sweeps.report.statistics import LEVEL, detectable_effect, paired_difference

SWEEPS, SEEDS = 1000, 4
POLICIES = ("constant", "step", "clr", "onecycle")
NOISE, OF_SEEDS = 0.004, 0.01
# How far a share of so many draws may stray from its probability: once in a thousand on either side.
RARE = 0.001


def simulated(effects: tuple[float, ...], draw: int) -> Iterator[Claims]:
    """Claims of sweeps whose policies are this much better than the first; a seed sways all policies alike."""
    random = np.random.default_rng(draw)
    for _ in range(SWEEPS):
        of_seeds = random.normal(0.9, OF_SEEDS, SEEDS)
        accuracies = of_seeds + np.array(effects)[:, None] + random.normal(0, NOISE, (len(POLICIES), SEEDS))
        rows = zip(POLICIES, accuracies.tolist(), strict=True)
        yield claims_of([made_up(policy, seed, value) for policy, row in rows for seed, value in enumerate(row)])


@pytest.mark.slow
def test_sweeps_without_an_effect_claim_one_in_at_most_five_of_a_hundred() -> None:
    sweeps = list(simulated((0.0, 0.0, 0.0, 0.0), draw=1))
    claimed = sum(any(" is " in claim.sentence for claim in claims.claims) for claims in sweeps)
    assert 0 < claimed <= stats.binom.ppf(1 - RARE, SWEEPS, LEVEL)


@pytest.mark.slow
def test_the_interval_of_a_difference_covers_it_in_at_least_ninety_five_of_a_hundred_sweeps() -> None:
    """Holm tests the smallest p at the strictest level, so an interval covers more often where nothing is found."""
    effects = (0.0, 0.0, 0.005, 0.02)
    sweeps = list(simulated(effects, draw=2))
    least = stats.binom.ppf(RARE, SWEEPS, 1 - LEVEL)
    for i, effect in enumerate(effects[1:]):
        found = [claims.claims[i].difference for claims in sweeps]
        covered = sum(d.low <= effect <= d.high for d in found if d and d.low is not None and d.high is not None)
        assert covered >= least


def tuned(ours: int, theirs: int, draw: int, *, held_out: bool = False) -> Iterator[Claims]:
    """Claims of sweeps in which two policies are equally good at each of so many rates.

    Where test images are held out, half of the noise of their accuracy is that of the training, which val has too.
    """
    random = np.random.default_rng(draw)
    for _ in range(SWEEPS):
        of_seeds = random.normal(0.9, OF_SEEDS, SEEDS)
        outcomes = []
        for policy, count in (("constant", theirs), ("onecycle", ours)):
            trained, val, test = random.normal(0, NOISE / np.sqrt(2), (3, count, SEEDS))
            accuracies, scores = of_seeds + trained + val, of_seeds + trained + test
            for rate, seed in np.ndindex(count, SEEDS):
                more = {"test_accuracy": float(scores[rate, seed])} if held_out else {}
                varies = {"max_lr": str(rate)}
                outcomes.append(made_up(policy, seed, float(accuracies[rate, seed]), varies, **more))
        yield claims_of(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_best_of_as_many_rates_is_falsely_called_better_at_most_as_often_as_is_promised(count: int) -> None:
    kinds = [claims.claims[0].kind for claims in tuned(count, count, draw=count)]
    assert 0 < kinds.count("better") <= stats.binom.ppf(1 - RARE, SWEEPS, LEVEL / 2)


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 5])
def test_the_best_of_more_rates_would_be_falsely_called_better_and_gets_no_verdict(count: int) -> None:
    sweeps = list(tuned(count, 1, draw=10 + count))
    assert {claims.claims[0].kind for claims in sweeps} == {"no verdict"}
    too_often = stats.binom.ppf(1 - RARE, SWEEPS, LEVEL / 2)
    assert sum(better_if_tested(draw=10 + count, count=count)) > too_often


def better_if_tested(draw: int, count: int) -> Iterator[bool]:
    """Whether the best of `count` equal rates passes the test against one, as if it had not been picked."""
    random = np.random.default_rng(draw)
    for _ in range(SWEEPS):
        rates, baseline = random.normal(0, NOISE, (count, SEEDS)), random.normal(0, NOISE, SEEDS)
        best = rates[rates.mean(axis=1).argmax()]
        one, other = ({str(seed): float(x) for seed, x in enumerate(row)} for row in (best, baseline))
        found = paired_difference(one, other)
        yield found.p is not None and found.p < LEVEL and found.mean > 0


@pytest.mark.slow
def test_a_policy_is_called_worse_only_where_it_is_not_better() -> None:
    sweeps = list(simulated((0.0, 0.0, 0.0, 0.02), draw=3))
    sentences = [claims.claims[2].sentence for claims in sweeps]
    assert not any("worse" in sentence for sentence in sentences)
    assert sum("onecycle is better than constant" in sentence for sentence in sentences) > SWEEPS / 2


def test_a_difference_that_is_called_detectable_is_found_in_eighty_of_a_hundred_samples() -> None:
    for seeds in (3, 5, 10):
        random = np.random.default_rng(seeds)
        differences = random.normal(detectable_effect(seeds), 1.0, (SWEEPS, seeds))
        zero = {str(seed): 0.0 for seed in range(seeds)}
        p_values = [paired_difference({str(s): float(x) for s, x in enumerate(row)}, zero).p for row in differences]
        found = sum(p is not None and p < LEVEL for p in p_values)
        assert stats.binom.ppf(RARE, SWEEPS, 0.8) <= found <= stats.binom.ppf(1 - RARE, SWEEPS, 0.8)
