"""What is measured of a group's trials in the course of training: a mean and a band over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onecycle_sweeps.outcome import Outcome, Series
from onecycle_sweeps.report import canvas
from onecycle_sweeps.trial_folder import DIVERGED

Floats = NDArray[np.float64]
Against = Literal["steps", "seconds"]
STEPS: Against = "steps"
SECONDS: Against = "seconds"
AXIS_LABELS: dict[Against, str] = {STEPS: canvas.STEP, SECONDS: "seconds of training"}


@dataclass(frozen=True)
class Measure:
    """What a figure shows of each trial: `values * scale`, under a title and an axis label in words."""

    field: Literal["val", "val_loss"]
    title: str
    label: str
    scale: float
    digits: str
    may_be_logarithmic: bool

    def of(self, outcome: Outcome) -> tuple[Floats, Floats]:
        """The steps and values of a trial's evaluations; what is not finite is not a number."""
        found: Series = getattr(outcome, self.field)
        values = self.scale * np.asarray(found.values, dtype=float)
        return np.asarray(found.steps, dtype=float), np.where(np.isfinite(values), values, np.nan)


ACCURACY = Measure("val", "Validation accuracy", "val accuracy (%)", 100.0, ".2f", False)
LOSS = Measure("val_loss", "Validation loss", "val loss", 1.0, "#.3g", True)


@dataclass(frozen=True)
class Band:
    """A group's mean over its seeds at each evaluation, between the lowest and the highest seed.

    `seconds` is the mean over the seeds of the time that training had taken.
    """

    steps: Floats
    seconds: Floats
    mean: Floats
    low: Floats
    high: Floats

    def across(self, against: Against) -> Floats:
        return self.steps if against == STEPS else self.seconds


def band(members: Sequence[Outcome], measure: Measure) -> Band | None:
    """Over the finished seeds; where none has finished, over those under way, as far as all of them have come."""
    finished = [o for o in members if o.finished]
    found = [(o, dict(zip(*measure.of(o), strict=True))) for o in finished or members if o.status != DIVERGED]
    found = [(o, run) for o, run in found if run]
    if not found:
        return None
    steps = sorted(set.intersection(*(set(run) for _, run in found)))
    values = np.array([[run[step] for step in steps] for _, run in found])
    seconds = np.array([[o.clock.get(int(step), np.nan) for step in steps] for o, _ in found])
    return Band(np.array(steps), seconds.mean(axis=0), values.mean(axis=0), values.min(axis=0), values.max(axis=0))
