"""Submissions on disk, in a sweep's folder `jobs/`: written before sbatch is called, so that none is forgotten."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onecycle_sweeps import files
from onecycle_sweeps.files import Damaged, Unreadable, read_json, write_json
from onecycle_sweeps.sweep import Sweep

# So long may an sbatch still be on its way whose launching process has died.
IN_FLIGHT_SECONDS = 30.0


@dataclass(frozen=True)
class Submission:
    """One job array: its name, which no other has, and its trials by index (none: it writes the sweep's report).

    `since` is when its user asked for these trials; `array` is SLURM's number, None before sbatch has answered.
    """

    name: str
    trials: tuple[str, ...]
    settings: dict[str, Any]
    since: float
    created: float
    array: str | None = None

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_json(path, asdict(self))

    @property
    def is_in_flight(self) -> bool:
        """Whether it may still reach SLURM, from a process that has not said that it did."""
        return self.array is None and 0 <= time.time() - self.created < IN_FLIGHT_SECONDS


@contextmanager
def alone(sweep: Sweep, *, waiting: bool) -> Iterator[bool]:
    """Whether no other process looks after jobs in this RUNS_DIR, or submits some; none does until this is left.

    Without `waiting` it is false at once while one does.
    """
    try:
        held = files.lock(sweep.runs_dir / "sweeps" / "jobs.lock", seconds=None if waiting else 0)
    except files.AlreadyLocked:
        yield False
        return
    with held:
        yield True


def folder(sweep: Sweep) -> Path:
    """Where a sweep's submissions lie, and what its jobs print."""
    return sweep.folder / "jobs"


def place(sweep: Sweep, name: str) -> Path:
    """The file of a submission of this name."""
    return folder(sweep) / f"{name}.json"


def load(path: Path) -> Submission | None:
    """A submission as it was written down; None where it is not there. Raises Unreadable."""
    if (data := read_json(path)) is None:
        return None
    try:
        data["trials"] = tuple(data["trials"])
        return Submission(**data)
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged ({type(error).__name__}: {error})") from error


def all_of(sweep: Sweep) -> list[Submission]:
    """The submissions of a sweep that can be read, the first one first."""
    found: list[Submission] = []
    for path in folder(sweep).glob("onecycle-*.json"):
        with suppress(Unreadable):
            found += filter(None, [load(path)])
    return sorted(found, key=lambda one: one.created)
