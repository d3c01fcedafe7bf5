"""The trials that wait to be executed on this machine, and how those that were executed ended."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from onecycle_sweeps.state import CANCELLED, FAILED
from onecycle_sweeps.sweep import Entry, Sweep

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
    """Gives out each trial once its range test is done, and remembers which ones failed."""

    def __init__(self, sweep: Sweep, trials: Sequence[Entry]) -> None:
        self.sweep = sweep
        self.waiting = list(trials)
        self._failed: dict[str, str] = {}
        self._not_before: dict[str, float] = {}

    def next(self) -> Entry | None:
        """Take the first trial that has its rate and was not just found busy elsewhere."""
        for entry in self.waiting:
            if self._not_before.get(entry.signature, 0.0) <= time.monotonic() and self._has_its_rate(entry):
                self.waiting.remove(entry)
                return entry
        return None

    def take(self, entry: Entry, status: str, cause: str | None) -> Event | None:
        """Take an execution's outcome; a trial that another process works on waits again, at the end."""
        if status in NOT_AN_END:
            self.waiting.append(entry)
            self._not_before[entry.signature] = time.monotonic() + RETRY_SECONDS
            return None
        if status == FAILED:
            return self.fail(entry, cause or "no cause given")
        return Event(entry, status, cause)

    def fail(self, entry: Entry, cause: str) -> Event:
        """Remember that a trial failed, and record it in its folder if it did so without a word of its own."""
        trial = self.sweep.trial(entry.signature)
        self._failed[entry.signature] = cause
        with suppress(OSError):
            if (trial.failure() or {}).get("cause") != cause:
                trial.write("failure", {"cause": cause, "attempt": trial.attempts(), "time": time.time()})
        return Event(entry, FAILED, cause)

    def orphans(self) -> Iterator[Event]:
        """End the trials that were cancelled, and fail those whose range test has failed."""
        for entry in [entry for entry in self.waiting if self.sweep.trial(entry.signature).is_cancelled()]:
            self.waiting.remove(entry)
            yield Event(entry, CANCELLED)
        for entry in [entry for entry in self.waiting if entry.needs in self._failed]:
            self.waiting.remove(entry)
            yield self.fail(entry, f"range test {entry.needs}: {self._failed[entry.needs or '']}")

    def _has_its_rate(self, entry: Entry) -> bool:
        return entry.needs is None or self.sweep.trial(entry.needs).result() is not None
