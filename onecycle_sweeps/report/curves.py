"""The curves of a single trial, read from its journal."""

from dataclasses import dataclass
from itertools import pairwise

from onecycle_sweeps import journal
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.report.outcomes import Series, series


@dataclass(frozen=True)
class Trajectory:
    """The lr and momentum that the optimizer used at each step; momentum is empty where it has none."""

    lr: Series
    momentum: Series


@dataclass(frozen=True)
class RangeTestCurve:
    """One seed's range test, a value per step: the rate, the batch's loss, and the smoothed loss."""

    lr: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]


def trajectory(trial: TrialFolder) -> Trajectory:
    """What the optimizer used, as the journal has it so far."""
    record = journal.read(trial.journal)
    return Trajectory(series(record, journal.LR), series(record, journal.MOMENTUM))


def range_tests(trial: TrialFolder) -> list[RangeTestCurve]:
    """The curves of a range test, one per seed: the next begins where the rate does not rise."""
    record = journal.read(trial.journal)
    columns = [record.series(name)[1] for name in (journal.LR, journal.TRAIN_LOSS, journal.SMOOTHED_LOSS)]
    points = list(zip(*columns, strict=True))
    starts = [i for i, (one, following) in enumerate(pairwise(points), start=1) if following[0] <= one[0]]
    bounds = [0, *starts, len(points)] if points else [0]
    return [RangeTestCurve(*zip(*points[start:stop], strict=True)) for start, stop in pairwise(bounds)]
