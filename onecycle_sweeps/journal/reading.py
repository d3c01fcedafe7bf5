"""Reads a journal whole, and stitches its attempts to one series."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from onecycle_sweeps.journal.lines import attempt_files, attempt_of
from onecycle_sweeps.journal.record import Attempt, Block, Record


def read(folder: Path, last: int | None = None) -> Record:
    """All attempts in a journal folder, stitched: one that continues from step k replaces the steps from k on.

    `last` is the last attempt that counts: that which wrote a result, which no later one has changed.
    """
    found = tuple(a for a in map(_read_attempt, attempt_files(folder, last)) if a)
    blocks = (block for attempt, stop in stitched(found) for block in between(attempt.blocks, 0, stop))
    return Record(found, tuple(blocks), durable(found))


def durable(known: Sequence[Attempt]) -> int:
    """The number of steps that no later attempt can make again."""
    return max(known[-1].start, known[-1].saved) if known else 0


def stitched(known: Sequence[Attempt]) -> Iterator[tuple[Attempt, int]]:
    """Each attempt with the step from which on a later one has taken its place."""
    for number, attempt in enumerate(known, 1):
        yield attempt, min((later.start for later in known[number:]), default=sys.maxsize)


def between(found: Iterable[Block], start: int, stop: int) -> Iterator[Block]:
    """What blocks have of start <= step < stop."""
    for block in found:
        if block.step >= stop:
            return
        part = block if start <= block.step and block.end <= stop else block.between(start, stop)
        if part.metrics:
            yield part


def _read_attempt(path: Path) -> Attempt | None:
    with path.open("rb") as file:
        return attempt_of(path, file)
