"""How far a long reading of files has come: a line on a terminal, and nothing where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENT_SECONDS, TICK_SECONDS = 1.0, 0.2


@contextmanager
def progress(doing: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Give a function that counts what is done; after a second the terminal shows `doing: 5,000 of 60,000 unit`."""
    done, shown, due = 0, False, time.monotonic() + SILENT_SECONDS

    def count(more: int) -> None:
        nonlocal done, shown, due
        done += more
        if time.monotonic() >= due and sys.stderr.isatty():
            print(f"\r\033[K{doing}: {done:,} of {total:,} {unit}", end="", file=sys.stderr, flush=True)
            shown, due = True, time.monotonic() + TICK_SECONDS

    try:
        yield count
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
