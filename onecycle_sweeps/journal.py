"""A trial's append-only record on disk: one file an attempt, whole lines of JSON, stitched by the reader.

A file begins with the attempt and the step that it continues from. After it come blocks of consecutive steps, marks
that say up to which step a durable checkpoint reaches, and at the end how the attempt ended.
"""

import errno
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

LR, MOMENTUM, TRAIN_LOSS = "schedule/lr", "schedule/momentum", "train/loss"
TRAIN_ACCURACY, VAL_LOSS, VAL_ACCURACY = "train/accuracy", "val/loss", "val/accuracy"
SMOOTHED_LOSS = "range/loss_smoothed"
TAIL_BYTES = 1 << 18
# So near to what is looked for, reading on costs no more than another look.
NEAR_BYTES = 1 << 16


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
        self.path = _path(folder, attempt)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._torn = False
        head = {"attempt": attempt, "from": start, "time": time.time(), "host": socket.gethostname()}
        self._write(head | ({"place": place} if place else {}))

    def append(self, step: int, metrics: Mapping[str, Sequence[float]]) -> None:
        """Write the values of consecutive steps, the first of which is `step`.

        Blocks come in order: none begins or ends at an earlier step than the one before it.
        """
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
    found = tuple(a for a in map(_read_attempt, attempt_files(folder)) if a)
    blocks = (block for attempt, stop in _stitches(found) for block in _cut(attempt.blocks, 0, stop))
    return Record(found, tuple(blocks), durable(found))


def attempts(folder: Path) -> tuple[Attempt, ...]:
    """All attempts in a journal folder, without their blocks and torn lines, which are not read."""
    return tuple(a for a in map(_outline, attempt_files(folder)) if a)


def durable(known: Sequence[Attempt]) -> int:
    """The number of steps that no later attempt can make again."""
    return max(known[-1].start, known[-1].saved) if known else 0


def blocks(folder: Path, known: Sequence[Attempt], start: int = 0, stop: int = sys.maxsize) -> Iterator[Block]:
    """The series that these attempts make together, of start <= step < stop, one block after the other.

    What lies before is not read, nor is more than a block held.
    """
    for attempt, end in _stitches(known):
        if max(start, attempt.start) < min(stop, end):
            with _path(folder, attempt.number).open("rb") as file:
                _seek(file, start)
                yield from _cut(_blocks(_lines(file)), start, min(stop, end))


def latest(folder: Path) -> Block | None:
    """The last block of steps in the newest attempt's file, found from the file's tail."""
    for path in reversed(attempt_files(folder)[-1:]):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = [line for line in _lines(file) if line and TRAIN_LOSS in line.get("metrics", {})]
        if lines:
            return Block(lines[-1]["time"], lines[-1]["step"], lines[-1]["metrics"])
    return None


def newest_head(folder: Path) -> Attempt | None:
    """The newest attempt as its first line tells it, without its blocks."""
    for path in reversed(attempt_files(folder)[-1:]):
        with path.open("rb") as file:
            return _parse([file.readline()])
    return None


def _path(folder: Path, attempt: int) -> Path:
    return folder / f"{attempt:04d}.jsonl"


def _stitches(known: Sequence[Attempt]) -> Iterator[tuple[Attempt, int]]:
    """Each attempt with the step from which on a later one has taken its place."""
    for number, attempt in enumerate(known, 1):
        yield attempt, min((later.start for later in known[number:]), default=sys.maxsize)


def _cut(found: Iterable[Block], start: int, stop: int) -> Iterator[Block]:
    """What blocks have of start <= step < stop."""
    for block in found:
        if block.step >= stop:
            return
        part = block if start <= block.step and block.end <= stop else block.between(start, stop)
        if part.metrics:
            yield part


def _seek(file: IO[bytes], start: int) -> None:
    """Go to a line after which are all blocks that reach step `start`, by bisection, since they come in order."""
    low, high = 0, os.fstat(file.fileno()).st_size
    while high - low > NEAR_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        block = next(_blocks(_lines(file)), None)
        if block and block.end <= start:
            low = middle
        else:
            high = middle
    file.seek(low)
    if low:
        file.readline()


def _read_attempt(path: Path) -> Attempt | None:
    with path.open("rb") as file:
        return _parse(file)


def _outline(path: Path) -> Attempt | None:
    """An attempt as its first line, its last mark of a checkpoint and its end tell it."""
    with path.open("rb") as file:
        head = file.readline()
        if not os.fstat(file.fileno()).st_size:
            return None
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return _parse(chain([head], _last(data, b'"saved":'), _last(data, b'"end":')))


def _last(data: mmap.mmap, key: bytes) -> Iterator[bytes]:
    """The last whole line with a key, if there is one."""
    stop = len(data)
    while (found := data.rfind(key, 0, stop)) >= 0:
        stop, close = data.rfind(b"\n", 0, found) + 1, data.find(b"\n", found)
        line = data[stop : close if close >= 0 else len(data)]
        if next(_lines([line]), None) is not None:
            yield line
            return


def _parse(data: Iterable[bytes]) -> Attempt | None:
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
        blocks=tuple(_blocks(rest)),
        saved=max((line["saved"] for line in rest if "saved" in line), default=head["from"]),
        end=ends[-1]["end"] if ends else None,
        cause=ends[-1]["cause"] if ends else None,
        torn=lines.count(None),
        place=head.get("place", {}),
    )


def _blocks(lines: Iterable[dict[str, Any] | None]) -> Iterator[Block]:
    for line in lines:
        if line and "metrics" in line:
            yield Block(line["time"], line["step"], line["metrics"])


def _lines(data: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """Each line as it was written, None for one that is torn."""
    for line in data:
        if line.strip():
            try:
                value = json.loads(line)
                yield value if isinstance(value, dict) else None
            except ValueError:
                yield None
