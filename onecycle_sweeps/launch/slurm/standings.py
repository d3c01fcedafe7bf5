"""Brings the trials' folders up to date with what SLURM knows of their jobs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onecycle_sweeps import journal
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.journal import Attempt
from onecycle_sweeps.launch.slurm import cluster, endings
from onecycle_sweeps.launch.slurm.cluster import QUEUED as PENDING
from onecycle_sweeps.launch.slurm.cluster import RUNNING as AT_WORK
from onecycle_sweeps.launch.slurm.cluster import Job, Seen
from onecycle_sweeps.launch.slurm.endings import Ending
from onecycle_sweeps.launch.slurm.records import Submission, load
from onecycle_sweeps.state import LOST, QUEUED, RUNNING, STOPPED
from onecycle_sweeps.sweep import Sweep

ENDED = "ended"
# What a node wrote last may take so long to be seen from here.
LAG_SECONDS = 1.0


@dataclass(frozen=True)
class Open:
    """A trial without a result whose job was not seen to end."""

    trial: TrialFolder
    told: dict[str, Any]
    path: Path
    submission: Submission

    @property
    def key(self) -> tuple[str, int]:
        return self.submission.name, self.told["index"]

    @property
    def job_id(self) -> str:
        return f"{self.submission.array}_{self.told['index']}"


def refresh(sweep: Sweep) -> list[str]:
    """Write into the trials' folders how their jobs stand; returns a line for what could not be asked."""
    waiting = list(opened(sweep))
    since = min((one.submission.created for one in waiting), default=0.0)
    seen = cluster.look({one.submission.name for one in waiting}, since)
    over = [one for one in waiting if not _goes_on(one, seen)]
    if over:
        time.sleep(LAG_SECONDS)
    for one in over:
        if not one.trial.result():
            _conclude(one, seen.jobs.get(one.key))
    return seen.remarks


def opened(sweep: Sweep) -> Iterator[Open]:
    """The trials of a sweep that have a job which was not seen to end."""
    known: dict[Path, Submission | None] = {}
    for entry in sweep.trials:
        trial = sweep.trial(entry.signature)
        told = trial.job()
        if not told or told["status"] not in (QUEUED, RUNNING) or trial.result():
            continue
        path = sweep.runs_dir / told["submission"]
        if path not in known:
            known[path] = load(path)
        submission = known[path]
        if submission:
            yield Open(trial, told, path, submission)
        else:
            trial.write("job", told | {"status": LOST, "cause": f"{path}, which tells of its job, is gone"})


def _goes_on(one: Open, seen: Seen) -> bool:
    """Whether the job waits or runs, for all that is known; what was learned is written down."""
    job = seen.jobs.get(one.key)
    if job is None:
        return not seen.trusted or one.submission.is_in_flight
    if one.submission.array is None:
        replace(one.submission, array=job.array).write(one.path)
    if job.state not in PENDING | AT_WORK:
        return False
    status = QUEUED if job.state in PENDING else RUNNING
    _tell(one, {"status": status, "cause": job.reason if status == QUEUED else None})
    return True


def _conclude(one: Open, job: Job | None) -> None:
    """Write down how a trial stands whose job is over and left no result."""
    trial, attempts = one.trial, journal.read(one.trial.journal).attempts
    mine = [a for a in attempts if a.place.get("slurm_job_id") == (job.id if job else one.job_id)]
    if not mine and trial.is_locked():
        _tell(one, {"status": ENDED, "cause": "another process works on it", "again": True})
    elif mine and (failure := trial.failure()):
        _tell(one, {"status": ENDED, "cause": failure["cause"]})
    elif job is None:
        _vanish(one, mine)
    else:
        end = endings.ending(job, trial, endings.tail(one.path.parent / f"{job.id}_0_log.err"))
        if end.again and endings.is_futile(attempts, one.submission.since):
            end = Ending(f"{end.cause}: {endings.FUTILE_ATTEMPTS} attempts in a row saved no later step")
        if end.cancelled and not trial.is_cancelled():
            trial.write("cancel", {"time": time.time(), "cause": end.cause})
        elif not end.again and not end.cancelled:
            trial.write("failure", {"cause": end.cause, "attempt": trial.attempts(), "time": time.time()})
        _tell(one, {"status": ENDED, "cause": end.cause, "again": end.again})


def _vanish(one: Open, mine: Sequence[Attempt]) -> None:
    """Write down that SLURM knows of no such job: it may never have, or has forgotten it."""
    if one.submission.array is None and not mine:
        one.trial.remove("job.json")
    elif mine and mine[-1].end == STOPPED:
        _tell(one, {"status": ENDED, "cause": mine[-1].cause, "again": True})
    else:
        gone = f"no trace of job {one.job_id} in squeue or sacct, and no result"
        _tell(one, {"status": LOST, "cause": gone})


def _tell(one: Open, news: dict[str, Any]) -> None:
    if {key: one.told.get(key) for key in news} != news:
        one.trial.write("job", one.told | news)
