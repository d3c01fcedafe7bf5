"""A trial's append-only record on disk: one file of JSON lines per attempt, which the reader joins to one series.

The first line of a file has the attempt's number and the step that it continues from. Then follow blocks of consecutive
steps, the steps up to which a durable checkpoint was saved, and finally the status that the attempt ended with.
"""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from onecycle_sweeps import files
from onecycle_sweeps.files import FORMAT, check_format, with_format
from onecycle_sweeps.measures import LOSS, is_of_val

# The metrics of each step; `measures` names those of an evaluation.
LR, MOMENTUM, TRAIN_LOSS = "schedule/lr", "schedule/momentum", LOSS.train
SMOOTHED_LOSS = "range/loss_smoothed"
HEAD = ("attempt", "from", "time", "host")
SUFFIX = ".jsonl"
# Reading this many bytes takes no longer than another bisection.
NEAR_BYTES = 1 << 16
# How much more of the end of a file is read each time until a line is found.
LARGER = 4
# The line with the end is the last one of a file, and shorter than this.
END_BYTES = 1 << 16


@dataclass(frozen=True)
class Block:
    """Values of consecutive steps, written at the Unix time `time`; `metrics[name][i]` is of step `step + i`."""

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
    """One execution of a trial, from its file.

    start: the step that it continues from.
    saved: the number of steps that its last checkpoint covers.
    end: the status that it ended with; None if it has not ended.
    torn: the number of lines that could not be read.
    place: where it ran, by the launcher's names.
    notes: remarks for the user on how it began.
    format: the format of its file.
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
    """A trial's attempts, their blocks joined to one series, and the number of steps that no attempt can repeat."""

    attempts: tuple[Attempt, ...]
    blocks: tuple[Block, ...]
    durable: int

    @property
    def torn(self) -> int:
        """The number of lines that could not be read."""
        return sum(attempt.torn for attempt in self.attempts)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """The steps and the values of one metric, by step."""
        pairs = [(b.step + i, v) for b in self.blocks for i, v in enumerate(b.metrics.get(name, ()))]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def covers(self, name: str, stop: int) -> bool:
        """Whether the metric has a value at each step below `stop`."""
        return [step for step in self.series(name)[0] if step < stop] == list(range(stop))

    def missing(self, steps: int, evaluated: set[int]) -> str | None:
        """What is missing of the first `steps` steps and the evaluations after `evaluated` steps; None if complete."""
        if not (self.covers(TRAIN_LOSS, steps) and self.covers(LR, steps)):
            return f"gaps in its steps below {steps}"
        found = {b.step + 1 for b in self.blocks if any(map(is_of_val, b.metrics))}
        if missing := sorted(evaluated - found):
            return f"no evaluation after step {missing[0] - 1}"
        return None


class Journal:
    """Writes one attempt's file; each call appends a whole line, and no other process writes to the file.

    Creating the file supersedes all earlier attempts. Without `start`, `begin` writes the head.
    """

    def __init__(
        self, folder: Path, attempt: int, start: int | None = None, place: Mapping[str, str] | None = None
    ) -> None:
        self.path, self._attempt = attempt_file(folder, attempt), attempt
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._torn = False
        if start is not None:
            self.begin(start, place)

    def begin(self, start: int, place: Mapping[str, str] | None = None, notes: Sequence[str] = ()) -> None:
        """Write the first line: the step that the attempt continues from, where it runs, and remarks for the user."""
        head = {"attempt": self._attempt, "from": start, "time": time.time(), "host": socket.gethostname()}
        self._write(with_format(head | ({"place": place} if place else {}) | ({"notes": list(notes)} if notes else {})))

    def append(self, step: int, metrics: Mapping[str, Sequence[float]]) -> None:
        """Write the values of consecutive steps that begin with `step`.

        Blocks are in order: none begins or ends at an earlier step than the one before it.
        """
        self._write({"time": time.time(), "step": step, "metrics": metrics})

    def sync(self) -> None:
        """Make all lines durable, which must be done before a checkpoint that relies on them."""
        os.fsync(self._file)

    def saved(self, step: int) -> None:
        """Write that a durable checkpoint or result covers all steps below `step`."""
        self._write({"time": time.time(), "saved": step})

    def end(self, status: str, cause: str | None = None) -> None:
        """Write how the attempt ended, and close the file."""
        try:
            self._write({"time": time.time(), "end": status, "cause": cause})
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def _write(self, line: Mapping[str, Any]) -> None:
        # After an incomplete write the next line must not continue the torn one.
        data = memoryview((b"\n" if self._torn else b"") + json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._torn = True
        while data:
            written = os.write(self._file, data)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            data = data[written:]
        self._torn = False


class Tail:
    """Follows a journal folder: each `read` parses only what its newest attempt has written since the one before.

    attempt: the newest attempt, from its first line.
    block: its last block of steps.
    value: the last value of the metric `name`, of an earlier attempt as long as the newest has none.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._offset = folder, name, 0
        self._path: Path | None = None
        self.attempt: Attempt | None = None
        self.block: Block | None = None
        self.value: float | None = None

    def read(self) -> None:
        """Bring all three up to date; raises UnknownFormat."""
        if not (found := attempt_files(self._folder)):
            return
        if found[-1] != self._path or self.attempt is None:
            self._begin(found[-1])
            return
        data = files.steadily(found[-1], partial(_from, found[-1], self._offset))
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for block in _parse_blocks(_parse(whole.splitlines())):
            self.block = block if TRAIN_LOSS in block.metrics else self.block
            if values := block.metrics.get(self._name):
                self.value = values[-1]

    def _begin(self, path: Path) -> None:
        """Read the newest attempt's file for the first time, from its end."""
        self._path = path
        with files.steadily(path, partial(path.open, "rb")) as file:
            start = max(0, os.fstat(file.fileno()).st_size - NEAR_BYTES)
            file.seek(start)
            # A line that is not whole yet is read the next time.
            self._offset = start + file.read(NEAR_BYTES).rfind(b"\n") + 1
        self.attempt, self.block = _head(path), _last_block(path)
        self.value = latest_value(self._folder, self._name)


def attempt_file(folder: Path, attempt: int) -> Path:
    """The file of one attempt."""
    return folder / f"{attempt:04d}{SUFFIX}"


def attempt_files(folder: Path, last: int | None = None) -> list[Path]:
    """The files in a journal folder by attempt, up to attempt `last` if it is given."""
    names = (name.removesuffix(SUFFIX) for name in files.listed(folder) if name.endswith(SUFFIX))
    found = {int(name) for name in names if name.isdecimal()}
    # On a network file system a listing may lag behind the files, which can be opened by their names.
    following = attempt_file(folder, max(found, default=0) + 1)
    while files.steadily(following, following.exists):
        found.add(int(following.stem))
        following = attempt_file(folder, int(following.stem) + 1)
    return [attempt_file(folder, number) for number in sorted(found) if last is None or number <= last]


def read(folder: Path, last: int | None = None) -> Record:
    """All attempts in a journal folder, joined: one that continues from step k replaces the steps from k on.

    `last` is the last attempt to be read, such as the one that wrote the result.
    """
    found = tuple(a for a in map(_read_attempt, attempt_files(folder, last)) if a)
    stitched = (block for attempt, stop in _stitched(found) for block in _between(attempt.blocks, 0, stop))
    return Record(found, tuple(stitched), durable(found))


def durable(known: Sequence[Attempt]) -> int:
    """The number of steps that no later attempt can repeat."""
    return max(known[-1].start, known[-1].saved) if known else 0


def attempts(folder: Path) -> tuple[Attempt, ...]:
    """All attempts in a journal folder; blocks and torn lines are not read."""
    return tuple(a for a in map(_outline, attempt_files(folder)) if a)


def latest_attempt(folder: Path) -> Attempt | None:
    """The newest attempt, only from its first line."""
    found = attempt_files(folder)
    return _head(found[-1]) if found else None


def blocks(folder: Path, known: Sequence[Attempt], start: int = 0, stop: int = sys.maxsize) -> Iterator[Block]:
    """The joined series of these attempts with start <= step < stop, block by block.

    Earlier blocks are not read, and only one block at a time is in memory.
    """
    for attempt, end in _stitched(known):
        if max(start, attempt.start) < min(stop, end):
            path = attempt_file(folder, attempt.number)
            with files.steadily(path, partial(path.open, "rb")) as file:
                _seek(file, start)
                yield from _between(_parse_blocks(_parse(file)), start, min(stop, end))


def latest_block(folder: Path) -> Block | None:
    """The last block of steps in the newest attempt's file."""
    found = attempt_files(folder)
    return _last_block(found[-1]) if found else None


def latest_value(folder: Path, name: str) -> float | None:
    """The last value of a metric in the newest attempt that has one."""
    for path in reversed(attempt_files(folder)):
        for block in _parse_blocks(_parse(_last_lines(path, f'"{name}":'))):
            return block.metrics[name][-1]
    return None


def end_of_attempt(folder: Path, attempt: int) -> int | None:
    """The step after the last one in an attempt's file; None if the file or its first line is missing."""
    path = attempt_file(folder, attempt)
    try:
        head, block = _head(path), _last_block(path)
    except FileNotFoundError:
        return None
    return head and (block.end if block else head.start)


def evaluation_points(steps: int, steps_per_epoch: int, per_epoch: int) -> set[int]:
    """The numbers of steps, up to `steps`, after which the model is evaluated: evenly spread, with each epoch's end."""
    per_epoch = min(per_epoch, steps_per_epoch)
    spread = (round(i * steps_per_epoch / per_epoch) for i in range(1, steps * per_epoch // steps_per_epoch + 2))
    return {point for point in spread if point <= steps}


def is_evaluation_point(step: int, steps_per_epoch: int, per_epoch: int) -> bool:
    """Whether this number of steps is one of `evaluation_points`, without computing them all."""
    per_epoch = min(per_epoch, steps_per_epoch)
    near = step * per_epoch // steps_per_epoch
    return any(round(i * steps_per_epoch / per_epoch) == step for i in (near, near + 1) if i)


def _stitched(known: Sequence[Attempt]) -> Iterator[tuple[Attempt, int]]:
    """Each attempt with the step from which a later one replaces it."""
    for number, attempt in enumerate(known, 1):
        yield attempt, min((later.start for later in known[number:]), default=sys.maxsize)


def _between(found: Iterable[Block], start: int, stop: int) -> Iterator[Block]:
    """The parts of blocks with start <= step < stop."""
    for block in found:
        if block.step >= stop:
            return
        part = block if start <= block.step and block.end <= stop else block.between(start, stop)
        if part.metrics:
            yield part


def _read_attempt(path: Path) -> Attempt | None:
    def read() -> Attempt | None:
        with path.open("rb") as file:
            return _parse_attempt(path, file)

    # A folder may list a file that another machine has just moved away.
    with suppress(FileNotFoundError):
        return files.steadily(path, read)
    return None


def _head(path: Path) -> Attempt | None:
    """An attempt from its first line."""
    return _parse_attempt(path, [_first_line(path)])


def _from(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _first_line(path: Path) -> bytes:
    def read() -> bytes:
        with path.open("rb") as file:
            return file.readline()

    with suppress(FileNotFoundError):
        return files.steadily(path, read)
    return b""


def _outline(path: Path) -> Attempt | None:
    """An attempt from its first line, its last `saved` line and its end."""
    head = _first_line(path)
    return _parse_attempt(path, [head, *_last_lines(path, '"saved":'), *_last_lines(path, '"end":', END_BYTES)])


def _last_block(path: Path) -> Block | None:
    """The last block of steps in a file; None if it has none."""
    return next(_parse_blocks(_parse(_last_lines(path, f'"{TRAIN_LOSS}":'))), None)


def _last_lines(path: Path, key: str, within: int = sys.maxsize) -> list[bytes]:
    """The last whole line that has a key, in a list; empty if there is none in the last `within` bytes of the file."""
    length = NEAR_BYTES
    while True:
        # A mapped file would be faster, but kills the process if another machine removes the file.
        data, is_whole = files.steadily(path, partial(_end_of, path, length))
        if (found := _last_with(data, key)) or is_whole or length >= within:
            return found
        length *= LARGER


def _end_of(path: Path, length: int) -> tuple[bytes, bool]:
    """The lines in the last `length` bytes of a file, and whether these are the whole file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return b"", True
    with file:
        start = max(0, os.fstat(file.fileno()).st_size - length)
        file.seek(start)
        data = file.read()
    return (data[data.find(b"\n") + 1 :], False) if start else (data, True)


def _last_with(data: bytes, key: str) -> list[bytes]:
    stop = len(data)
    while (found := data.rfind(key.encode(), 0, stop)) >= 0:
        stop, close = data.rfind(b"\n", 0, found) + 1, data.find(b"\n", found)
        line = data[stop : close if close >= 0 else len(data)]
        if next(_parse([line]), None) is not None:
            return [line]
    return []


def _seek(file: IO[bytes], start: int) -> None:
    """Seek to a line before all blocks that reach step `start`, by bisection."""
    low, high = 0, os.fstat(file.fileno()).st_size
    while high - low > NEAR_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        block = next(_parse_blocks(_parse(file)), None)
        if block and block.end <= start:
            low = middle
        else:
            high = middle
    file.seek(low)
    if low:
        file.readline()


def _parse_attempt(path: Path, data: Iterable[bytes]) -> Attempt | None:
    """The attempt that these lines of the file at `path` describe; None unless it begins with a whole head.

    Raises UnknownFormat for an unknown format.
    """
    lines = list(_parse(data))
    good = [line for line in lines if line is not None]
    if not good or any(key not in good[0] for key in HEAD):
        return None
    head, rest = good[0], good[1:]
    check_format(path, found := head.get("format", 0))
    ends = [line for line in rest if "end" in line]
    return Attempt(
        number=head["attempt"],
        start=head["from"],
        time=head["time"],
        host=head["host"],
        blocks=tuple(_parse_blocks(rest)),
        saved=max((line["saved"] for line in rest if "saved" in line), default=head["from"]),
        end=ends[-1]["end"] if ends else None,
        cause=ends[-1].get("cause") if ends else None,
        torn=lines.count(None),
        place=head.get("place", {}),
        notes=tuple(head.get("notes", ())),
        format=found,
    )


def _parse_blocks(lines: Iterable[dict[str, Any] | None]) -> Iterator[Block]:
    """The blocks among these lines."""
    for line in lines:
        if line and "metrics" in line:
            yield Block(line["time"], line["step"], line["metrics"])


def _parse(data: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """The content of each line; None for one that is torn."""
    for line in data:
        if line.strip():
            try:
                value = json.loads(line)
                yield value if _is_whole(value) else None
            except ValueError:
                yield None


def _is_whole(line: Any) -> bool:
    """Whether a line is one that `Journal` writes."""
    if not isinstance(line, dict):
        return False
    if "metrics" not in line:
        return True
    columns = line["metrics"]
    placed = isinstance(line.get("step"), int) and isinstance(line.get("time"), float)
    return placed and isinstance(columns, dict) and all(isinstance(column, list) for column in columns.values())
