"""What a journal records: values of steps in blocks, the attempts that made them, and the trial's one series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onecycle_sweeps.files import FORMAT

LR, MOMENTUM, TRAIN_LOSS = "schedule/lr", "schedule/momentum", "train/loss"
TRAIN_ACCURACY, VAL_LOSS, VAL_ACCURACY = "train/accuracy", "val/loss", "val/accuracy"
SMOOTHED_LOSS = "range/loss_smoothed"


@dataclass(frozen=True)
class Block:
    """Values of consecutive steps: `metrics[name][i]` belongs to step `step + i`; all were written at `time` (s)."""

    time: float
    step: int
    metrics: Mapping[str, Sequence[float]]

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.step + max(map(len, self.metrics.values()), default=0)

    def between(self, start: int, stop: int) -> "Block":
        """The part of the block with start <= step < stop."""
        first, last = max(start - self.step, 0), max(stop - self.step, 0)
        return Block(self.time, self.step + first, {k: v[first:last] for k, v in self.metrics.items() if v[first:last]})


@dataclass(frozen=True)
class Attempt:
    """One execution of a trial as its file tells it; `saved` is the number of steps its last checkpoint covers.

    `place` says where it ran, in the words of whoever sent it there, and `notes` what its user is to know of its start.
    `format` is that of its file.
    """

    number: int
    start: int
    time: float
    host: str
    blocks: tuple[Block, ...]
    saved: int
    end: str | None
    cause: str | None
    torn: int
    place: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: int = FORMAT


@dataclass(frozen=True)
class Record:
    """A trial's attempts and the one series of blocks that they make together; `durable` steps cannot be made again."""

    attempts: tuple[Attempt, ...]
    blocks: tuple[Block, ...]
    durable: int

    @property
    def torn(self) -> int:
        """How many lines could not be read."""
        return sum(attempt.torn for attempt in self.attempts)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """The steps and values of one metric, in order of steps."""
        pairs = [(b.step + i, v) for b in self.blocks for i, v in enumerate(b.metrics.get(name, ()))]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def covers(self, name: str, stop: int) -> bool:
        """Whether the metric has a value at each step below `stop`."""
        return [step for step in self.series(name)[0] if step < stop] == list(range(stop))
