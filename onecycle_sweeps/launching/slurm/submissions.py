"""What a sweep submits to SLURM: its job arrays in order, and the record of each on disk.

The record is written to the sweep's folder `jobs/` before sbatch is called, so that no job is forgotten if the
launching process dies.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onecycle_sweeps import files
from onecycle_sweeps.files import Damaged, Unreadable, read_json, write_json
from onecycle_sweeps.launching.slurm import options
from onecycle_sweeps.launching.slurm.options import Settings
from onecycle_sweeps.sweep import PROBE, RANGE_TEST, TRAIN, Entry, Sweep

# For this long after the record was written, the sbatch of a launching process that died may still be running.
IN_FLIGHT_SECONDS = 30.0
# The status of a job in job.json after its end, or while its trial waits for room among the user's jobs.
ENDED = "ended"
REPORT = "the job that writes the report"


@dataclass(frozen=True)
class JobArray:
    """A job array to be submitted: its trials by index, and the trials whose jobs have to end before it starts.

    Without trials, it is a single job that writes the sweep's report.
    """

    trials: tuple[str, ...]
    settings: Settings
    after: tuple[str, ...] = ()

    def ids(self, number: str) -> dict[str, str]:
        """The job of each trial if SLURM gives the array this number."""
        return {signature: f"{number}_{index}" for index, signature in enumerate(self.trials)}


def job_arrays(
    trials: Sequence[Entry], queued: Collection[str], settings: Settings, largest: int, *, report: bool
) -> list[JobArray]:
    """The arrays for a sweep's unfinished trials, in the order of submission; `queued` trials have a job already.

    Range tests come first, then probes, then trainings: of each kind first those that wait for another trial, together
    with the others that wait for the same one. With `report` a job that writes the report is the last. No array has
    more than `largest` elements.
    """
    todo = [entry for entry in trials if entry.signature not in queued]
    without_result = {*queued, *(entry.signature for entry in todo)}
    arrays: list[JobArray] = []
    for kind in (RANGE_TEST, PROBE, TRAIN):
        waiting: dict[str, list[Entry]] = {}
        ready: list[Entry] = []
        for entry in (one for one in todo if one.kind == kind):
            if entry.needs and entry.needs in without_result:
                waiting.setdefault(entry.needs, []).append(entry)
            else:
                ready.append(entry)
        for needed, group in waiting.items():
            arrays += in_parts(group, settings, largest, (needed,))
        arrays += in_parts(ready, settings, largest)
    if todo and report:
        arrays.append(JobArray((), options.light(settings, len(trials)), tuple(entry.signature for entry in trials)))
    return arrays


def in_parts(
    trials: Sequence[Entry], settings: Settings, largest: int, after: tuple[str, ...] = ()
) -> Iterator[JobArray]:
    """Trials as arrays of at most `largest` elements, and at most the setting `array_size`."""
    # The record of an earlier submission may lack the key.
    largest = min(largest, settings.get("array_size") or largest)
    for start in range(0, len(trials), largest):
        part = trials[start : start + largest]
        yield JobArray(tuple(entry.signature for entry in part), settings, after)


@dataclass(frozen=True)
class Submission:
    """The record of one submitted job array: its unique name, and its trials by index (none: it writes the report).

    `since` is when the user's command began. `array` is SLURM's number, None until sbatch has answered.
    """

    name: str
    trials: tuple[str, ...]
    settings: dict[str, Any]
    since: float
    created: float
    array: str | None = None

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, asdict(self))

    @property
    def ids(self) -> dict[str, str]:
        """The job of each trial, once SLURM has given the array its number."""
        return JobArray(self.trials, self.settings).ids(str(self.array)) if self.array else {}

    @property
    def is_in_flight(self) -> bool:
        """Whether it has no number because sbatch may still be running."""
        return self.array is None and 0 <= time.time() - self.created < IN_FLIGHT_SECONDS


@contextmanager
def exclusive(sweep: Sweep, *, seconds: float | None = None) -> Iterator[bool]:
    """Hold the lock under which jobs of this RUNS_DIR are submitted and updated; yields whether it is held.

    It yields False if another process keeps the lock for `seconds`; by default it waits without a limit.
    """
    try:
        lock = files.lock(sweep.runs_dir / "sweeps" / "jobs.lock", seconds=seconds)
    except files.AlreadyLocked:
        yield False
        return
    with lock:
        yield True


def folder(sweep: Sweep) -> Path:
    """The folder of a sweep's submissions: their records, and the output of the jobs."""
    return sweep.folder / "jobs"


def postponed(sweep: Sweep) -> list[Path]:
    """The files of the arrays that wait for room among the user's jobs, in the order of submission."""
    return sorted((sweep.folder / "waiting").glob("[0-9]*.json"))


def path_of(sweep: Sweep, name: str) -> Path:
    """The record of the submission of this name."""
    return folder(sweep) / f"{name}.json"


def load(path: Path) -> Submission | None:
    """Read the record of a submission; None if there is none. Raises Unreadable."""
    if (data := read_json(path)) is None:
        return None
    try:
        data["trials"] = tuple(data["trials"])
        return Submission(**data)
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged ({type(error).__name__}: {error})") from error


def load_all(sweep: Sweep) -> list[Submission]:
    """All readable submissions of a sweep, oldest first."""
    found: list[Submission] = []
    for path in folder(sweep).glob("onecycle-*.json"):
        with suppress(Unreadable):
            found += filter(None, [load(path)])
    return sorted(found, key=lambda one: one.created)


def describe(made: Submission) -> str:
    """A line for a submission that was accepted."""
    count = len(made.trials)
    what = f"{count} {'trial' if count == 1 else 'trials'}" if count else "the report, after all trials"
    return f"submitted job {made.array}: {what}"


def report_refused(error: Exception) -> str:
    """A line for the job that writes the report, which the cluster does not accept."""
    return f"{REPORT} was refused ({error}): use the verb report"


def dependencies(signatures: Collection[str], ids: Mapping[str, str]) -> list[str]:
    """The jobs to wait for: the one job of a single trial, or the whole arrays that contain several, each once."""
    found = [ids[signature] for signature in signatures if signature in ids]
    return found if len(signatures) == 1 else sorted({job.partition("_")[0] for job in found})
