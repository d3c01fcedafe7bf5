"""What a range test says, as plain data."""

import math
from dataclasses import dataclass

import numpy as np

MOST_RATES = 12


@dataclass(frozen=True)
class Reading:
    """A rate, and the interval that 90 % of its draws over all seeds lie in."""

    rate: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        """How many times its low end the high end of the interval is."""
        return self.high / self.low


@dataclass(frozen=True)
class Smoothed:
    """One seed's loss curve before divergence, smoothed without lag."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """What a range test says; `doubts` are the reasons why it is ambiguous, none where it is confident.

    `divergence` is None where not every seed diverged. `lowest_loss` is of the smoothed curve, its seeds' median.
    `base_lr`, where val accuracy begins to rise, is read from tests with val accuracies alone.
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
    def grid(self) -> tuple[float, ...]:
        """Rates to try around the verdict: a factor of about 3 apart, further where those were more than a dozen."""
        ends = (math.log(self.max_lr.low / 3), math.log(self.max_lr.high * 3))
        count = min(MOST_RATES, max(3, 1 + round((ends[1] - ends[0]) / math.log(3))))
        return tuple(float(f"{rate:.2g}") for rate in np.exp(np.linspace(*ends, count)))
