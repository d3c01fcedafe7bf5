"""What became of each trial of a sweep, read from the trials' folders in one pass."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from onecycle_sweeps import journal
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.report.curves import RangeTestCurve, range_tests
from onecycle_sweeps.report.series import Series, Trajectory, clock, series, trajectory
from onecycle_sweeps.report.statistics import Arrival
from onecycle_sweeps.state import DIVERGED, FINISHED, LOST, State, state
from onecycle_sweeps.storage import Damaged, Unreadable
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep

# Of the way from chance to certainty, what an accuracy that is about chance has come at most.
AT_CHANCE = 0.05


@dataclass(frozen=True)
class Outcome:
    """One trial as a report sees it; `result` and `resolved` are empty while the files are not there.

    A trial of which a record is damaged is lost, and has nothing else: what is not known is no result.
    `clock` has the seconds of training behind each evaluation, by its step. `used` is what the optimizer used, kept of
    one trial of each group: the first that finished, or all up to it. `curves` are those of a range test's seeds.
    """

    entry: Entry
    folder: TrialFolder
    status: str
    cause: str | None
    attempts: int
    result: Mapping[str, Any]
    resolved: Mapping[str, Any]
    val_loss: Series = field(default_factory=Series)
    val_accuracy: Series = field(default_factory=Series)
    clock: Mapping[int, float] = field(default_factory=dict)
    used: Trajectory = field(default_factory=Trajectory)
    curves: tuple[RangeTestCurve, ...] = ()

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
    def config(self) -> Mapping[str, Any]:
        """The trial's config as asked; empty where that is not there, or cannot be read."""
        try:
            return self.folder.config()
        except Unreadable:
            return {}

    @property
    def finished(self) -> bool:
        return self.status == FINISHED

    @property
    def ended(self) -> bool:
        """Whether it has a result, which a divergence is too."""
        return self.status in (FINISHED, DIVERGED)

    @property
    def chance(self) -> float | None:
        """The val accuracy of always naming the most frequent class, where the final one is about that and no more."""
        chance, final = self.result.get("chance"), self.metrics.get("final/val_accuracy")
        if not self.finished or chance is None or final is None:
            return None
        return chance if final - chance <= AT_CHANCE * (1 - chance) else None

    @property
    def arrival(self) -> Arrival | None:
        """When it came to target_accuracy: a trial that diverged never did. None without a target or a result."""
        if self.entry.target_accuracy is None or not self.ended:
            return None
        if self.finished and (steps := self.steps_to_target):
            return Arrival(steps, reached=True)
        planned = self.resolved.get("total_steps", self.result.get("steps", 1))
        return Arrival(max([planned, *(step + 1 for step in self.val_accuracy.steps)]), reached=False)

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
    found: list[Outcome] = []
    shown: set[tuple[tuple[str, str], ...]] = set()
    for entry in sweep.trials:
        outcome = _outcome(entry, sweep.trial(entry.signature), with_trajectory=entry.group not in shown)
        if outcome.finished and outcome.used.lr:
            shown.add(entry.group)
        found.append(outcome)
    return tuple(found)


def _outcome(entry: Entry, folder: TrialFolder, *, with_trajectory: bool) -> Outcome:
    stands = state(folder)
    try:
        return _read(entry, folder, stands, with_trajectory=with_trajectory)
    except Unreadable as error:
        cause = stands.cause if stands.status == LOST else f"{error}: rerun=true trains it again"
        return Outcome(entry, folder, LOST, cause, folder.attempts(), {}, {})


def _read(entry: Entry, folder: TrialFolder, stands: State, *, with_trajectory: bool) -> Outcome:
    """What the folder says of a trial that stands like this; raises Unreadable."""
    trained, result = entry.kind == TRAIN, stands.result
    resolved = folder.resolved() or {}
    record = journal.read(folder.journal, result.get("attempt"))
    if result and (lacking := _lacks(record, folder.config(), stands)):
        raise Damaged(f"the journal in {folder.journal} is damaged: it has {lacking}")
    return Outcome(
        entry=entry,
        folder=folder,
        status=stands.status,
        cause=stands.cause,
        attempts=folder.attempts(),
        result=result,
        resolved=resolved,
        val_loss=series(record, journal.VAL_LOSS) if trained else Series(),
        val_accuracy=series(record, journal.VAL_ACCURACY) if trained else Series(),
        clock=clock(record, result.get("metrics", {}).get("seconds")),
        used=trajectory(record) if trained and with_trajectory else Trajectory(),
        curves=() if trained else tuple(range_tests(record)),
    )


def _lacks(record: journal.Record, config: Mapping[str, Any], stands: State) -> str | None:
    """What a trial's journal lacks of what its result says."""
    steps, evaluated = stands.result["steps"], set()
    if per_epoch := stands.result["kind"] == TRAIN and config.get("evaluations_per_epoch"):
        # One that diverges does so before the evaluation that is due after the same step.
        last = steps if stands.status == FINISHED else steps - 1
        evaluated = journal.evaluation_points(last, stands.result["steps_per_epoch"], per_epoch)
    return journal.lacks(record, steps, evaluated)


def _pairs(values: Series) -> Iterator[tuple[int, float]]:
    return zip(values.steps, values.values, strict=True)
