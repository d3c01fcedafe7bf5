"""What became of each trial of a sweep, read from the trials' folders in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from onecycle_sweeps import journal
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.state import FINISHED, state
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep


@dataclass(frozen=True)
class Series:
    """Values of one metric and the steps that they belong to, in order of steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True)
class Outcome:
    """One trial as a report sees it; `result` and `resolved` are empty while the files are not there."""

    entry: Entry
    folder: TrialFolder
    status: str
    cause: str | None
    attempts: int
    result: dict[str, Any]
    resolved: dict[str, Any]
    val_loss: Series
    val_accuracy: Series

    @property
    def name(self) -> str:
        """The name that its run bears."""
        return self.entry.name(self.max_lr)

    @property
    def max_lr(self) -> float | None:
        """The rate that the trial used; None for a range test and before the first attempt."""
        return self.resolved.get("max_lr")

    @property
    def metrics(self) -> dict[str, float]:
        return self.result.get("metrics", {})

    @property
    def finished(self) -> bool:
        return self.status == FINISHED

    @property
    def steps_to_target(self) -> int | None:
        """The number of steps taken when an evaluation first reached target_accuracy; None if none did."""
        if (target := self.entry.target_accuracy) is None:
            return None
        return next((step + 1 for step, value in _pairs(self.val_accuracy) if value >= target), None)

    @property
    def evaluation_gap(self) -> int | None:
        """The most steps between two evaluations (or the start and the first): how finely steps_to_target is known."""
        ends = [0, *(step + 1 for step in self.val_accuracy.steps)]
        return max((later - earlier for earlier, later in pairwise(ends)), default=None)


def read(sweep: Sweep) -> tuple[Outcome, ...]:
    """The outcomes of all trials and range tests of a sweep, in its order."""
    return tuple(_outcome(entry, sweep.trial(entry.signature)) for entry in sweep.trials)


def series(record: journal.Record, name: str) -> Series:
    """One metric of a trial's journal."""
    steps, values = record.series(name)
    return Series(tuple(steps), tuple(values))


def _outcome(entry: Entry, folder: TrialFolder) -> Outcome:
    stands = state(folder)
    record = journal.read(folder.journal) if entry.kind == TRAIN else journal.Record((), (), 0)
    return Outcome(
        entry=entry,
        folder=folder,
        status=stands.status,
        cause=stands.cause,
        attempts=folder.attempts(),
        result=folder.result() or {},
        resolved=folder.resolved() or {},
        val_loss=series(record, journal.VAL_LOSS),
        val_accuracy=series(record, journal.VAL_ACCURACY),
    )


def _pairs(values: Series) -> Iterator[tuple[int, float]]:
    return zip(values.steps, values.values, strict=True)
