"""Sweeps drawn with an effect that is known: how often the report's claims are right."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats

from hand_made import entry
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.report.claims import Claims, claims_of
from onecycle_sweeps.report.outcomes import Outcome, Series
from onecycle_sweeps.report.statistics import LEVEL, detectable_effect, paired_difference

SWEEPS, SEEDS = 2000, 4
POLICIES = ("constant", "step", "clr", "onecycle")
NOISE, OF_SEEDS = 0.004, 0.01
# How far a share of so many draws may stray from its probability: once in a thousand on either side.
RARE = 0.001
NO_SERIES = Series((), ())


def outcome(policy: str, seed: int, accuracy: float) -> Outcome:
    signature, metrics = f"{policy}{seed}", {"final/val_accuracy": accuracy}
    return Outcome(
        entry(signature, policy, seed),
        TrialFolder(Path(signature)),
        "finished",
        None,
        1,
        {"metrics": metrics},
        {},
        NO_SERIES,
        NO_SERIES,
    )


def simulated(effects: tuple[float, ...], draw: int) -> Iterator[Claims]:
    """Claims of sweeps whose policies are this much better than the first; a seed sways all policies alike."""
    random = np.random.default_rng(draw)
    for _ in range(SWEEPS):
        of_seeds = random.normal(0.9, OF_SEEDS, SEEDS)
        accuracies = of_seeds + np.array(effects)[:, None] + random.normal(0, NOISE, (len(POLICIES), SEEDS))
        rows = zip(POLICIES, accuracies.tolist(), strict=True)
        yield claims_of([outcome(policy, seed, value) for policy, row in rows for seed, value in enumerate(row)])


def test_sweeps_without_an_effect_claim_one_in_at_most_five_of_a_hundred() -> None:
    sweeps = list(simulated((0.0, 0.0, 0.0, 0.0), draw=1))
    claimed = sum(any(" is " in claim.sentence for claim in claims.claims) for claims in sweeps)
    assert 0 < claimed <= stats.binom.ppf(1 - RARE, SWEEPS, LEVEL)


def test_the_interval_of_a_difference_covers_it_in_ninety_five_of_a_hundred_sweeps() -> None:
    effects = (0.0, 0.0, 0.005, 0.02)
    sweeps = list(simulated(effects, draw=2))
    bounds = [stats.binom.ppf(share, SWEEPS, 1 - LEVEL) for share in (RARE, 1 - RARE)]
    for i, effect in enumerate(effects[1:]):
        found = [claims.claims[i].difference for claims in sweeps]
        covered = sum(d.low <= effect <= d.high for d in found if d and d.low is not None and d.high is not None)
        assert bounds[0] <= covered <= bounds[1]


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
