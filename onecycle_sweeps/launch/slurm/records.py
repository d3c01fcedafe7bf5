"""Submissions on disk, in a sweep's folder `jobs/`: written before sbatch is called, so that none is forgotten."""

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onecycle_sweeps.folder import read_json, write_json
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

    Without `waiting` it is false at once while one does. Where the file system knows no locks it is always true.
    """
    with (sweep.runs_dir / "sweeps" / "jobs.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waiting else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
        yield True


def folder(sweep: Sweep) -> Path:
    """Where a sweep's submissions lie, and what its jobs print."""
    return sweep.folder / "jobs"


def place(sweep: Sweep, name: str) -> Path:
    """The file of a submission of this name."""
    return folder(sweep) / f"{name}.json"


def load(path: Path) -> Submission | None:
    """A submission as it was written down; None where it is not there."""
    if (data := read_json(path)) is None:
        return None
    data["trials"] = tuple(data["trials"])
    return Submission(**data)


def all_of(sweep: Sweep) -> list[Submission]:
    """The submissions of a sweep, the first one first."""
    found = [load(path) for path in folder(sweep).glob("onecycle-*.json")]
    return sorted((one for one in found if one), key=lambda one: one.created)
