"""The rates that other libraries' rules suggest, each with its library's smoothing, end and trimming."""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from onecycle_sweeps.range_test.ramp import MIN_POINTS, Floats, checked, first, smooth

SKIP_END = 5
SLIDE_GAP = MIN_POINTS - 1
SLIDE_THRESHOLD = 0.005
LIGHTNING_BETA, LIGHTNING_SKIPS = 0.98, (10, 1)
TORCH_LR_FINDER_BETA, TORCH_LR_FINDER_SKIPS = 0.95, (10, 5)


def peers(lrs: Sequence[float], losses: Sequence[float], total_steps: int | None = None) -> dict[str, float]:
    """The rate that each peer's rule suggests for the raw losses of a whole test of `total_steps` planned steps.

    fastai's four (`suggestions`), torch_lr_finder and lightning, without those for which the test is too short. Their
    smoothing lags: with 12 steps a decade their steepest points are 5 to 8 times too high. lightning's slope is over
    the rate, not its logarithm, so that it prefers noise at tiny rates.
    """
    try:
        found = suggestions(*curve(lrs, losses, total_steps))
    except ValueError:
        found = {}
    others = {"torch_lr_finder": torch_lr_finder(lrs, losses), "lightning": lightning(lrs, losses)}
    return found | {rule: rate for rule, rate in others.items() if rate is not None}


def median_of_peers(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median over seeds of each rule's rate, from the `peers` of each seed."""
    rules = sorted({rule for one in found for rule in one})
    return {rule: median(one[rule] for one in found if rule in one) for rule in rules}


def curve(
    lrs: Sequence[float], losses: Sequence[float], total_steps: int | None = None
) -> tuple[list[float], list[float]]:
    """The smoothed curve of raw losses, trimmed as in fastai: no first tenth, no last 5, nothing from a NaN or inf on.

    The tenth is of total_steps, the steps planned (fastai's num_it); by default of the steps there are.
    Raises ValueError for different lengths, for rates that do not rise, and if fewer than 16 points are left.
    """
    rates, values = checked(lrs, losses)
    kept = slice((total_steps or len(rates)) // 10, -SKIP_END)
    rates, smoothed = rates[kept], np.array(smooth(values))[kept]
    end = first(~np.isfinite(smoothed))
    if end < MIN_POINTS:
        raise ValueError(
            f"a range test must leave at least {MIN_POINTS} points after trimming, got {end} of {len(values)} steps: "
            "it diverged too early, so lower range_test.start_lr, raise range_test.steps, or set max_lr yourself"
        )
    return rates[:end].tolist(), smoothed[:end].tolist()


def torch_lr_finder(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """torch-lr-finder 0.2.2's suggestion: the steepest descent by index of losses smoothed with beta 0.95."""
    rates, values = checked(lrs, losses)
    smoothed, stop = values.copy(), len(values)
    for i in range(1, len(values)):
        smoothed[i] = (1 - TORCH_LR_FINDER_BETA) * values[i] + TORCH_LR_FINDER_BETA * smoothed[i - 1]
        if smoothed[i] > 5 * smoothed[:i].min():
            stop = i + 1
            break
    skipped, spared = TORCH_LR_FINDER_SKIPS
    kept = slice(skipped, stop - spared)
    return _steepest(rates[kept], np.gradient(smoothed[kept]) if stop - spared - skipped > 1 else smoothed[:0])


def lightning(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Lightning 2.6.6's suggestion: the lowest d loss / d lr, of a mean whose bias correction is off by a step."""
    rates, values = checked(lrs, losses)
    average, best, smoothed = 0.0, np.inf, []
    for i, value in enumerate(values):
        average = LIGHTNING_BETA * average + (1 - LIGHTNING_BETA) * value
        smoothed.append(average / (1 - LIGHTNING_BETA ** (i + 2)))
        if i > 1 and smoothed[i] > 4 * best:
            break
        best = smoothed[i] if i < 2 else min(best, smoothed[i])
    skipped, spared = LIGHTNING_SKIPS
    kept = slice(skipped, len(smoothed) - spared)
    rates, means = rates[kept], np.array(smoothed[kept])
    rates, means = rates[np.isfinite(means)], means[np.isfinite(means)]
    # A slope that overflows, or whose rates are too close, is ignored.
    with np.errstate(all="ignore"):
        return _steepest(rates, np.gradient(means, rates) if len(means) > 1 else means[:0])


def _steepest(rates: Floats, slopes: Floats) -> float | None:
    known = np.where(np.isfinite(slopes), slopes, np.inf)
    return float(rates[np.argmin(known)]) if len(known) and np.isfinite(known).any() else None


def suggestions(lrs: Sequence[float], losses: Sequence[float]) -> dict[str, float]:
    """The rate by each of fastai 2's rules (fastai/callback/schedule.py, 2.8.12), from a smoothed and trimmed curve.

    minimum: a tenth of the rate at the lowest loss. steep: the rate where d loss / d log lr is lowest. valley, slide:
    the rules of these names.
    Raises ValueError for fewer than 16 points, losses that are not finite, and rates that do not rise from above 0.
    """
    rates, values = checked(lrs, losses)
    if len(values) < MIN_POINTS:
        raise ValueError(f"a curve must have at least {MIN_POINTS} points, got {len(values)}")
    if rates[0] == 0:
        raise ValueError("lrs must be above 0, got 0.0 at 0: leave that point out")
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = first(wrong)
        raise ValueError(f"losses must be finite, got {values[at]} at {at}: cut the curve before it")
    return {
        "minimum": float(rates[np.argmin(values)]) / 10,
        "steep": float(rates[np.argmin(np.diff(values) / np.diff(np.log(rates)))]),
        "valley": float(rates[_valley(values)]),
        "slide": float(rates[_slide(values)]),
    }


def _valley(losses: Floats) -> int:
    """Half-way through the longest falling subsequence (the first of several), as fastai counts it.

    It takes the subsequence for contiguous, so its start may be -1, and an index of -1 is the last point.
    """
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        lengths[i] = 1 + lengths[:i].max(initial=0, where=losses[:i] > losses[i])
    end = int(np.argmax(lengths))
    start = end - int(lengths[end]) if end else 0
    third = (end - start) / 3
    return start + int(third) + int(third / 2)


def _slide(losses: Floats) -> int:
    """The left edge of a window of 15 steps that slides down from the end until the slopes at its edges agree.

    The answer is the last edge that did not agree yet; where none agrees, the first point of the curve.
    """
    slopes = np.gradient(losses)
    agree = np.abs(slopes[SLIDE_GAP:] - slopes[:-SLIDE_GAP]) <= SLIDE_THRESHOLD
    return len(agree) - max(1, first(agree[::-1]))
