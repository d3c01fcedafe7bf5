"""A trial as its MLflow run shows it, read from the trial's folder alone."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from onecycle_sweeps import journal
from onecycle_sweeps.credentials import redacted
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.journal import Attempt
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.tracking.store import address
from onecycle_sweeps.tracking.values import BATCH, Point, as_params, as_tags, batches, flat, milliseconds, storable
from onecycle_sweeps.trial_folder import (
    CANCELLED,
    DIVERGED,
    DUMPER,
    ENDED,
    FAILED,
    FINISHED,
    LOST,
    QUEUED,
    RUNNING,
    WAITING,
    TrialFolder,
)

# A trial that waits to be continued has not failed and is not at work: MLflow's word for that is SCHEDULED.
MLFLOW_STATUS = {
    WAITING: "SCHEDULED",
    QUEUED: "SCHEDULED",
    RUNNING: "RUNNING",
    FINISHED: "FINISHED",
    DIVERGED: "FINISHED",
    FAILED: "FAILED",
    LOST: "FAILED",
    CANCELLED: "KILLED",
}
ARTIFACTS = ("resolved.json", "lr_momentum.png", "range_test.png", "range_test.csv", "model.pt")
NOT_PARAMS = ("needs", "tracking")
USED = ("max_lr", "precision", "device", "threads", "total_steps", "steps_per_epoch")


class Standing(NamedTuple):
    """What differs whenever a store may lack something of a trial; `written` is the time of its latest milestone."""

    status: str
    cause: str | None
    attempts: int
    written: float | None


@dataclass(frozen=True)
class Account:
    """All that a trial's folder says at one moment; `asked` is when its sweep was, in seconds."""

    entry: Entry
    folder: TrialFolder
    standing: Standing
    attempts: Sequence[Attempt]
    resolved: dict[str, Any]
    result: dict[str, Any] | None
    asked: float

    @property
    def is_worth_a_run(self) -> bool:
        """Whether there is something to show: before its rate is fixed a trial has no name."""
        return bool(self.resolved) or self.standing.status in ENDED

    @property
    def name(self) -> str:
        """The run's name, which is its legend in a chart."""
        return self.entry.name(self.resolved.get("max_lr"))

    @property
    def first(self) -> float:
        """When the trial's first attempt began, in seconds; 0 where no journal tells."""
        return self.attempts[0].time if self.attempts else 0.0

    @property
    def finished(self) -> float | None:
        """The time of the trial's result, in seconds; None before it."""
        return self.result["finished"] if self.result else None

    @property
    def began(self) -> int:
        """When the trial last began from step 0, in ms; one that never did has the time of its sweep."""
        return milliseconds(next((a.time for a in reversed(self.attempts) if a.start == 0), self.asked))

    @property
    def ended(self) -> int:
        """When the trial wrote its result, its failure, or the last that there is of it, in ms."""
        if self.finished:
            return milliseconds(self.finished)
        block = journal.latest_block(self.folder.journal)
        seen = [a.time for a in self.attempts] + ([block.time] if block else [])
        return milliseconds(max([self.standing.written or self.asked, *seen]))

    def params(self) -> dict[str, str]:
        """The config, and what was used where it leaves that open; a range test has no max_lr."""
        asked = {key: value for key, value in self._asked().items() if key not in (*NOT_PARAMS, "max_lr")}
        used = {key: self.resolved[key] for key in USED if self.resolved.get(key) is not None}
        return as_params(flat(asked) | used)

    def tags(self) -> dict[str, str]:
        """What a search in MLflow may ask for."""
        return as_tags(
            {
                "kind": self.entry.kind,
                "signature": self.entry.signature,
                "status": self.standing.status,
                "cause": self.standing.cause,
                "attempts": str(self.standing.attempts),
                **(self.attempts[-1].place if self.attempts else {}),
                "reused": "true" if self.entry.reused else None,
                "max_lr_from": self.resolved.get("max_lr_from"),
                "verdict": self.result.get("verdict", {}).get("word") if self.result else None,
                "warnings": "\n".join(self.result["warnings"]) if self.result else None,
            }
        )

    def batches(self, start: int, room: int = BATCH) -> Iterator[list[Point]]:
        """The points from step `start` on that no later attempt can make again, and what the trial came to.

        There are at most `room` in the first batch.
        """
        stop = sys.maxsize if self.result else journal.durable(self.attempts)
        found = journal.blocks(self.folder.journal, self.attempts, start, stop)
        return batches(found, self._figures(), room=room)

    def config(self) -> str:
        """The trial's config.yaml without credentials."""
        config = self._asked()
        tracking = config.get("tracking", {})
        shown = {"tracking": tracking | {"uri": address(tracking["uri"])}} if "uri" in tracking else {}
        return redacted(yaml.dump(config | shown, Dumper=DUMPER, sort_keys=False))

    def _asked(self) -> dict[str, Any]:
        """The config, empty where it cannot be read."""
        try:
            return self.folder.config()
        except Unreadable:
            return {}

    def artifacts(self) -> list[Path]:
        """The other files that an ended trial leaves."""
        return [path for name in ARTIFACTS if (path := self.folder.path / name).exists()]

    def _figures(self) -> list[Point]:
        """What the trial came to: metrics at step 0, which MLflow's charts show as bars, one for each run."""
        if not self.result:
            return []
        figures = self.result["metrics"] | {"steps_to_target": self._steps_to_target()}
        return [Point(0, key, storable(value), self.ended) for key, value in figures.items() if value is not None]

    def _steps_to_target(self) -> int | None:
        """The number of steps taken when an evaluation first reached the target accuracy; None if none did."""
        if (target := self.entry.target_accuracy) is None:
            return None
        for block in journal.blocks(self.folder.journal, self.attempts):
            for step, value in enumerate(block.metrics.get(journal.VAL_ACCURACY, ()), block.step):
                if value >= target:
                    return step + 1
        return None


def standing(folder: TrialFolder) -> Standing:
    """How a trial stands at this moment; one that has its result is told by that alone."""
    try:
        if result := folder.checked_result():
            return Standing(result["status"], result["cause"], result["attempt"], result["finished"])
        now = folder.state()
        milestone = now.result or folder.failure() or {"time": _modified(folder.checkpoint)}
    except Unreadable:
        now, milestone = folder.state(), {"time": _modified(folder.checkpoint)}
    return Standing(now.status, now.cause, folder.attempts(), milestone.get("finished", milestone.get("time")))


def account(sweep: Sweep, entry: Entry, now: Standing) -> Account:
    """Read a trial's folder, which stood as `now` tells a moment ago: what it had written by then is read whole."""
    folder = sweep.trial(entry.signature)
    try:
        result = folder.result() if now.status in (FINISHED, DIVERGED) else None
        attempts, resolved = journal.attempts(folder.journal), folder.resolved() or {}
    except Unreadable as error:
        # Nothing is told of a trial of which a record cannot be used, but that.
        lost = now._replace(status=LOST, cause=now.cause or str(error))
        return Account(entry, folder, lost, (), {}, None, sweep.created)
    return Account(entry, folder, now, attempts, resolved, result, sweep.created)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
