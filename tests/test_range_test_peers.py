"""What other libraries' rules read from a test, as these libraries do; and how far their steepest points are off."""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_curves import GOLDEN as KNOWN
from made_curves import SHAPES, Shape
from onecycle_sweeps.range_test import (
    OneSeed,
    curve,
    judge,
    lightning,
    peers,
    smooth,
    suggestions,
    torch_lr_finder,
    until_diverged,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "range_test.json").read_text())
SEEDS = range(6)
RULES = ("minimum", "steep", "valley", "slide")


@dataclass(frozen=True)
class Seen:
    lr: float
    loss: float


def whole_test(noise: float, seed: int) -> tuple[list[float], list[float]]:
    """A made-up test of 100 steps at fastai's rates: steepest at 10^-2.5, diverging from about 0.5."""
    lrs = 1e-7 * 1e8 ** (np.arange(100) / 100)
    x = np.log10(lrs)
    losses = 2.3 - 1.6 / (1 + np.exp(-2.2 * (x + 2.5))) + np.where(x > -0.3, np.exp(4 * (x + 0.3)) - 1, 0)
    return lrs.tolist(), (losses + np.random.default_rng(seed).standard_normal(100) * noise).tolist()


def test_smoothing_is_the_debiased_mean_worked_out_by_hand() -> None:
    # beta 0.5: averages 1, 2.5, 3.25 over 1-0.5, 1-0.25, 1-0.125
    assert smooth([2.0, 4.0, 4.0], beta=0.5) == pytest.approx([2.0, 10 / 3, 26 / 7], rel=1e-12)
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50, rel=1e-12)


@pytest.mark.parametrize("beta", [-0.1, 1.0, math.nan])
def test_smoothing_refuses_a_beta_outside_its_bounds(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\), got"):
        smooth([1.0], beta=beta)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0, 0.999))
def test_a_smoothed_loss_lies_between_the_losses_so_far(losses: list[float], beta: float) -> None:
    for i, value in enumerate(smooth(losses, beta)):
        assert min(losses[: i + 1]) - 1e-6 <= value <= max(losses[: i + 1]) + 1e-6


@pytest.mark.parametrize("case", GOLDEN["whole_tests"], ids=lambda case: f"noise {case['noise']} seed {case['seed']}")
def test_a_whole_test_gives_the_rates_of_fastai(case: dict[str, Any]) -> None:
    steps = (Seen(lr, loss) for lr, loss in zip(*whole_test(case["noise"], case["seed"]), strict=True))
    seen = [step for step, _ in until_diverged(steps)]
    assert len(seen) == case["steps"]
    found = suggestions(*curve([step.lr for step in seen], [step.loss for step in seen], total_steps=100))
    assert found == pytest.approx({rule: case[rule] for rule in RULES}, rel=1e-9, abs=0)


@pytest.mark.parametrize("case", GOLDEN["curves"], ids=lambda case: case["name"])
def test_the_four_rules_are_those_of_fastai(case: dict[str, Any]) -> None:
    found = suggestions(case["lrs"], case["losses"])
    assert found == pytest.approx({rule: case[rule] for rule in RULES}, rel=1e-9, abs=0)


@given(st.lists(st.floats(0, 10), min_size=16, max_size=80))
def test_every_rule_answers_with_a_rate_of_the_curve(losses: list[float]) -> None:
    lrs = np.geomspace(1e-6, 1, len(losses)).tolist()
    found = suggestions(lrs, losses)
    assert found["minimum"] in [lr / 10 for lr in lrs]
    assert all(found[rule] in lrs for rule in ("steep", "valley", "slide"))


def test_a_curve_is_smoothed_and_loses_its_first_tenth_and_last_five() -> None:
    lrs, losses = whole_test(0.02, 0)
    assert curve(lrs, losses) == (lrs[10:-5], smooth(losses)[10:-5])


def test_a_curve_counts_its_tenth_from_the_planned_steps() -> None:
    lrs, losses = whole_test(0.0, 0)
    assert curve(lrs[:60], losses[:60])[0] == lrs[6:55]
    assert curve(lrs[:60], losses[:60], total_steps=100)[0] == lrs[10:55]


def test_a_curve_ends_before_the_first_loss_that_is_not_finite() -> None:
    lrs, losses = whole_test(0.0, 0)
    losses[70] = math.nan
    assert curve(lrs, losses)[0] == lrs[10:70]


def test_a_test_that_diverged_too_early_has_no_curve() -> None:
    lrs, losses = whole_test(0.0, 0)
    with pytest.raises(ValueError, match=r"must leave at least 16 points after trimming, got 15 of 22 .*start_lr"):
        curve(lrs[:22], losses[:22])
    assert len(curve(lrs[:23], losses[:23])[0]) == 16


@pytest.mark.parametrize(
    ("lrs", "losses", "message"),
    [
        (range(1, 16), [1.0] * 15, "a curve must have at least 16 points, got 15"),
        ([], [], "a curve must have at least 16 points, got 0"),
        (range(1, 21), [1.0] * 19, r"lrs and losses .*\(20,\).*\(19,\)"),
        (range(20), [1.0] * 20, "lrs must be above 0, got 0.0 at 0"),
        (range(-1, 19), [1.0] * 20, "^lrs .*got -1.0 at 0"),
        (range(20, 0, -1), [1.0] * 20, "^lrs .*rise.*got 19.0 after 20.0 at 1"),
        ([1.0] * 20, [1.0] * 20, "^lrs .*rise.*got 1.0 after 1.0 at 1"),
        ([*range(1, 20), math.inf], [1.0] * 20, "lrs must be finite, .* got inf after 19.0 at 19"),
        (range(1, 21), [1.0] * 7 + [math.nan] + [1.0] * 12, "losses must be finite, got nan at 7"),
        (range(1, 21), [1.0] * 19 + [math.inf], "losses must be finite, got inf at 19"),
    ],
)
def test_the_rules_refuse_invalid_curves(lrs: list[float], losses: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggestions(list(lrs), losses)


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


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "share"), [(0.0, 1.0), (0.02, 0.98), (0.05, 0.98), (0.1, 0.95)])
def test_the_steepest_point_is_found_within_a_factor_of_two(noise: float, share: float) -> None:
    hits = [hit for hit, _ in verdicts(noise)]
    assert np.mean(hits) >= share


@pytest.mark.slow
def test_most_of_those_that_noise_hides_are_called_ambiguous() -> None:
    missed = [ambiguous for hit, ambiguous in verdicts(0.25) if not hit]
    assert len(missed) >= 5
    assert np.mean(missed) > 0.7


@pytest.mark.slow
def test_a_clear_test_is_called_confident() -> None:
    assert not any(ambiguous for _, ambiguous in verdicts(0.02))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["steep", "valley", "slide", "torch_lr_finder", "lightning"])
def test_the_rules_of_peers_do_not_come_near(rule: str) -> None:
    hits = [near(_peer(shape, seed, rule), shape.steepest()) for shape in SHAPES.values() for seed in SEEDS]
    assert np.mean(hits) < 0.5


def _peer(shape: Shape, seed: int, rule: str) -> float:
    return peers(*cut(*shape.test(0.02, seed)), total_steps=100).get(rule, 0.0)


@pytest.mark.parametrize("steps", [100, 150, 400, 1000])
def test_a_longer_test_finds_the_same_point(steps: int) -> None:
    found = judge([OneSeed(*cut(*KNOWN.test(0.05, 0, steps)))])
    assert near(found.steepest.rate, KNOWN.steepest())


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
    assert torch_lr_finder(*KNOWN.test(noise, seed)) == pytest.approx(rate, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_rule_of_lightning_is_its_own(seed: int) -> None:
    from lightning.pytorch.tuner.lr_finder import _LRFinder

    lrs, losses = KNOWN.test(0.02, seed)
    average, smoothed = 0.0, []
    for i, loss in enumerate(losses):
        average = 0.98 * average + 0.02 * loss
        smoothed.append(average / (1 - 0.98 ** (i + 2)))
        if i > 1 and smoothed[-1] > 4 * min(smoothed[1:]):
            break
    finder: Any = _LRFinder("exponential", lrs[0], lrs[-1], 100)
    finder.results = {"lr": lrs[: len(smoothed)], "loss": smoothed}
    assert lightning(lrs, losses) == finder.suggestion()
