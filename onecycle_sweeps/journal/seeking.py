"""Finds in a journal what is asked for, without reading what lies before it."""

import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

from onecycle_sweeps.journal.lines import attempt_file, attempt_files, attempt_of, blocks_of, lines_of
from onecycle_sweeps.journal.reading import between, stitched
from onecycle_sweeps.journal.record import TRAIN_LOSS, Attempt, Block

TAIL_BYTES = 1 << 18
LOSSES = f'"{TRAIN_LOSS}":'.encode()
# So near to what is looked for, reading on costs no more than another look.
NEAR_BYTES = 1 << 16


def attempts(folder: Path) -> tuple[Attempt, ...]:
    """All attempts in a journal folder, without their blocks and torn lines, which are not read."""
    return tuple(a for a in map(_outline, attempt_files(folder)) if a)


def blocks(folder: Path, known: Sequence[Attempt], start: int = 0, stop: int = sys.maxsize) -> Iterator[Block]:
    """The series that these attempts make together, of start <= step < stop, one block after the other.

    What lies before is not read, nor is more than a block held.
    """
    for attempt, end in stitched(known):
        if max(start, attempt.start) < min(stop, end):
            with attempt_file(folder, attempt.number).open("rb") as file:
                _seek(file, start)
                yield from between(blocks_of(lines_of(file)), start, min(stop, end))


def end_of(folder: Path, attempt: int) -> int | None:
    """The step after the last one that an attempt's file has; None where it lacks its head, or is not there."""
    path = attempt_file(folder, attempt)
    try:
        with path.open("rb") as file:
            if (head := attempt_of(path, [file.readline()])) is None:
                return None
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                return max((block.end for block in blocks_of(lines_of(_last(data, LOSSES)))), default=head.start)
    except FileNotFoundError:
        return None


def latest(folder: Path) -> Block | None:
    """The last block of steps in the newest attempt's file, found from the file's tail."""
    for path in reversed(attempt_files(folder)[-1:]):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = [line for line in lines_of(file) if line and TRAIN_LOSS in line.get("metrics", {})]
        if lines:
            return Block(lines[-1]["time"], lines[-1]["step"], lines[-1]["metrics"])
    return None


def newest_head(folder: Path) -> Attempt | None:
    """The newest attempt as its first line tells it, without its blocks."""
    for path in reversed(attempt_files(folder)[-1:]):
        with path.open("rb") as file:
            return attempt_of(path, [file.readline()])
    return None


def _seek(file: IO[bytes], start: int) -> None:
    """Go to a line after which are all blocks that reach step `start`, by bisection, since they come in order."""
    low, high = 0, os.fstat(file.fileno()).st_size
    while high - low > NEAR_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        block = next(blocks_of(lines_of(file)), None)
        if block and block.end <= start:
            low = middle
        else:
            high = middle
    file.seek(low)
    if low:
        file.readline()


def _outline(path: Path) -> Attempt | None:
    """An attempt as its first line, its last mark of a checkpoint and its end tell it."""
    with path.open("rb") as file:
        head = file.readline()
        if not os.fstat(file.fileno()).st_size:
            return None
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return attempt_of(path, chain([head], _last(data, b'"saved":'), _last(data, b'"end":')))


def _last(data: mmap.mmap, key: bytes) -> Iterator[bytes]:
    """The last whole line with a key, if there is one."""
    stop = len(data)
    while (found := data.rfind(key, 0, stop)) >= 0:
        stop, close = data.rfind(b"\n", 0, found) + 1, data.find(b"\n", found)
        line = data[stop : close if close >= 0 else len(data)]
        if next(lines_of([line]), None) is not None:
            yield line
            return
