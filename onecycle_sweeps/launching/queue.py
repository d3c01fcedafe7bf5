"""The trials that wait to be executed on this machine, and how those that were executed ended."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import CANCELLED, FAILED

RETRY_SECONDS = 0.5
NOT_AN_END = ("busy", "stopped", "superseded")


@dataclass(frozen=True)
class Event:
    """A trial's status has changed, with its cause; without a trial there is a line of news, or time has passed."""

    entry: Entry | None = None
    status: str | None = None
    cause: str | None = None
    news: str | None = None


class Queue:
    """Gives out each trial once its range test is done, and ends those whose range test came to nothing.

    Nothing is read for a trial that waits: what it waits for is among the trials, and whoever executes it reads first
    whether it was cancelled.
    """

    def __init__(self, sweep: Sweep, trials: Sequence[Entry]) -> None:
        self.sweep = sweep
        self._ready: deque[Entry] = deque()
        self._blocked: dict[str, list[Entry]] = {entry.signature: [] for entry in trials}
        self._busy: deque[tuple[float, Entry]] = deque()
        self._lost: dict[str, str] = {}
        for entry in trials:
            self._blocked.get(entry.needs or "", self._ready).append(entry)

    @property
    def waiting(self) -> bool:
        """Whether there are trials that nobody executes."""
        return bool(self._ready or self._busy or any(self._blocked.values()))

    def next(self) -> Entry | None:
        """Take the first trial that has its rate and was not just found busy elsewhere."""
        if self._ready:
            return self._ready.popleft()
        if self._busy and self._busy[0][0] <= time.monotonic():
            return self._busy.popleft()[1]
        return None

    def take(self, entry: Entry, status: str, cause: str | None) -> Event | None:
        """Take an execution's outcome; a trial that another process works on waits again, at the end."""
        if status in NOT_AN_END:
            self._busy.append((time.monotonic() + RETRY_SECONDS, entry))
            return None
        if status == FAILED:
            return self.fail(entry, cause or "no cause given")
        if status == CANCELLED:
            self._lost[entry.signature] = "cancelled"
        else:
            self._ready.extendleft(reversed(self._blocked.pop(entry.signature)))
        return Event(entry, status, cause)

    def fail(self, entry: Entry, cause: str) -> Event:
        """Remember that a trial failed, and record it in its folder if it did so without a word of its own."""
        trial = self.sweep.trial(entry.signature)
        self._lost[entry.signature] = cause
        with suppress(OSError):
            if trial.last_failure().get("cause") != cause:
                trial.write("failure", {"cause": cause, "attempt": trial.attempts(), "time": time.time()})
        return Event(entry, FAILED, cause)

    def orphans(self) -> Iterator[Event]:
        """End the trials whose range test has failed or was cancelled, unless they were cancelled with it."""
        while self._lost:
            signature, cause = self._lost.popitem()
            for entry in self._blocked.pop(signature):
                if self.sweep.trial(entry.signature).is_cancelled():
                    yield Event(entry, CANCELLED)
                else:
                    yield self.fail(entry, f"range test {signature}: {cause}")
