"""What became of a trial of a sweep, read from its folder at one moment: for the report and for tracking alike."""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from onecycle_sweeps import journal, measures
from onecycle_sweeps.config.schema import LOOP
from onecycle_sweeps.files import Damaged, Unreadable
from onecycle_sweeps.measures import AT_CHANCE, LOSS, Measure
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry, Sweep
from onecycle_sweeps.trial_folder import DIVERGED, FINISHED, LOST, TrialFolder


@dataclass(frozen=True)
class Series:
    """Values of one metric and their steps, in order of steps."""

    steps: Sequence[int] = ()
    values: Sequence[float] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    def pairs(self) -> Iterator[tuple[int, float]]:
        return zip(self.steps, self.values, strict=True)

    def packed(self) -> "Series":
        """The same in 8 bytes a step, for series with a value at each step."""
        whole = range(self.steps[0], self.steps[-1] + 1) if self.steps else ()
        return Series(whole if len(whole) == len(self.steps) else tuple(self.steps), array("d", self.values))

    def thinned(self, columns: int) -> "Series":
        """The lowest and highest values in each of `columns` parts of equal width, and the first and last value."""
        if len(self.steps) <= 2 * columns:
            return self
        bounds = [i * len(self.steps) // columns for i in range(columns + 1)]
        kept = {0, len(self.steps) - 1}
        for start, stop in pairwise(bounds):
            kept |= {min(range(start, stop), key=self.values.__getitem__)}
            kept |= {max(range(start, stop), key=self.values.__getitem__)}
        return Series(*zip(*((self.steps[i], self.values[i]) for i in sorted(kept)), strict=True))


@dataclass(frozen=True)
class Trajectory:
    """The learning rate and the momentum of each step; `momentum` is empty where the optimizer has none."""

    lr: Series = Series()
    momentum: Series = Series()


@dataclass(frozen=True)
class RangeTestCurve:
    """The range test of one seed, with a value per step: learning rate, batch loss and smoothed loss.

    The smoothed loss is NaN from divergence on, and everywhere if too few steps precede it. `evaluations` are pairs of
    a learning rate and the headline measure on the validation part; only a linear ramp has them.
    """

    lr: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]
    evaluations: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Arrival:
    """The number of steps after which a trial reached its target, or, if it did not, the length of its whole run."""

    steps: float
    reached: bool


@dataclass(frozen=True)
class Outcome:
    """One trial as report and tracking show it: all its records read at one moment, so that no two of them disagree.

    `result` and `resolved` are empty while those files do not exist.

    Of a trial that is lost because a record is unreadable, only the cause is known. `attempts` is the number of
    the newest attempt, `history` all attempts without their blocks. `written` is the time in seconds of the newest
    of result, failure and checkpoint, None before the first of them.

    The remaining fields come from the journal's series, and are empty unless `with_series` or `read` has filled them:
    the metrics of each evaluation by name (`val/loss`), the seconds of training before it (`clock`, by step), the
    trajectory that the optimizer used, and the curves of a range test, one per seed.
    """

    entry: Entry
    folder: TrialFolder
    status: str
    cause: str | None = None
    attempts: int = 0
    result: Mapping[str, Any] = field(default_factory=dict)
    resolved: Mapping[str, Any] = field(default_factory=dict)
    written: float | None = None
    history: tuple[journal.Attempt, ...] = ()
    evaluations: Mapping[str, Series] = field(default_factory=dict)
    clock: Mapping[int, float] = field(default_factory=dict)
    used: Trajectory = Trajectory()
    curves: tuple[RangeTestCurve, ...] = ()

    @property
    def name(self) -> str:
        """The name of the trial's run, which is its legend in a chart."""
        return self.entry.name(self.max_lr)

    @property
    def max_lr(self) -> float | None:
        """The learning rate that the trial used; None for a range test and before the first attempt."""
        return self.resolved.get("max_lr")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the trial is measured by, headline first."""
        return measures.of_trial(self.resolved)

    @property
    def headline(self) -> Measure:
        """The measure that the trial is judged by."""
        return self.measures[0]

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the end; empty before there is a result."""
        return self.result.get("metrics", {})

    @property
    def suggestions(self) -> dict[str, float]:
        """The rates that a range test suggests, by the names of the rules; `max_lr` is the verdict."""
        prefix = "suggestion/"
        return {name.removeprefix(prefix): rate for name, rate in self.metrics.items() if name.startswith(prefix)}

    @property
    def config(self) -> Mapping[str, Any]:
        """The trial's config as asked; empty if it is missing or unreadable."""
        try:
            return self.folder.config()
        except Unreadable:
            return {}

    @property
    def started_again(self) -> tuple[str, ...]:
        """Why a user's own training function had to start again from step 0, if it had."""
        notes = next((attempt.notes for attempt in reversed(self.history) if attempt.start == 0), ())
        return notes if notes and LOOP in self.config else ()

    @property
    def finished(self) -> bool:
        return self.status == FINISHED

    @property
    def ended(self) -> bool:
        """Whether the trial has a result; a divergence is one too."""
        return self.status in (FINISHED, DIVERGED)

    @property
    def final(self) -> float | None:
        """The headline measure of the last evaluation on the validation part; None before there is a result."""
        return self.metrics.get(self.headline.final_val)

    @property
    def final_loss(self) -> float | None:
        """The loss of the last evaluation on the validation part; None unless the trial has finished."""
        losses = self.val(LOSS)
        return losses.values[-1] if self.finished and losses else None

    @property
    def chance(self) -> float | None:
        """The value of the best constant prediction, if the final value is hardly better; None otherwise."""
        chance, final, headline = self.result.get("chance"), self.final, self.headline
        if not self.finished or chance is None or final is None:
            return None
        if not headline.is_fraction or headline.goal == "min":
            return None
        share = headline.above_chance(final, chance)
        return chance if share is None or share <= AT_CHANCE else None

    def val(self, measure: Measure) -> Series:
        """The values of a measure on the validation part, one per evaluation."""
        return self.evaluations.get(measure.val, Series())

    @property
    def steps_to_target(self) -> int | None:
        """The steps taken when an evaluation first reached the target; None if none did, or without a target."""
        target = self.entry.target
        if target is None:
            return None
        values = self.val(self.headline).pairs()
        return next((step + 1 for step, value in values if self.headline.reaches(value, target)), None)

    @property
    def arrival(self) -> Arrival | None:
        """When the trial reached its target; a diverged one never did. None without a target or a result."""
        if self.entry.target is None or not self.ended:
            return None
        if self.finished and (steps := self.steps_to_target):
            return Arrival(steps, reached=True)
        planned = self.resolved.get("total_steps", self.result.get("steps", 1))
        return Arrival(max([planned, *(step + 1 for step in self.val(self.headline).steps)]), reached=False)

    @property
    def evaluation_gap(self) -> int | None:
        """The most steps between two evaluations, or before the first: the resolution of `steps_to_target`."""
        ends = [0, *(step + 1 for step in self.val(self.headline).steps)]
        return max((later - earlier for earlier, later in pairwise(ends)), default=None)


def glance(entry: Entry, folder: TrialFolder) -> Outcome:
    """The status of a trial without `resolved` and `history`: cheap enough for all trials of a sweep every second."""
    found = folder.state()
    attempts, written = folder.attempts(), _written(folder, found.result)
    return Outcome(entry, folder, found.status, found.cause, attempts, found.result, written=written)


def look(entry: Entry, folder: TrialFolder) -> Outcome:
    """What a trial's records say at this moment; of the journal only the outline of each attempt is read."""
    return with_history(glance(entry, folder))


def with_resolved(outcome: Outcome) -> Outcome:
    """The outcome with what its first attempt resolved, which its name and its measures depend on."""
    try:
        return replace(outcome, resolved=outcome.folder.resolved() or {})
    except Unreadable as error:
        return _lost(outcome, error)


def with_history(outcome: Outcome) -> Outcome:
    """The outcome with what its first attempt resolved and the outline of each attempt.

    They are read after the status: what the trial has written in the meantime is seen, never missed.
    """
    try:
        resolved, history = outcome.folder.resolved() or {}, journal.attempts(outcome.folder.journal)
    except Unreadable as error:
        return _lost(outcome, error)
    return replace(outcome, resolved=resolved, history=history)


def with_series(outcome: Outcome, *, with_trajectory: bool = False) -> Outcome:
    """The outcome with the series of its journal; a trial whose records lack part of its result becomes lost."""
    if not outcome.history:
        return outcome
    trained, result = outcome.entry.kind == TRAIN, outcome.result
    try:
        record = journal.read(outcome.folder.journal, result.get("attempt"))
        if missing := _missing(record, outcome):
            raise Damaged(f"the journal in {outcome.folder.journal} is damaged: it has {missing}")
        if trained and outcome.finished and outcome.final is None:
            final = outcome.headline.final_val
            raise Damaged(f"{outcome.folder.path / 'result.json'} is damaged: it has no {final}")
    except Unreadable as error:
        return _lost(outcome, error)
    return replace(
        outcome,
        evaluations=evaluations_of(record, outcome.measures) if trained else {},
        clock=clock(record, outcome.metrics.get("seconds")),
        used=trajectory(record) if trained and with_trajectory else Trajectory(),
        curves=() if trained else range_test_curves(record, outcome.headline),
    )


def read(sweep: Sweep) -> tuple[Outcome, ...]:
    """The outcomes of all trials and range tests of a sweep with their series, in the sweep's order.

    `used` is kept for the trials of each group up to the first that finished: one trial stands for its group.
    """
    found: list[Outcome] = []
    shown: set[tuple[tuple[str, str], ...]] = set()
    for entry in sweep.trials:
        outcome = look(entry, sweep.trial(entry.signature))
        outcome = with_series(outcome, with_trajectory=entry.group not in shown)
        if outcome.finished and outcome.used.lr:
            shown.add(entry.group)
        found.append(outcome)
    return tuple(found)


def series(record: journal.Record, name: str) -> Series:
    """One metric of a journal."""
    steps, values = record.series(name)
    return Series(tuple(steps), tuple(values))


def evaluations_of(record: journal.Record, measured: Iterable[Measure]) -> dict[str, Series]:
    """What was recorded of these measures, and of the loss, at each evaluation, by the name of the metric."""
    names = [measure.val for measure in measures.recorded(measured)]
    return {name: found for name in names if (found := series(record, name))}


def trajectory(record: journal.Record) -> Trajectory:
    """The learning rates and momenta that the optimizer used, as far as the journal goes."""
    return Trajectory(series(record, journal.LR).packed(), series(record, journal.MOMENTUM).packed())


def range_test_curves(record: journal.Record, headline: Measure) -> tuple[RangeTestCurve, ...]:
    """The curves in a range test's journal, one per seed: the next seed begins where the rate does not rise."""
    smoothed = dict(zip(*record.series(journal.SMOOTHED_LOSS), strict=True))
    rates, losses = (record.series(name)[1] for name in (journal.LR, journal.TRAIN_LOSS))
    points = [
        (rate, loss, smoothed.get(step, math.nan)) for step, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]
    starts = [i for i, (one, following) in enumerate(pairwise(points), start=1) if following[0] <= one[0]]
    bounds = [0, *starts, len(points)] if points else [0]
    evaluations = list(zip(*record.series(headline.val), strict=True))
    return tuple(
        RangeTestCurve(
            *zip(*points[start:stop], strict=True),
            evaluations=tuple((points[step][0], value) for step, value in evaluations if start <= step < stop),
        )
        for start, stop in pairwise(bounds)
    )


def clock(record: journal.Record, seconds: float | None = None) -> dict[int, float]:
    """The seconds of training before each evaluation, by its step.

    Steps that a later attempt repeated do not count, and neither does time between attempts. If the `seconds` of the
    whole training are known, the excess of the attempts over it, which is the time to read data and build the net, is
    divided evenly among the attempts and subtracted.
    """
    spans = list(_spans(record))
    total = sum(last - began for began, last, _ in spans)
    setup = max(total - seconds, 0.0) / len(spans) if seconds is not None and spans else 0.0
    found: dict[int, float] = {}
    before = 0.0
    for began, last, evaluated in spans:
        found |= {step: max(before + time - began - setup, 0.0) for step, time in evaluated}
        before += max(last - began - setup, 0.0)
    return found


def _spans(record: journal.Record) -> Iterator[tuple[float, float, list[tuple[int, float]]]]:
    """For each attempt with steps in the record: when it began, the time of its last block, its evaluations' times.

    Where the clock was set back, the times go on from the block before, so that only the time of one block is lost.
    """
    ends = [attempt.start for attempt in record.attempts[1:]]
    for i, attempt in enumerate(record.attempts):
        stop = min(ends[i:], default=None)
        kept = [block for block in attempt.blocks if stop is None or block.step < stop]
        if kept:
            gaps = (max(later - earlier, 0.0) for earlier, later in pairwise([attempt.time, *(b.time for b in kept)]))
            times = [attempt.time + passed for passed in accumulate(gaps)]
            evaluated = [
                (b.step, time) for b, time in zip(kept, times, strict=True) if any(map(measures.is_of_val, b.metrics))
            ]
            yield attempt.time, times[-1], evaluated


def sweeper_value(trial: TrialFolder) -> float:
    """The number that a sweeper optimises: a training's final headline measure on val, or a range test's max_lr.

    A training that diverged has the worst value there is, a trial without a result NaN.
    """
    state = trial.state()
    if not state.has_result:
        return math.nan
    if state.status == DIVERGED:
        return trial.headline().worst
    name = "suggestion/max_lr" if state.result["kind"] == RANGE_TEST else trial.headline().final_val
    return state.result["metrics"].get(name, math.nan)


def _lost(outcome: Outcome, error: Unreadable) -> Outcome:
    """A trial with a record that cannot be used."""
    cause = outcome.cause if outcome.status == LOST and outcome.cause else f"{error}: rerun=true trains it again"
    return Outcome(outcome.entry, outcome.folder, LOST, cause, outcome.attempts, written=outcome.written)


def _missing(record: journal.Record, outcome: Outcome) -> str | None:
    """What a journal lacks of the result that belongs to it."""
    result = outcome.result
    if not result:
        return None
    steps, config, evaluated = result["steps"], outcome.folder.config(), set()
    if per_epoch := result["kind"] == TRAIN and config.get("evaluations_per_epoch"):
        # A trial that diverges does so before the evaluation that is due after the same step.
        last = steps if outcome.finished else steps - 1
        evaluated = journal.evaluation_points(last, result["steps_per_epoch"], per_epoch)
    return record.missing(steps, evaluated)


def _written(folder: TrialFolder, result: Mapping[str, Any]) -> float | None:
    """When the trial wrote its result, its failure or its last checkpoint, in seconds."""
    if result:
        return result["finished"]
    failure = folder.last_failure()
    return failure["time"] if failure else _modified(folder.checkpoint)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
