"""The verdict of a range test: one max_lr."""

import math
from collections.abc import Sequence

import numpy as np

from onecycle_sweeps.range_test.curves import Floats, checked, curve, first

LEAST_DESCENT = 0.01
DEVIATIONS_PER_MEDIAN_DIFFERENCE = 1 / (0.6745 * math.sqrt(2))


def verdict(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """The max_lr that the raw losses of a whole range test speak for.

    A tenth of the rate at the lowest point of the smoothed and trimmed curve (`curve`) before the onset of divergence
    (`onset`), hence below that onset. Of a test whose loss still falls at its end, that is a tenth of its last rates.
    Raises ValueError where the smoothed loss falls, before that onset, by less than 1 % or by less than the noise of
    one raw loss (pure noise falls by more in some 4 of 1,000 tests of 100 steps); and, as `curve` does, where too few
    points are left.
    """
    rates, smoothed = curve(lrs, losses)
    _, raw = checked(lrs, losses)
    skipped = len(raw) // 10
    end = max(_onset(raw), skipped + 1)
    before = smoothed[: end - skipped]
    lowest = int(np.argmin(before))
    noise = _noise(raw[:end])
    if before[0] - before[lowest] <= max(noise, LEAST_DESCENT * abs(before[0])):
        raise ValueError(
            f"the loss of a range test must fall by more than 1 % and its noise ({noise:.2g}), got {before[0]:.4g} and "
            f"{before[lowest]:.4g} at best: if it stayed flat, raise range_test.end_lr (last {lrs[-1]:.2g}); if it "
            f"rose at once, lower range_test.start_lr (first {lrs[0]:.2g}) and, in mode linear, range_test.end_lr; "
            "if it is noisy, raise range_test.steps; or set max_lr yourself"
        )
    return rates[lowest] / 10


def onset(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which raw losses begin to diverge, None if they do not.

    That is the first loss that is not finite, or the step from which the running median of 5 losses stays above the
    middle between the median of the first tenth and its own lowest value, to the end of the test: half of the descent
    is lost for good. A spike from which the training recovers is no divergence.
    """
    rates, raw = checked(lrs, losses)
    at = _onset(raw)
    return float(rates[at]) if at < len(rates) else None


def _onset(raw: Floats) -> int:
    raw = raw[: first(~np.isfinite(raw))]
    if len(raw) == 0:
        return 0
    level = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(raw, 2, mode="edge"), 5), axis=1)
    middle = (np.median(raw[: len(raw) // 10 + 1]) + level.min()) / 2
    return len(raw) - first(level[::-1] <= middle)


def _noise(raw: Floats) -> float:
    """The standard deviation of one loss, from the differences of neighbours, which a slow descent does not touch."""
    raw = raw[np.isfinite(raw)]
    return float(np.median(np.abs(np.diff(raw)))) * DEVIATIONS_PER_MEDIAN_DIFFERENCE
