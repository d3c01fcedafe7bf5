"""A range test's loss over log lr, smoothed without lag, with the uncertainty of the curve."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onecycle_sweeps.range_test.ramp import MIN_POINTS, Floats

MOST_POINTS = 128
GRID_POINTS = 160
DRAWS = 400
# The hyperparameters to choose from: kernel length scales in decades, and ratios of signal to noise, as variances.
LENGTHS = np.geomspace(0.2, 3.0, 10)
RATIOS = np.geomspace(0.1, 1e5, 25)
# Draws are from the best choices that together have this weight, and from at most this many.
COVERED, MOST_CHOICES = 0.99, 12
SURE = 0.95
DECADES_OF_A_RAMP = 4.0
# A ramp of fewer decades is stretched, because it would be shorter than the shortest of LENGTHS.
NARROW = 1.0
# The separate fit of the descent ends where this share of it is lost again. If it ended at the lowest point, that
# point's noise would look like a steep fall.
LOST = 0.15


@dataclass(frozen=True)
class Points:
    """Values over x, which is log10 lr or scaled lr; each is the mean of `counts` values of neighbouring steps."""

    x: Floats
    y: Floats
    counts: Floats

    def until(self, end: int) -> "Points":
        """The first `end` points."""
        return Points(self.x[:end], self.y[:end], self.counts[:end])


@dataclass(frozen=True)
class Choice:
    """Hyperparameters of the fit, which are the curve's smoothness and noise, with their log evidence.

    `mean` is the level around which the curve varies, `noise` the variance of one loss.
    """

    evidence: float
    length: float
    ratio: float
    mean: float
    noise: float


@dataclass(frozen=True)
class Curve:
    """A smooth loss curve: its mean (grid,) over rates (grid,), and draws from its posterior (grid, draws)."""

    rates: Floats
    mean: Floats
    draws: Floats

    def lowest(self) -> Floats:
        """The rate of the lowest loss: of the mean first, then of each draw."""
        return self.rates[np.argmin(self._all(), axis=0)]

    def steepest(self) -> Floats:
        """The rate where d loss / d log lr is lowest: of the mean first, then of each draw."""
        return self.rates[np.argmin(np.gradient(self._all(), axis=0), axis=0)]

    def last_clear_descent(self) -> float:
        """The last rate at which 95 % of the draws fall; the first rate if there is none."""
        falling = self._share_that_fall() >= SURE
        return float(self.rates[np.flatnonzero(falling)[-1]] if falling.any() else self.rates[0])

    def clearly_falls(self) -> bool:
        """Whether there is a rate at which 95 % of the draws fall."""
        return bool((self._share_that_fall() >= SURE).any())

    def _share_that_fall(self) -> Floats:
        return np.mean(np.gradient(self.draws, axis=0) < 0, axis=1)

    def _all(self) -> Floats:
        return np.column_stack([self.mean, self.draws])


def fit(rates: Floats, losses: Floats) -> tuple[Curve, Curve]:
    """Fit the raw losses of one range test before its divergence: the whole curve, and only its descent.

    Gaussian-process regression over log10 lr with a squared-exponential kernel (Rasmussen and Williams 2006, chapters
    2 and 5), with parameters weighted by their evidence. It does not lag, because it weights both sides of a rate
    equally. The descent is fitted separately up to the following rise, which is less smooth.
    The same losses always give the same draws. Rates that span less than a decade are stretched to 4.
    """
    x, scale = np.log10(rates), 1.0
    if x[-1] - x[0] < NARROW:
        scale = DECADES_OF_A_RAMP / (x[-1] - x[0])
    points = _points((x - x[0]) * scale, losses)
    whole = _smooth(points)
    end = int(np.searchsorted(points.x, whole[0][_lost(whole[1])], side="right"))
    descent = _smooth(points.until(max(end, MIN_POINTS)))
    one, other = (Curve(10 ** (x[0] + grid / scale), mean, draws) for grid, mean, draws in (whole, descent))
    return one, other


def _lost(losses: Floats) -> int:
    """The first index after the lowest point at which the share LOST of the descent is lost, or the last index."""
    lowest = int(np.argmin(losses))
    risen = losses[lowest:] > losses[lowest] + LOST * (losses[0] - losses[lowest])
    return lowest + int(np.argmax(risen)) if risen.any() else len(losses) - 1


def fit_evenly(rates: Floats, values: Floats) -> Curve:
    """Fit values over the rates of a linear ramp, which are scaled to 4 decades."""
    scale = DECADES_OF_A_RAMP / (rates[-1] - rates[0])
    grid, mean, draws = _smooth(Points(rates * scale, values, np.ones(len(rates))))
    return Curve(grid / scale, mean, draws)


def _smooth(points: Points) -> tuple[Floats, Floats, Floats]:
    """A grid over the points, the mean of the curve there (grid,), and draws of it (grid, draws)."""
    grid = np.linspace(points.x[0], points.x[-1], GRID_POINTS)
    random, mean, draws = np.random.default_rng(0), np.zeros(GRID_POINTS), []
    likely = list(_likely(_choices(points)))
    features = {length: _features(points, length, grid) for length in {choice.length for choice, _ in likely}}
    for choice, weight in likely:
        expected, deviations = _conditioned(points, choice, *features[choice.length])
        mean += weight * expected
        count = max(1, round(weight * DRAWS))
        draws.append(expected[:, None] + deviations @ random.standard_normal((deviations.shape[1], count)))
    return grid, mean, np.hstack(draws)


def _points(x: Floats, losses: Floats) -> Points:
    """Means of neighbouring steps where there are many, so that a long test takes no longer to fit."""
    starts = np.arange(0, len(x), -(-len(x) // MOST_POINTS))
    counts = np.diff(starts, append=len(x)).astype(float)
    return Points(np.add.reduceat(x, starts) / counts, np.add.reduceat(losses, starts) / counts, counts)


def _kernel(one: Floats, other: Floats, length: float) -> Floats:
    return np.exp(-0.5 * ((one[:, None] - other) / length) ** 2)


def _choices(points: Points) -> list[Choice]:
    """Every choice with its restricted log evidence, the best first; mean and noise are those that fit it best."""
    root, degrees = np.sqrt(points.counts), len(points.x) - 1
    found = []
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(_kernel(points.x, points.x, length) * root[:, None] * root)
        y, one = vectors.T @ (points.y * root), vectors.T @ root
        variance = RATIOS[:, None] * np.clip(values, 0, None) + 1
        precision = (one**2 / variance).sum(axis=1)
        mean = (one * y / variance).sum(axis=1) / precision
        noise = ((y - one * mean[:, None]) ** 2 / variance).sum(axis=1) / degrees
        noise = np.maximum(noise, np.finfo(float).tiny)
        evidence = -0.5 * (degrees * np.log(noise) + np.log(variance).sum(axis=1) + np.log(precision))
        found += map(Choice, evidence, np.full(len(RATIOS), length), RATIOS, mean, noise)
    return sorted(found, key=lambda choice: -choice.evidence)


def _likely(choices: list[Choice]) -> Iterator[tuple[Choice, float]]:
    """The best choices with their weights, which sum to 1."""
    weights = np.exp([choice.evidence - choices[0].evidence for choice in choices])
    covered = np.cumsum(weights) / weights.sum()
    count = min(MOST_CHOICES, int(np.searchsorted(covered, COVERED)) + 1)
    return zip(choices[:count], weights[:count] / weights[:count].sum(), strict=True)


def _features(points: Points, length: float, grid: Floats) -> tuple[Floats, Floats]:
    """The features (grid, features) and (points, features) whose products are the kernel: few, since it is smooth."""
    values, vectors = np.linalg.eigh(_kernel(grid, grid, length))
    kept = values > 1e-10 * values[-1]
    vectors, roots = vectors[:, kept], np.sqrt(values[kept])
    return vectors * roots, _kernel(points.x, grid, length) @ vectors / roots


def _conditioned(points: Points, choice: Choice, on_grid: Floats, on_points: Floats) -> tuple[Floats, Floats]:
    """The expected losses on a grid, and a root of their covariance: deviations (grid, independent ones).

    It is a linear regression on the features (the same book, section 2.1), so that all matrices are small.
    """
    seen = on_points.T * points.counts
    root = np.linalg.cholesky(seen @ on_points + np.eye(len(seen)) / choice.ratio)
    spread = np.linalg.solve(root, on_grid.T).T
    expected = choice.mean + spread @ np.linalg.solve(root, seen @ (points.y - choice.mean))
    return expected, np.sqrt(choice.noise) * spread
