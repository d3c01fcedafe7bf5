"""Made-up range tests whose steepest point is known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """A loss over x = log10 lr without noise, and the range of x that a test covers."""

    loss: Callable[[Floats], Floats]
    start: float = -7
    end: float = 1

    def steepest(self) -> float:
        """The rate where d loss / d log lr is lowest."""
        x = np.linspace(self.start, self.end, 20_001)
        return float(10 ** x[np.argmin(np.gradient(self.loss(x), x))])

    def test(self, noise: float, seed: int, steps: int = 100) -> tuple[list[float], list[float]]:
        """Rates and losses of a test."""
        x = np.linspace(self.start, self.end, steps)
        drawn = np.random.default_rng(seed).standard_normal(steps) * noise
        return (10**x).tolist(), (self.loss(x) + drawn).tolist()


def rise(at: float, rate: float) -> Callable[[Floats], Floats]:
    return lambda x: np.expm1(np.clip(rate * (x - at), 0, 50))


def logistic(at: float, rate: float, fall: float = 1.6) -> Callable[[Floats], Floats]:
    return lambda x: -fall / (1 + np.exp(-rate * (x - at)))


def made(*parts: Callable[[Floats], Floats], start: float = -7) -> Shape:
    return Shape(lambda x: 2.3 + sum((part(x) for part in parts), np.zeros_like(x)), start)


GOLDEN = made(logistic(-2.5, 2.2), rise(-0.3, 4))
SHAPES = {
    "golden": GOLDEN,
    "wide": made(logistic(-2.5, 1.3), rise(0, 4)),
    "narrow": made(logistic(-2, 4.5), rise(-0.3, 6)),
    "late": made(logistic(-1.2, 3), rise(-0.2, 5)),
    "early": made(logistic(-4, 2.2), rise(-1, 4)),
    "small": made(logistic(-2.5, 2.2, fall=0.6), rise(-0.3, 4)),
    "two descents": made(logistic(-4, 3.5, fall=0.4), logistic(-1.6, 3.5, fall=1.2), rise(-0.2, 5)),
    "slow end": made(lambda x: -1.6 * np.exp(-np.exp(-2 * (x + 2.5))), rise(-0.3, 4)),
    "slow start": made(lambda x: -1.6 * -np.expm1(-np.exp(2 * (x + 2))), rise(-0.3, 4)),
    "error function": made(lambda x: -0.8 * (1 + erf((x + 2) / 0.8)), lambda x: 10 ** (2 * (x - 0.5))),
    "short range": made(logistic(-2.5, 2.2), rise(-0.3, 4), start=-5),
}
