"""Series of a trial's journal: a metric over the steps, the trajectory, and how long the training had taken by then."""

from collections.abc import Iterator
from dataclasses import dataclass

from onecycle_sweeps import journal


@dataclass(frozen=True)
class Series:
    """Values of one metric and the steps that they belong to, in order of steps."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True)
class Trajectory:
    """An lr and a momentum for each step; momentum is empty where the optimizer has none."""

    lr: Series = Series()
    momentum: Series = Series()


def series(record: journal.Record, name: str) -> Series:
    """One metric of a trial's journal."""
    steps, values = record.series(name)
    return Series(tuple(steps), tuple(values))


def trajectory(record: journal.Record) -> Trajectory:
    """What the optimizer used, as the journal has it so far."""
    return Trajectory(series(record, journal.LR), series(record, journal.MOMENTUM))


def clock(record: journal.Record, seconds: float | None = None) -> dict[int, float]:
    """The seconds of training that lie behind each evaluation, by its step.

    Only the part of an attempt counts that no later one made again, and no time between attempts. Where the `seconds`
    of the whole training are known, what the attempts took beyond them, to read data and build the net, is taken off,
    from each alike.
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
    """For each attempt that has steps in the record: when it began, its last such time, its evaluations with times."""
    ends = [attempt.start for attempt in record.attempts[1:]]
    for i, attempt in enumerate(record.attempts):
        stop = min(ends[i:], default=None)
        kept = [block for block in attempt.blocks if stop is None or block.step < stop]
        if kept:
            evaluated = [
                (b.step, b.time) for b in kept if journal.VAL_LOSS in b.metrics or journal.VAL_ACCURACY in b.metrics
            ]
            yield attempt.time, kept[-1].time, evaluated
