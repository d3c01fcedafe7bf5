"""The fit of a range test's curve, against scikit-learn's Gaussian process, and at extreme rates."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onecycle_sweeps.range_test import OneSeed, Ramp, judge, peers, smoothed
from onecycle_sweeps.range_test import fit as fitting
from onecycle_sweeps.range_test.fit import Choice, Points


def points(count: int, seed: int = 0) -> Points:
    """A noisy descent over some decades, each value the mean of one to three losses."""
    random = np.random.default_rng(seed)
    x, counts = np.linspace(-5, -0.5, count), random.integers(1, 4, count).astype(float)
    return Points(
        x, 2.3 - 1.6 / (1 + np.exp(-2.2 * (x + 2.5))) + random.normal(0, 0.1, count) / np.sqrt(counts), counts
    )


def scikit_learns(seen: Points, choice: Choice) -> Any:
    """Its process, fitted to the points with a choice's parameters as they are."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    kernel = ConstantKernel(choice.ratio * choice.noise, "fixed") * RBF(choice.length, "fixed")
    fixed: dict[str, Any] = {"alpha": choice.noise / seen.counts, "optimizer": None}
    return GaussianProcessRegressor(kernel, **fixed).fit(seen.x[:, None], seen.y - choice.mean)


@pytest.mark.parametrize("length", [0.2, 0.7, 3.0])
@pytest.mark.parametrize("ratio", [0.1, 10.0, 1e5])
@pytest.mark.parametrize("count", [16, 120])
def test_the_curve_of_a_choice_is_that_of_scikit_learns_gaussian_process(
    length: float, ratio: float, count: int
) -> None:
    seen, grid, noise, mean = points(count), np.linspace(-5, -0.5, 160), 0.04, 1.7
    choice = Choice(0.0, length, ratio, mean, noise)
    expected, deviations = fitting._conditioned(seen, choice, *fitting._features(seen, length, grid))
    means, spread = scikit_learns(seen, choice).predict(grid[:, None], return_std=True)
    assert expected == pytest.approx(mean + means, abs=2e-3)
    assert np.sqrt((deviations**2).sum(axis=1)) == pytest.approx(spread, rel=0.02, abs=2e-3)


def test_the_likeliest_choices_are_those_that_scikit_learn_finds_likely() -> None:
    """With the mean and the noise that we found, its marginal likelihood ranks lengths as ours does."""
    seen = points(100)
    best = fitting._choices(seen)[0]
    likelihoods = {
        length: scikit_learns(seen, replace(best, length=length)).log_marginal_likelihood_value_
        for length in fitting.LENGTHS
    }
    ranked = sorted(likelihoods, key=likelihoods.__getitem__, reverse=True)
    assert best.length in ranked[:2]


def descent(x: np.ndarray) -> np.ndarray:
    """A loss over a position from 0 to 1: it falls to 0.7 at about 0.6 and rises steeply from 0.8 on."""
    return 2.3 - 1.6 / (1 + np.exp(-20 * (x - 0.35))) + np.where(x > 0.8, np.expm1(15 * (x - 0.8)), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start_lr", "end_lr", "mode"),
    [
        (9.9, 10.0, "linear"),
        (9.9, 10.0, "exp"),
        (1.0, 1.0 + 1e-9, "linear"),
        (1.0, 1.0 + 1e-9, "exp"),
        (0.0, 1e-300, "linear"),
        (0.0, 1e300, "linear"),
        (1e-300, 1e-290, "exp"),
        (1e290, 1e300, "exp"),
        (1e-300, 1e300, "exp"),
        (1e5, 1e5 + 1, "linear"),
    ],
)
def test_any_ramp_can_be_read(start_lr: float, end_lr: float, mode: str) -> None:
    """Whatever its rates, every number read is one of them: no overflow, and no warning of one."""
    ramp = Ramp(start_lr, end_lr, 200, mode)  # type: ignore[arg-type]
    rates = [ramp(step).lr for step in range(200)]
    position = np.linspace(0, 1, 200)
    losses = (descent(position) + np.random.default_rng(0).normal(0, 0.02, 200)).tolist()
    evaluated = [10 * i - 1 for i in range(1, 21)]
    accuracies = [0.9 / (1 + math.exp(-20 * (position[i] - 0.35))) for i in evaluated]
    test = OneSeed(rates, losses, *(([rates[i] for i in evaluated], accuracies) if mode == "linear" else ((), ())))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = judge([test])
        theirs = peers(rates, losses, 200)
    readings = [found.max_lr, found.steepest, found.lowest, *filter(None, (found.divergence, found.base_lr))]
    for reading in readings:
        assert all(map(math.isfinite, (reading.rate, reading.low, reading.high, *found.grid)))
        assert reading.low <= reading.rate <= reading.high
    assert all(map(math.isfinite, theirs.values()))
    assert len(found.grid) <= 12
    tolerance = 1e-9 * end_lr
    assert rates[0] - tolerance <= found.lowest.rate <= rates[-1] + tolerance
    if mode == "linear":
        assert found.base_lr is not None
        assert rates[0] - tolerance <= found.base_lr.rate < found.max_lr.rate <= rates[-1] + tolerance
        assert (found.max_lr.rate - start_lr) / (end_lr - start_lr) == pytest.approx(0.5, abs=0.1)


def test_a_ramp_whose_rate_cannot_rise_at_each_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^end_lr .*start_lr=1\.0 .*\b100 steps, got 1\.0000000000000002"):
        Ramp(1.0, math.nextafter(1.0, 2), 100)


def test_the_smoothed_loss_is_the_curve_that_the_verdict_is_read_from() -> None:
    rates = np.geomspace(1e-5, 10, 150).tolist()
    losses = (descent(np.linspace(0, 1, 150)) + np.random.default_rng(1).normal(0, 0.1, 150)).tolist()
    found, curve = judge([OneSeed(rates, losses)]), smoothed(rates, losses)
    assert found.divergence is not None
    assert len(curve) == rates.index(found.divergence.rate)
    (fit,) = found.fits
    assert curve == pytest.approx(np.interp(rates[: len(curve)], fit.lrs, fit.losses))
    # Without lag: where the true curve is steepest, the smoothed one lies on it.
    steep = int(0.35 * 150)
    assert curve[steep] == pytest.approx(descent(np.array([steep / 149]))[0], abs=0.08)


@pytest.mark.parametrize("losses", [[2.0] * 10, [math.nan] * 100, [2.0, math.inf, *[2.0] * 98]])
def test_where_divergence_comes_at_once_nothing_is_smoothed(losses: list[float]) -> None:
    assert smoothed(np.geomspace(1e-5, 10, len(losses)).tolist(), losses) == []
