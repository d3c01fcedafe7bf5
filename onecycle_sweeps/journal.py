"""A trial's append-only record on disk: one file an attempt, whole lines of JSON, stitched by the reader.

A file begins with the attempt and the step that it continues from. After it come blocks of consecutive steps, marks
that say up to which step a durable checkpoint reaches, and at the end how the attempt ended.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LR, MOMENTUM, TRAIN_LOSS = "schedule/lr", "schedule/momentum", "train/loss"
TRAIN_ACCURACY, VAL_LOSS, VAL_ACCURACY = "train/accuracy", "val/loss", "val/accuracy"
SMOOTHED_LOSS = "range/loss_smoothed"
TAIL_BYTES = 1 << 18


@dataclass(frozen=True)
class Block:
    """Values of consecutive steps: `metrics[name][i]` belongs to step `step + i`; all were written at `time` (s)."""

    time: float
    step: int
    metrics: Mapping[str, Sequence[float]]

    def between(self, start: int, stop: int) -> "Block":
        """The part of the block with start <= step < stop."""
        first, last = max(start - self.step, 0), max(stop - self.step, 0)
        return Block(self.time, self.step + first, {k: v[first:last] for k, v in self.metrics.items() if v[first:last]})


@dataclass(frozen=True)
class Attempt:
    """One execution of a trial as its file tells it; `saved` is the number of steps its last checkpoint covers.

    `place` says where it ran, in the words of whoever sent it there.
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


class Journal:
    """The writer of one attempt's file, which it alone opens; each call appends whole lines."""

    def __init__(self, folder: Path, attempt: int, start: int, place: Mapping[str, str] | None = None) -> None:
        self.path = folder / f"{attempt:04d}.jsonl"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._torn = False
        head = {"attempt": attempt, "from": start, "time": time.time(), "host": socket.gethostname()}
        self._write(head | ({"place": place} if place else {}))

    def append(self, step: int, metrics: Mapping[str, Sequence[float]]) -> None:
        """Write the values of consecutive steps, the first of which is `step`."""
        self._write({"time": time.time(), "step": step, "metrics": metrics})

    def sync(self) -> None:
        """Make all that was appended durable: to be called before a checkpoint counts on it."""
        os.fsync(self._file)

    def saved(self, step: int) -> None:
        """Mark that a durable checkpoint or result covers all steps below `step`."""
        self._write({"time": time.time(), "saved": step})

    def end(self, status: str, cause: str | None = None) -> None:
        """Say how the attempt ended and close the file."""
        try:
            self._write({"time": time.time(), "end": status, "cause": cause})
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def _write(self, line: Mapping[str, Any]) -> None:
        data = memoryview((b"\n" if self._torn else b"") + json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._torn = True
        while data:
            written = os.write(self._file, data)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            data = data[written:]
        self._torn = False


def attempt_files(folder: Path) -> list[Path]:
    """The files of all attempts in a journal folder, first attempt first."""
    return sorted(folder.glob("[0-9]*.jsonl"))


def read(folder: Path) -> Record:
    """All attempts in a journal folder, stitched: one that continues from step k replaces the steps from k on."""
    attempts = tuple(a for a in map(_read_attempt, attempt_files(folder)) if a)
    blocks: list[Block] = []
    durable = 0
    for attempt in attempts:
        blocks = [cut for b in blocks if (cut := b.between(0, attempt.start)).metrics]
        blocks += attempt.blocks
        durable = max(attempt.start, attempt.saved)
    return Record(attempts, tuple(blocks), durable)


def latest(folder: Path) -> Block | None:
    """The last block of steps in the newest attempt's file, found from the file's tail."""
    for path in reversed(attempt_files(folder)[-1:]):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = [line for line in _lines(file.read()) if line and TRAIN_LOSS in line.get("metrics", {})]
        if lines:
            return Block(lines[-1]["time"], lines[-1]["step"], lines[-1]["metrics"])
    return None


def newest_head(folder: Path) -> Attempt | None:
    """The newest attempt as its first line tells it, without its blocks."""
    for path in reversed(attempt_files(folder)[-1:]):
        with path.open("rb") as file:
            return _parse(file.readline())
    return None


def _read_attempt(path: Path) -> Attempt | None:
    return _parse(path.read_bytes())


def _parse(data: bytes) -> Attempt | None:
    lines = list(_lines(data))
    good = [line for line in lines if line is not None]
    if not good or "attempt" not in good[0]:
        return None
    head, rest = good[0], good[1:]
    ends = [line for line in rest if "end" in line]
    return Attempt(
        number=head["attempt"],
        start=head["from"],
        time=head["time"],
        host=head["host"],
        blocks=tuple(Block(line["time"], line["step"], line["metrics"]) for line in rest if "metrics" in line),
        saved=max((line["saved"] for line in rest if "saved" in line), default=head["from"]),
        end=ends[-1]["end"] if ends else None,
        cause=ends[-1]["cause"] if ends else None,
        torn=lines.count(None),
        place=head.get("place", {}),
    )


def _lines(data: bytes) -> Iterator[dict[str, Any] | None]:
    """Each line as it was written, None for one that is torn."""
    for line in data.split(b"\n"):
        if line:
            try:
                value = json.loads(line)
                yield value if isinstance(value, dict) else None
            except ValueError:
                yield None
