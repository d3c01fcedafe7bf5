"""The verdict of a range test: one max_lr, its interval, and whether it can be relied on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from onecycle_sweeps.range_test.accuracy import read_accuracies
from onecycle_sweeps.range_test.curves import MIN_POINTS, Floats, checked
from onecycle_sweeps.range_test.divergence import first_step, first_steps, running_median
from onecycle_sweeps.range_test.fit import Curve, fit
from onecycle_sweeps.range_test.verdict import Reading, Smoothed, Verdict

LEAST_DESCENT = 0.01
DEVIATIONS_PER_MEDIAN_DIFFERENCE = 1 / (0.6745 * math.sqrt(2))
# Where an interval's ends, or seeds, differ by more than these factors, the verdict is ambiguous. On made-up tests the
# narrower one finds out nearly all whose steepest point is off by 2.
FACTOR, STEEPEST_FACTOR = 4.0, 2.5
# Where divergence follows the lowest loss by more than this factor, what lies between them is a guess.
GAP = 100.0
INTERVAL = (0.05, 0.95)
# A verdict from val accuracy this near to the last rate says where the ramp ended.
STILL_RISING = 0.8
# A loss so many deviations from its neighbours' median is a spike, by the scatter all around it: near divergence losses
# scatter far, and have a say.
SPIKE = 20.0


@dataclass(frozen=True)
class _Read:
    """One seed's rates: of its smoothed curve first, then of each draw."""

    lowest: Floats
    steepest: Floats
    divergence: Floats
    last_clear_descent: float
    smoothed: Smoothed
    diverged: bool


@dataclass(frozen=True)
class OneSeed:
    """One seed's whole test: its rates and raw losses; and, of a linear ramp, val accuracies and their rates."""

    lrs: Sequence[float]
    losses: Sequence[float]
    evaluated_lrs: Sequence[float] = ()
    accuracies: Sequence[float] = ()


def judge(tests: Sequence[OneSeed]) -> Verdict:
    """The verdict on range tests that differ in their seed.

    max_lr is half the geometric mean of two rates: where the loss is lowest, and where it begins to diverge (`onset`;
    the last rate where it does not). The lowest loss alone moves with the length of a test, and where batch norm
    forgives high rates it lies far below the best one; divergence alone knows nothing of learning. With val accuracies
    it is Smith's: the rate where they slow (`read_accuracies`).
    Raises ValueError where a loss falls, before divergence, by less than 1 % or by less than the noise of one loss,
    and where fewer than 16 steps precede divergence.
    """
    # Matrices of this size take many times as long where several threads share them on a busy machine.
    with threadpool_limits(1, "blas"):
        reads = [_read(*checked(test.lrs, test.losses)) for test in tests]
        smith = [read_accuracies(test.evaluated_lrs, test.accuracies) for test in tests if test.accuracies]
    max_lr = _over(
        [one.slows for one in smith] or [np.sqrt(read.lowest) * np.sqrt(read.divergence) / 2 for read in reads]
    )
    steepest, lowest = _over([read.steepest for read in reads]), _over([read.lowest for read in reads])
    divergence = _over([read.divergence for read in reads]) if all(read.diverged for read in reads) else None
    last = max(test.lrs[-1] for test in tests)
    unsure = _rising(max_lr, divergence, last) if smith else _far(lowest, divergence, last)
    return Verdict(
        max_lr=max_lr,
        steepest=steepest,
        lowest=lowest,
        last_clear_descent=float(np.median([read.last_clear_descent for read in reads])),
        divergence=divergence,
        lowest_loss=float(np.median([min(read.smoothed.losses) for read in reads])),
        base_lr=_over([one.rises for one in smith]) if smith else None,
        fits=tuple(read.smoothed for read in reads),
        doubts=(*_wide(max_lr, steepest), *unsure),
    )


def _wide(max_lr: Reading, steepest: Reading) -> Iterator[str]:
    for name, reading, most in (("max_lr", max_lr, FACTOR), ("the steepest point", steepest, STEEPEST_FACTOR)):
        if reading.factor > most:
            ends = f"{reading.low:.2g} to {reading.high:.2g}"
            yield f"{name} is known only to lie in {ends}, wider than a factor of {most:g}"


def _rising(max_lr: Reading, divergence: Reading | None, last_rate: float) -> Iterator[str]:
    if divergence is None and max_lr.rate > STILL_RISING * last_rate:
        yield f"val accuracy may rise beyond {last_rate:.2g}: raise range_test.end_lr"


def _far(lowest: Reading, divergence: Reading | None, last_rate: float) -> Iterator[str]:
    if divergence is None:
        yield f"not every seed diverged up to {last_rate:.2g}: raise range_test.end_lr"
    elif divergence.rate > GAP * lowest.rate:
        yield (
            f"the lowest loss, at {lowest.rate:.2g}, and the divergence, at {divergence.rate:.2g}, "
            f"are more than a factor of {GAP:g} apart"
        )


def _over(found: Sequence[Floats]) -> Reading:
    """The median over seeds, and the interval of all their draws."""
    low, high = np.quantile(np.log(np.concatenate([rates[1:] for rates in found])), INTERVAL)
    rate = float(np.exp(np.median([np.log(rates[0]) for rates in found])))
    return Reading(rate, min(rate, math.exp(low)), max(rate, math.exp(high)))


def smoothed(lrs: Sequence[float], losses: Sequence[float]) -> list[float]:
    """The losses up to divergence as `judge` smooths them, one for each step; none where too few steps precede it.

    Raises ValueError as `curve` does for rates and losses that do not pair up or do not rise.
    """
    rates, raw = checked(lrs, losses)
    at = first_step(raw)
    if _before(rates, at).sum() < MIN_POINTS:
        return []
    with threadpool_limits(1, "blas"):
        whole, _ = _fitted(rates, raw, at)
    return np.interp(rates[:at], whole.rates, whole.mean).tolist()


def _before(rates: Floats, at: int) -> NDArray[np.bool_]:
    """Which steps are fitted: those before step `at`, at a rate that has a logarithm."""
    return (rates > 0) & (np.arange(len(rates)) < at)


def _fitted(rates: Floats, losses: Floats, at: int) -> tuple[Curve, Curve]:
    before = _before(rates, at)
    return fit(rates[before], _without_spikes(losses[:at])[before[:at]])


def _read(rates: Floats, losses: Floats) -> _Read:
    at = first_step(losses)
    before = _before(rates, at)
    if before.sum() < MIN_POINTS:
        raise ValueError(
            f"a range test must have at least {MIN_POINTS} steps before it diverges, got {before.sum()}: lower "
            "range_test.start_lr, raise range_test.steps, or set max_lr yourself"
        )
    noise = _noise(losses[:at])
    whole, descent = _fitted(rates, losses, at)
    fall = whole.mean[0] - whole.mean.min()
    if fall <= max(noise, LEAST_DESCENT * abs(whole.mean[0])):
        raise ValueError(
            f"the loss of a range test must fall by more than 1 % and its noise ({noise:.2g}), got "
            f"{whole.mean[0]:.4g} and {whole.mean.min():.4g} at best: if it stayed flat, raise range_test.end_lr "
            f"(last {rates[-1]:.2g}); if it rose at once, lower range_test.start_lr (first {rates[0]:.2g}) and, in "
            "mode linear, range_test.end_lr; if it is noisy, raise range_test.steps; or set max_lr yourself"
        )
    lowest, steepest = whole.lowest(), descent.steepest()
    divergence = rates[np.minimum(first_steps(losses, len(lowest)), len(rates) - 1)]
    last_clear = descent.last_clear_descent()
    curve = Smoothed(tuple(whole.rates.tolist()), tuple(whole.mean.tolist()))
    return _Read(lowest, steepest, divergence, last_clear, curve, at < len(rates))


def _without_spikes(raw: Floats) -> Floats:
    level = running_median(raw)
    scatter = np.maximum(_noise(raw), running_median(np.abs(raw - level), of=21) / 0.6745)
    return np.clip(raw, level - SPIKE * scatter, level + SPIKE * scatter)


def _noise(raw: Floats) -> float:
    """The standard deviation of one loss, from the differences of neighbours, which a slow descent does not touch."""
    return float(np.median(np.abs(np.diff(raw)))) * DEVIATIONS_PER_MEDIAN_DIFFERENCE
