"""The verdict of a range test: one max_lr, its interval, and whether it is reliable."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from onecycle_sweeps.measures import ACCURACY, Measure
from onecycle_sweeps.range_test.fit import Curve, fit, fit_evenly
from onecycle_sweeps.range_test.ramp import MIN_POINTS, Floats, checked, first

MOST_RATES = 12
# The number of values in a running median; the wide one is for scatter, and for levels amid much scatter.
MEDIAN_OF, WIDE = 5, 21
# Shares of the measure's rise at which Smith reads base_lr and max_lr, and the least rise that is enough for that; of a
# measure that is no fraction, as a share of its first value.
RISEN, SLOWED = 0.1, 0.95
LEAST_RISE_OF_MEASURE = 0.01
LEAST_DESCENT = 0.01
DEVIATIONS_PER_MEDIAN_DIFFERENCE = 1 / (0.6745 * math.sqrt(2))
# An interval whose ends differ by more than these factors makes the verdict ambiguous. The second factor detects nearly
# all simulated tests whose steepest point is off by a factor of 2.
FACTOR, STEEPEST_FACTOR = 4.0, 2.5
# If divergence is above the lowest loss by more than this factor, the rate between them is a guess: the factor was 66
# and more for a language model, whose verdict was 4 to 6 times too high, and 25 to 41 for digits, whose verdict held.
GAP = 50.0
# If at the lowest training loss the one on val is higher by more than this share of the descent, the net memorises its
# few samples, and its best rate falls with every further epoch: 0.25 and more for a noisy table, 0.06 for digits.
MEMORISED = 0.15
INTERVAL = (0.05, 0.95)
# Where only the divergence can be read, the rate is this share of its rate, and its interval has these ends. In a clear
# test whose lowest loss and divergence are a factor of 2 to 50 apart, the share is 0.35 to 0.07.
BELOW_DIVERGENCE = (1 / 8, 1 / 64, 1.0)
# A verdict from evaluations above this share of the last rate only shows where the ramp ended.
STILL_RISING = 0.8
# If more than this share of the loss's descent came before the first evaluation, the verdict is too high: by a factor
# of 2 to 4 for digits, where the share was 0.76 to 0.9, and not by much where it was 0.62.
UNSEEN = 2 / 3
# A loss this many deviations from its neighbours' median is a spike. Deviations are local, because losses scatter
# widely near divergence.
SPIKE = 20.0

Steps = NDArray[np.intp]


@dataclass(frozen=True)
class Reading:
    """A rate, and the interval that contains 90 % of its draws over all seeds."""

    rate: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        """The ratio of the interval's ends."""
        return self.high / self.low


@dataclass(frozen=True)
class Smoothed:
    """One seed's loss curve before divergence, smoothed without lag."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Judgement:
    """The result of a range test; `doubts` are the reasons why it is ambiguous, and empty if it is confident.

    `divergence` is None unless every seed diverged. `lowest_loss` is the lowest loss of the smoothed curves, as the
    median over seeds. `base_lr`, where the headline measure begins to improve, is None for tests without evaluations.
    """

    max_lr: Reading
    steepest: Reading
    lowest: Reading
    last_clear_descent: float
    divergence: Reading | None
    lowest_loss: float
    base_lr: Reading | None
    fits: tuple[Smoothed, ...]
    doubts: tuple[str, ...]

    @property
    def word(self) -> str:
        """confident or ambiguous."""
        return "ambiguous" if self.doubts else "confident"

    @property
    def rates(self) -> dict[str, float]:
        """Each rate that was read, by its name; the ends of its interval have the same name with `_low` and `_high`."""
        found: dict[str, float] = {}
        for name in ("max_lr", "steepest", "lowest", "divergence", "base_lr"):
            if reading := getattr(self, name):
                found |= {name: reading.rate, f"{name}_low": reading.low, f"{name}_high": reading.high}
        return found | {"last_clear_descent": self.last_clear_descent}

    @property
    def grid(self) -> tuple[float, ...]:
        """Rates to try around the verdict."""
        return grid_around(self.max_lr.low, self.max_lr.high)


def grid_around(low: float, high: float) -> tuple[float, ...]:
    """Rates from a third of `low` to 3 times `high`, a factor of about 3 apart, or further if those were over 12."""
    ends = (math.log(low / 3), math.log(high * 3))
    count = min(MOST_RATES, max(3, 1 + round((ends[1] - ends[0]) / math.log(3))))
    return tuple(float(f"{rate:.2g}") for rate in np.exp(np.linspace(*ends, count)))


@dataclass(frozen=True)
class SeedRates:
    """One seed's rates: first that of its smoothed curve, then those of the draws.

    The smoothed loss fell by `fall`, and `noise` is the standard deviation of one loss. If the noise hides the fall,
    the test is not `is_clear`, and only its divergence says something about the rate.
    """

    lowest: Floats
    steepest: Floats
    divergence: Floats
    last_clear_descent: float
    smoothed: Smoothed
    diverged: bool
    fall: float
    noise: float
    is_clear: bool

    @property
    def max_lr(self) -> Floats:
        """The rate that is read."""
        if self.is_clear:
            return np.sqrt(self.lowest) * np.sqrt(self.divergence) / 2
        below, low, high = BELOW_DIVERGENCE
        return self.divergence * np.append(below, np.geomspace(low, high, len(self.divergence) - 1))


@dataclass(frozen=True)
class OneSeed:
    """One seed's whole test: its rates and raw losses; for a linear ramp also its evaluations and their rates.

    `evaluations` are values of `measure` on the validation part. `val_losses` are pairs of a rate and the loss there,
    for a test that goes over its training set several times.
    """

    lrs: Sequence[float]
    losses: Sequence[float]
    evaluated_lrs: Sequence[float] = ()
    evaluations: Sequence[float] = ()
    measure: Measure = ACCURACY
    val_losses: Sequence[tuple[float, float]] = ()


def judge(tests: Sequence[OneSeed]) -> Judgement:
    """The verdict on range tests that differ in their seed.

    max_lr is half the geometric mean of two rates: that of the lowest loss, and that at which the loss begins to
    diverge (`onset`; the last rate if it does not). The first depends on the length of a test, and with batch norm it
    is far below the best rate; the second does not depend on learning at all. With evaluations it is Smith's: the rate
    at which the measure's rise slows (`read_evaluations`).
    Raises ValueError for a loss that does not clearly fall before divergence, or by less than 1 %, unless it rises in
    the end and its noise hides the fall; and for fewer than 16 steps before divergence.
    """
    # On a busy machine several threads make operations on such small matrices many times slower.
    with threadpool_limits(1, "blas"):
        reads = [_read(*checked(test.lrs, test.losses)) for test in tests]
        evaluated = [test for test in tests if test.evaluations]
        smith = [read_evaluations(test.evaluated_lrs, test.evaluations, test.measure) for test in evaluated]
    max_lr = _over([one.slows for one in smith] or [read.max_lr for read in reads])
    steepest, lowest = _over([read.steepest for read in reads]), _over([read.lowest for read in reads])
    divergence = _over([read.divergence for read in reads]) if all(read.diverged for read in reads) else None
    last = max(test.lrs[-1] for test in tests)
    if smith:
        unsure = (*_rising(max_lr, divergence, last, evaluated[0].measure.name), *_unseen(tests, reads))
    else:
        unsure = _far(lowest, divergence, last)
    return Judgement(
        max_lr=max_lr,
        steepest=steepest,
        lowest=lowest,
        last_clear_descent=float(np.median([read.last_clear_descent for read in reads])),
        divergence=divergence,
        lowest_loss=float(np.median([min(read.smoothed.losses) for read in reads])),
        base_lr=_over([one.rises for one in smith]) if smith else None,
        fits=tuple(read.smoothed for read in reads),
        doubts=(*_wide(max_lr, steepest), *unsure, *_noisy(reads), *_memorised(tests, reads)),
    )


def _wide(max_lr: Reading, steepest: Reading) -> Iterator[str]:
    for name, reading, most in (("max_lr", max_lr, FACTOR), ("the steepest point", steepest, STEEPEST_FACTOR)):
        if reading.factor > most:
            ends = f"{reading.low:.2g} to {reading.high:.2g}"
            yield f"the interval of {name}, {ends}, is wider than a factor of {most:g}"


def _rising(max_lr: Reading, divergence: Reading | None, last_rate: float, name: str) -> Iterator[str]:
    if divergence is None and max_lr.rate > STILL_RISING * last_rate:
        yield f"val {name} may improve beyond {last_rate:.2g}: raise range_test.end_lr"


def _unseen(tests: Sequence[OneSeed], reads: Sequence[SeedRates]) -> Iterator[str]:
    """A doubt if the measure's rise, of which the verdict is a share, was over for the most part when it was measured.

    A rate then shows how long the test took to get the rest, not which rates are good.
    """
    shares, first_rate = [], min(test.evaluated_lrs[0] for test in tests if test.evaluations)
    for read in (one for one in reads if one.is_clear):
        losses = read.smoothed.losses
        fallen = losses[0] - float(np.interp(first_rate, read.smoothed.lrs, losses))
        shares.append(fallen / (losses[0] - min(losses)))
    if shares and (share := float(np.median(shares))) > UNSEEN:
        yield (
            f"{100 * share:.0f} % of the descent came before the first evaluation, at {first_rate:.2g}: "
            "lower range_test.end_lr"
        )


def _far(lowest: Reading, divergence: Reading | None, last_rate: float) -> Iterator[str]:
    if divergence is None:
        yield f"not every seed diverged up to {last_rate:.2g}: raise range_test.end_lr"
    elif divergence.rate > GAP * lowest.rate:
        yield (
            f"the lowest loss, at {lowest.rate:.2g}, and the divergence, at {divergence.rate:.2g}, "
            f"are more than a factor of {GAP:g} apart"
        )


def _noisy(reads: Sequence[SeedRates]) -> Iterator[str]:
    worst = min(reads, key=lambda read: read.fall / read.noise if read.noise else math.inf)
    noise = f"the noise of one loss, {worst.noise:.2g}"
    if not all(read.is_clear for read in reads):
        yield f"{noise}, hides whether the loss fell: raise range_test.steps"
    elif worst.fall <= worst.noise:
        yield f"the loss fell by {worst.fall:.2g}, which is within {noise}: raise range_test.steps"


def _memorised(tests: Sequence[OneSeed], reads: Sequence[SeedRates]) -> Iterator[str]:
    shares = []
    for test, read in zip(tests, reads, strict=True):
        losses, rates = read.smoothed.losses, read.smoothed.lrs
        lowest = int(np.argmin(losses))
        if known := [(abs(math.log(rate / rates[lowest])), loss) for rate, loss in test.val_losses if rate > 0]:
            shares.append((min(known)[1] - losses[lowest]) / (losses[0] - losses[lowest]))
    if shares and not (share := float(np.median(shares))) <= MEMORISED:
        yield (
            f"val loss stayed above the lowest training loss by {100 * share:.0f} % of its descent: the net memorises "
            "its few samples, and the longer the training, the lower its best rate"
        )


def _over(found: Sequence[Floats]) -> Reading:
    """The median over seeds, and the interval of all their draws."""
    low, high = np.quantile(np.log(np.concatenate([rates[1:] for rates in found])), INTERVAL)
    rate = float(np.exp(np.median([np.log(rates[0]) for rates in found])))
    return Reading(rate, min(rate, math.exp(low)), max(rate, math.exp(high)))


def smoothed(lrs: Sequence[float], losses: Sequence[float]) -> list[float]:
    """The losses up to divergence as `judge` smooths them, one for each step; empty if there are too few steps.

    Raises ValueError for rates and losses of different lengths, and for rates that do not rise.
    """
    rates, raw = checked(lrs, losses)
    at = first_step(raw)
    if _before(rates, at).sum() < MIN_POINTS:
        return []
    with threadpool_limits(1, "blas"):
        whole, _ = _fitted(rates, raw, at)
    return np.interp(rates[:at], whole.rates, whole.mean).tolist()


def _before(rates: Floats, at: int) -> NDArray[np.bool_]:
    """Which steps are fitted: those before step `at` whose rate is above 0."""
    return (rates > 0) & (np.arange(len(rates)) < at)


def _fitted(rates: Floats, losses: Floats, at: int) -> tuple[Curve, Curve]:
    before = _before(rates, at)
    return _fit_once(tuple(rates[before].tolist()), tuple(_without_spikes(losses[:at])[before[:at]].tolist()))


@lru_cache(maxsize=8)
def _fit_once(rates: tuple[float, ...], losses: tuple[float, ...]) -> tuple[Curve, Curve]:
    """`fit`, which `smoothed` and `judge` both need for the same test."""
    return fit(np.array(rates), np.array(losses))


def _read(rates: Floats, losses: Floats) -> SeedRates:
    at = first_step(losses)
    before = _before(rates, at)
    if before.sum() < MIN_POINTS:
        raise ValueError(
            f"a range test must have at least {MIN_POINTS} steps before it diverges, got {before.sum()}: lower "
            "range_test.start_lr and, in mode linear, range_test.end_lr; raise range_test.steps; or set max_lr yourself"
        )
    noise = _noise(losses[:at])
    whole, descent = _fitted(rates, losses, at)
    fall = float(whole.mean[0] - whole.mean.min())
    is_clear = fall > LEAST_DESCENT * abs(whole.mean[0]) and (fall > noise or descent.clearly_falls())
    risen = _risen(losses, noise)
    is_hidden = max(fall, LEAST_DESCENT * abs(whole.mean[0])) <= noise
    if not is_clear and not (is_hidden and risen < len(rates)):
        raise ValueError(
            f"the loss of a range test must clearly fall, and by more than 1 %, got {whole.mean[0]:.4g} and "
            f"{whole.mean.min():.4g} at best, with a noise of {noise:.2g}: if it stayed flat, raise range_test.end_lr "
            f"(last {rates[-1]:.2g}); if it rose at once, lower range_test.start_lr (first {rates[0]:.2g}) and, in "
            "mode linear, range_test.end_lr; if it is noisy, raise range_test.steps; or set max_lr yourself"
        )
    lowest, steepest = whole.lowest(), descent.steepest()
    at_steps = first_steps(losses, len(lowest)) if is_clear else np.full(len(lowest), risen)
    divergence = rates[np.minimum(at_steps, len(rates) - 1)]
    last_clear = descent.last_clear_descent()
    curve = Smoothed(tuple(whole.rates.tolist()), tuple(whole.mean.tolist()))
    return SeedRates(lowest, steepest, divergence, last_clear, curve, at < len(rates), fall, noise, is_clear)


def _risen(raw: Floats, noise: float) -> int:
    """The step from which losses are above those of the start by their noise, or the last step if that is a spike.

    The number of steps if there is no such rise.
    """
    finite = raw[: first(~np.isfinite(raw))]
    start = np.median(finite[: len(finite) // 10 + 1])
    below = np.flatnonzero(running_median(finite, WIDE) <= start + noise)
    at = int(below[-1]) + 1 if len(below) else 0
    return len(raw) - 1 if at == len(raw) and raw[-1] > start + SPIKE * noise else at


def _without_spikes(raw: Floats) -> Floats:
    level = running_median(raw)
    scatter = np.maximum(_noise(raw), running_median(np.abs(raw - level), WIDE) / 0.6745)
    return np.clip(raw, level - SPIKE * scatter, level + SPIKE * scatter)


def _noise(raw: Floats) -> float:
    """The standard deviation of one loss, from differences of neighbours, which a slow descent hardly affects."""
    return float(np.median(np.abs(np.diff(raw)))) * DEVIATIONS_PER_MEDIAN_DIFFERENCE


def onset(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which raw losses begin to diverge; None if they do not.

    They diverge at the first loss that is not finite, or at the step from which half of the descent is lost until the
    end of the test: the running median of 5 losses stays above the mean of its own lowest value and the median of the
    first tenth. A spike from which the training recovers is not a divergence.
    """
    rates, raw = checked(lrs, losses)
    at = first_step(raw)
    return float(rates[at]) if at < len(rates) else None


def first_step(raw: Floats) -> int:
    """The step at which raw losses begin to diverge; their number if they do not."""
    finite = raw[: first(~np.isfinite(raw)), None]
    return int(_crossings(finite)[0]) if len(finite) else 0


def first_steps(raw: Floats, count: int) -> Steps:
    """`first_step` of the losses, then of `count - 1` copies with randomly signed residuals.

    This wild bootstrap (Wu 1986) keeps the size of each residual, because losses scatter more near divergence.
    """
    finite = raw[: first(~np.isfinite(raw)), None]
    level = _level(finite)
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(len(finite), count - 1))
    return _crossings(np.hstack([finite, level + (finite - level) * signs]))


def running_median(raw: Floats, of: int = MEDIAN_OF) -> Floats:
    """The median of each value and its neighbours, an odd number `of` them in all; values are mirrored at the ends."""
    return _level(raw[:, None], of, "reflect")[:, 0]


def _level(raw: Floats, of: int = MEDIAN_OF, ends: Literal["edge", "reflect"] = "edge") -> Floats:
    """The running medians (steps, tests) of losses (steps, tests)."""
    padded = np.pad(raw, ((of // 2, of // 2), (0, 0)), mode=ends)
    windows = np.lib.stride_tricks.sliding_window_view(padded, of, axis=0)
    return np.partition(windows, of // 2, axis=-1)[..., of // 2]


def _crossings(raw: Floats) -> Steps:
    """For each test of (steps, tests) the step from which half of its descent is lost until the end."""
    level = _level(raw)
    middle = (np.median(raw[: len(raw) // 10 + 1], axis=0) + level.min(axis=0)) / 2
    below = level[::-1] <= middle
    return len(raw) - np.where(below.any(axis=0), np.argmax(below, axis=0), len(raw))


@dataclass(frozen=True)
class SmithsRates:
    """The rates at 10 % and at 95 % of the measure's rise: first those of its smoothed curve, then of the draws."""

    rises: Floats
    slows: Floats


def read_evaluations(lrs: Sequence[float], values: Sequence[float], measure: Measure = ACCURACY) -> SmithsRates:
    """Where a measure over evenly spaced rates begins to improve and where that slows (arXiv:1506.01186, section 3.3).

    Smith reads these by eye from the accuracy, as base_lr and max_lr; here the rise is that of the smoothed curve from
    its first point to its highest. Raises ValueError for fewer than 6 points, and for a rise of less than 0.01.
    """
    rates, found = checked(lrs, values)
    if len(rates) < 6:
        raise ValueError(
            f"a linear range test must be evaluated at least 6 times before it diverges, got {len(rates)}: lower "
            "range_test.end_lr, raise range_test.steps, or set max_lr yourself"
        )
    curve = fit_evenly(rates, found if measure.goal == "max" else -found)
    start, best = (abs(float(value)) for value in (curve.mean[0], curve.mean.max()))
    least = LEAST_RISE_OF_MEASURE * (1 if measure.is_fraction else start)
    if curve.mean.max() - curve.mean[0] < least:
        raise ValueError(
            f"the val {measure.name} of a range test must improve by {least:.3g}, got {start:.4g} and "
            f"{best:.4g} at best: raise range_test.steps, lower range_test.end_lr, or set max_lr yourself"
        )
    return SmithsRates(_reaching(curve, RISEN), _reaching(curve, SLOWED))


def _reaching(curve: Curve, part: float) -> Floats:
    values = np.column_stack([curve.mean, curve.draws])
    level = values[0] + part * (values.max(axis=0) - values[0])
    return curve.rates[np.argmax(values >= level, axis=0)]
