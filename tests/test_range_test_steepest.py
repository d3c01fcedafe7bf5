"""The steepest point of made-up tests: ours is found where the truth lies, or is called ambiguous."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.tuner.lr_finder import _LRFinder

from made_curves import GOLDEN, SHAPES, Shape
from onecycle_sweeps.range_test import OneSeed, judge, lightning, peers, torch_lr_finder, until_diverged
from test_range_test_curve import Seen

SEEDS = range(6)


def cut(lrs: list[float], losses: list[float]) -> tuple[list[float], list[float]]:
    """A test as far as it is run."""
    seen = [step for step, _ in until_diverged(map(Seen, lrs, losses))]
    return [step.lr for step in seen], [step.loss for step in seen]


def near(rate: float, truth: float) -> bool:
    return truth / 2 <= rate <= 2 * truth


@cache
def verdicts(noise: float) -> list[tuple[bool, bool]]:
    """Of every shape and seed whether the steepest point was found, and whether the verdict was ambiguous."""
    found = []
    for shape in SHAPES.values():
        for seed in SEEDS:
            verdict = judge([OneSeed(*cut(*shape.test(noise, seed)))])
            found.append((near(verdict.steepest.rate, shape.steepest()), verdict.word == "ambiguous"))
    return found


@pytest.mark.parametrize(("noise", "share"), [(0.0, 1.0), (0.02, 0.98), (0.05, 0.98), (0.1, 0.95)])
def test_the_steepest_point_is_found_within_a_factor_of_two(noise: float, share: float) -> None:
    hits = [hit for hit, _ in verdicts(noise)]
    assert np.mean(hits) >= share


def test_most_of_those_that_noise_hides_are_called_ambiguous() -> None:
    missed = [ambiguous for hit, ambiguous in verdicts(0.25) if not hit]
    assert len(missed) >= 5
    assert np.mean(missed) > 0.7


def test_a_clear_test_is_called_confident() -> None:
    assert not any(ambiguous for _, ambiguous in verdicts(0.02))


@pytest.mark.parametrize("rule", ["steep", "valley", "slide", "torch_lr_finder", "lightning"])
def test_the_rules_of_peers_do_not_come_near(rule: str) -> None:
    hits = [near(_peer(shape, seed, rule), shape.steepest()) for shape in SHAPES.values() for seed in SEEDS]
    assert np.mean(hits) < 0.5


def _peer(shape: Shape, seed: int, rule: str) -> float:
    return peers(*cut(*shape.test(0.02, seed)), total_steps=100).get(rule, 0.0)


@pytest.mark.parametrize("steps", [100, 150, 400, 1000])
def test_a_longer_test_finds_the_same_point(steps: int) -> None:
    found = judge([OneSeed(*cut(*GOLDEN.test(0.05, 0, steps)))])
    assert near(found.steepest.rate, GOLDEN.steepest())


# The rates that torch-lr-finder 0.2.2 gave, of 100 steps from 1e-7 to 10 by its own sequence.
@pytest.mark.parametrize(
    ("noise", "seed", "rate"),
    [
        (0.0, 0, 0.014849682622544665),
        (0.02, 0, 0.014849682622544665),
        (0.02, 1, 0.010235310218990268),
        (0.02, 2, 0.021544346900318822),
    ],
)
def test_the_rule_of_torch_lr_finder_is_its_own(noise: float, seed: int, rate: float) -> None:
    assert torch_lr_finder(*GOLDEN.test(noise, seed)) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_of_lightning_is_its_own(seed: int) -> None:
    lrs, losses = GOLDEN.test(0.02, seed)
    average, smoothed = 0.0, []
    for i, loss in enumerate(losses):
        average = 0.98 * average + 0.02 * loss
        smoothed.append(average / (1 - 0.98 ** (i + 2)))
        if i > 1 and smoothed[-1] > 4 * min(smoothed[1:]):
            break
    finder: Any = _LRFinder("exponential", lrs[0], lrs[-1], 100)
    finder.results = {"lr": lrs[: len(smoothed)], "loss": smoothed}
    assert lightning(lrs, losses) == finder.suggestion()
