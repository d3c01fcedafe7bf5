"""The trials to be executed on this machine: which one is next, and how the executions ended."""

import math
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from onecycle_sweeps.config import schema
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import CANCELLED, FAILED, STOPPED

RETRY_SECONDS = 0.5
BUSY, SUPERSEDED = "busy", "superseded"
# The trial has not ended, and is executed again later.
UNFINISHED = (BUSY, STOPPED, SUPERSEDED)
# What a worker sends first, when it can take a trial.
READY = "ready"
# The exit status of a worker that has saved and left because of SIGTERM.
LEFT_STATUS = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Execution:
    """How one execution of a trial ended: with a result's status, or failed, cancelled, or one of UNFINISHED.

    `not_packed` is why it did not run in the pack for which it was meant.
    """

    status: str
    cause: str | None = None
    not_packed: str | None = None


@dataclass(frozen=True)
class Event:
    """The new status of a trial and its cause; without a trial, a line of news or only a tick of the clock.

    places: how many trials run at once, if the event says so.
    """

    entry: Entry | None = None
    status: str | None = None
    cause: str | None = None
    news: str | None = None
    places: int | None = None


class Queue:
    """Gives out each trial once the range test or probe that finds its rate is done, and fails it if that has failed.

    It reads no files of waiting trials, so a sweep may have thousands: the trials that they need are in the queue, and
    `execute` checks whether a trial was cancelled. With `packed` above 1 it reads the configs of those that are ready,
    and gives out up to that many together.
    """

    def __init__(self, sweep: Sweep, trials: Sequence[Entry], packed: int = 1) -> None:
        self.sweep, self._packed = sweep, packed
        # The trials that are not packed because a worker died with their pack.
        self._apart: set[str] = set()
        self._keys: dict[str, str | None] = {}
        self._ready: deque[Entry] = deque()
        self._blocked: dict[str, list[Entry]] = {entry.signature: [] for entry in trials}
        self._busy: deque[tuple[float, Entry]] = deque()
        # The cause of each failed or cancelled trial, until the trials that need it have failed too.
        self._causes: dict[str, str] = {}
        self._words = {entry.signature: entry.kind.replace("_", " ") for entry in trials}
        for entry in trials:
            self._blocked.get(entry.needs or "", self._ready).append(entry)

    @property
    def waiting(self) -> bool:
        """Whether there are trials that have not been given out."""
        return bool(self._ready or self._busy or any(self._blocked.values()))

    def next(self) -> Entry | None:
        """The next trial that waits for no other; one that another process worked on is tried again after a moment."""
        if self._ready:
            return self._ready.popleft()
        if self._busy and self._busy[0][0] <= time.monotonic():
            return self._busy.popleft()[1]
        return None

    def take(self, workers: int) -> tuple[Entry, ...]:
        """The next trials for one of `workers` free workers: one, or several to be packed; none if none is ready."""
        first = self.next()
        if first is None or self._packed == 1 or (key := self._key(first)) is None:
            return (first,) if first else ()
        alike = [entry for entry in self._ready if self._key(entry) == key]
        # Each worker gets its share of them.
        taken = alike[: min(self._packed, math.ceil((1 + len(alike)) / workers)) - 1]
        for entry in taken:
            self._ready.remove(entry)
        return (first, *taken)

    def set_apart(self, entries: Iterable[Entry]) -> None:
        """Let the trials of a pack that did not end run again, each by itself."""
        for entry in entries:
            self._apart.add(entry.signature)
            self.record(entry, Execution(STOPPED))

    def _key(self, entry: Entry) -> str | None:
        if entry.signature in self._apart:
            return None
        if entry.signature not in self._keys:
            trial = self.sweep.trial(entry.signature)
            self._keys[entry.signature] = None
            with suppress(Unreadable, OSError):
                self._keys[entry.signature] = None if trial.needs_hydra else schema.pack_key(trial.config())
        return self._keys[entry.signature]

    def record(self, entry: Entry, execution: Execution) -> Event | None:
        """Record how an execution ended; a trial that has not ended goes to the end of the queue."""
        status, cause = execution.status, execution.cause
        if status in UNFINISHED:
            self._busy.append((time.monotonic() + RETRY_SECONDS, entry))
            return None
        if status == FAILED:
            return self.fail(entry, cause or "no cause given")
        if status == CANCELLED:
            self._causes[entry.signature] = "cancelled"
        else:
            self._ready.extendleft(reversed(self._blocked.pop(entry.signature)))
        return Event(entry, status, cause)

    def fail(self, entry: Entry, cause: str) -> Event:
        """Record that a trial failed, also in its folder unless the trial has done so itself."""
        trial = self.sweep.trial(entry.signature)
        self._causes[entry.signature] = cause
        with suppress(OSError):
            if trial.last_failure().get("cause") != cause:
                trial.write("failure", {"cause": cause, "attempt": trial.attempts(), "time": time.time()})
        return Event(entry, FAILED, cause)

    def fail_dependents(self) -> Iterator[Event]:
        """Fail the trials whose range test or probe failed or was cancelled, unless they were cancelled themselves."""
        while self._causes:
            signature, cause = self._causes.popitem()
            for entry in self._blocked.pop(signature):
                if self.sweep.trial(entry.signature).is_cancelled():
                    yield Event(entry, CANCELLED)
                else:
                    yield self.fail(entry, f"{self._words[signature]} {signature}: {cause}")
