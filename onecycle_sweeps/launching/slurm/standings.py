"""Brings the trials' folders up to date with what SLURM knows of their jobs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onecycle_sweeps import journal
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.journal import Attempt
from onecycle_sweeps.launching.slurm import cluster, endings, records
from onecycle_sweeps.launching.slurm.cluster import Job, Seen
from onecycle_sweeps.launching.slurm.endings import Ending
from onecycle_sweeps.launching.slurm.records import Submission, load
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import LOST, QUEUED, RUNNING, STOPPED, TrialFolder

ENDED = "ended"
# What a node wrote last may take so long to be seen from here.
LAG_SECONDS, LAG_SECONDS_MOST = 1.0, 8.0
# A job that squeue does not list is gone once it has been missed for so long.
MISSED_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
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
    """Write into the trials' folders how their jobs stand; returns a line for what could not be asked.

    While another process does so, or submits some, nothing is written.
    """
    if not any(opened(sweep)):
        return []
    with records.alone(sweep, waiting=False) as free:
        return update(sweep) if free else []


def update(sweep: Sweep) -> list[str]:
    """The same, for a process that is alone with the jobs."""
    waiting = list(opened(sweep))
    since = min((one.submission.created for one in waiting), default=0.0)
    seen = cluster.look({one.submission.name for one in waiting}, since)
    over = {one: seen.jobs.get(one.key) for one in waiting if not _goes_on(one, seen)}
    for one in _without_result(over):
        _conclude(one, over[one])
    return seen.remarks


def _without_result(over: Mapping[Open, Job | None]) -> list[Open]:
    """Those of the trials whose job is over that have no result, even after what a node wrote last can be seen here."""
    done = any(job and job.state == "COMPLETED" for job in over.values())
    deadline = time.monotonic() + (LAG_SECONDS_MOST if done else LAG_SECONDS)
    left = list(over)
    while left and time.monotonic() < deadline:
        time.sleep(LAG_SECONDS / 2)
        for one in left:
            # To list a folder is to ask a file server anew.
            list(one.trial.path.iterdir())
        left = [one for one in left if not one.trial.state().has_result]
    return left


def opened(sweep: Sweep) -> Iterator[Open]:
    """The trials of a sweep that have a job which was not seen to end."""
    known: dict[Path, Submission | None] = {}
    for entry in sweep.trials:
        trial = sweep.trial(entry.signature)
        try:
            told = trial.job()
            if not told or told["status"] not in (QUEUED, RUNNING) or trial.state().has_result:
                continue
            path = sweep.runs_dir / told["submission"]
            if path not in known:
                known[path] = load(path)
        except Unreadable:
            # How the trial stands says which file it is.
            continue
        submission = known[path]
        if submission:
            yield Open(trial, told, path, submission)
        else:
            trial.write("job", told | {"status": LOST, "cause": f"{path}, which tells of its job, is gone"})


def _goes_on(one: Open, seen: Seen) -> bool:
    """Whether the job waits or runs, for all that is known; what was learned is written down."""
    job = seen.jobs.get(one.key)
    if job is None:
        if not seen.trusted or one.submission.array is None:
            return not seen.trusted or one.submission.is_in_flight
        missed = one.told.get("missed") or time.time()
        _tell(one, {"missed": missed})
        return time.time() - missed < MISSED_SECONDS
    if one.submission.array is None:
        replace(one.submission, array=job.array).write(one.path)
    if job.state in cluster.OVER:
        return False
    status = QUEUED if job.state in cluster.PENDING else RUNNING
    reason = job.reason if status == QUEUED and job.reason != "None" else None
    _tell(one, {"status": status, "cause": reason, "missed": None})
    return True


def end(one: Open, cause: str) -> None:
    """Write down that a trial's job is over, whatever it may still have to save."""
    _tell(one, {"status": ENDED, "cause": cause})


def _conclude(one: Open, job: Job | None) -> None:
    """Write down how a trial stands whose job is over and left no result."""
    trial, attempts = one.trial, journal.attempts(one.trial.journal)
    number = job.id if job else one.job_id
    mine = [a for a in attempts if a.place.get("slurm_job_id") == number]
    failure = trial.last_failure()
    if not mine and trial.is_locked():
        _tell(one, {"status": ENDED, "cause": "another process works on it", "again": True})
    elif failure and (mine or failure.get("slurm_job_id") == number):
        _tell(one, {"status": ENDED, "cause": failure["cause"]})
    elif job is None:
        _vanish(one, mine)
    else:
        end = endings.ending(job, trial, endings.tail(one.path.parent / f"{job.id}_0_log.err"))
        tries = 0 if mine else one.told.get("tries", 0) + 1
        if end.again and (tries >= endings.FUTILE_ATTEMPTS or endings.is_futile(attempts, one.submission.since)):
            end = Ending(f"{end.cause}: {endings.FUTILE_ATTEMPTS} attempts in a row saved no later step")
        if end.cancelled and not trial.is_cancelled():
            trial.write("cancel", {"time": time.time(), "cause": end.cause})
        elif not end.again and not end.cancelled:
            trial.write("failure", {"cause": end.cause, "attempt": trial.attempts(), "time": time.time()})
        _tell(one, {"status": ENDED, "cause": end.cause, "again": end.again, "tries": tries})


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
    """Write news of a trial's job, unless the trial has another one by now."""
    now = one.trial.last_job()
    same = all(now.get(key) == one.told[key] for key in ("submission", "index"))
    if same and {key: now.get(key) for key in news} != news:
        one.trial.write("job", now | news)
