"""Where a range test begins to diverge."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onecycle_sweeps.range_test.curves import Floats, checked, first

MEDIAN_OF = 5
Steps = NDArray[np.intp]


def onset(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which raw losses begin to diverge, None if they do not.

    That is the first loss that is not finite, or the step from which the running median of 5 losses stays above the
    middle between the median of the first tenth and its own lowest value, to the end of the test: half of the descent
    is lost for good. A spike from which the training recovers is no divergence.
    """
    rates, raw = checked(lrs, losses)
    at = first_step(raw)
    return float(rates[at]) if at < len(rates) else None


def first_step(raw: Floats) -> int:
    """The step at which raw losses begin to diverge, their number if they do not."""
    finite = raw[: first(~np.isfinite(raw)), None]
    return int(_crossings(finite)[0]) if len(finite) else 0


def first_steps(raw: Floats, count: int) -> Steps:
    """The same step of the losses as they are, then `count - 1` times with their residuals' signs drawn anew.

    This wild bootstrap (Wu 1986) leaves each residual its size, since losses scatter more near divergence.
    """
    finite = raw[: first(~np.isfinite(raw)), None]
    level = _level(finite)
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(len(finite), count - 1))
    return _crossings(np.hstack([finite, level + (finite - level) * signs]))


def running_median(raw: Floats, of: int = MEDIAN_OF) -> Floats:
    """The median of each value and its neighbours, `of` in all; mirrored at the ends, where one alone has no say."""
    return _level(raw[:, None], of, "reflect")[:, 0]


def _level(raw: Floats, of: int = MEDIAN_OF, ends: Literal["edge", "reflect"] = "edge") -> Floats:
    """The running medians (steps, tests) of losses (steps, tests)."""
    padded = np.pad(raw, ((of // 2, of // 2), (0, 0)), mode=ends)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, of, axis=0), axis=-1)


def _crossings(raw: Floats) -> Steps:
    """For each test (steps, tests) the step from which half of its descent is lost for good."""
    level = _level(raw)
    middle = (np.median(raw[: len(raw) // 10 + 1], axis=0) + level.min(axis=0)) / 2
    below = level[::-1] <= middle
    return len(raw) - np.where(below.any(axis=0), np.argmax(below, axis=0), len(raw))
