"""The status of a sweep's jobs: what SLURM knows about them, why they ended, and what trials' folders record."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from signal import SIGUSR2
from typing import Any

from onecycle_sweeps import journal
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.journal import Attempt
from onecycle_sweeps.launching.slurm import client, submissions
from onecycle_sweeps.launching.slurm.client import Job, Snapshot
from onecycle_sweeps.launching.slurm.submissions import ENDED, Submission
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import LOST, QUEUED, RUNNING, STOPPED, TrialFolder, is_own

# A trial has failed once this many attempts in a row have saved no later step.
MAX_FUTILE_ATTEMPTS = 4
TAIL_BYTES = 4096
# Why the cluster has ended a job whose trial may go on, by SLURM's state.
INTERRUPTIONS = {
    **dict.fromkeys(("TIMEOUT", "DEADLINE"), "time limit reached"),
    **dict.fromkeys(("NODE_FAIL", "BOOT_FAIL"), "node failure"),
    "PREEMPTED": "preempted",
}
# How long it may take until a node's last writes are visible here: longer if SLURM says that the job completed.
LAG_SECONDS, COMPLETED_LAG_SECONDS = 1.0, 8.0
# A job that SLURM has not known for this long is considered gone.
MISSING_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
class OpenJob:
    """The job of a trial without a result, until the job's end is recorded; `record` is the content of job.json."""

    trial: TrialFolder
    record: dict[str, Any]
    path: Path
    submission: Submission

    @property
    def key(self) -> tuple[str, int]:
        return self.submission.name, self.record["index"]

    @property
    def id(self) -> str:
        return f"{self.submission.array}_{self.record['index']}"


@dataclass(frozen=True)
class Ending:
    """Why a job ended, in one line; whether its trial may be submitted again, and whether the user cancelled it."""

    cause: str
    again: bool = False
    cancelled: bool = False


def refresh(sweep: Sweep) -> list[str]:
    """Record the status of jobs in the trials' folders; returns a line for each of SLURM's programs that failed.

    Does nothing while another process submits or updates jobs, nor for another user's sweep.
    """
    if not any(open_jobs(sweep)):
        return []
    if not is_own(sweep.folder):
        return [f"the jobs of sweep {sweep.id} belong to user {sweep.folder.owner()}"]
    with submissions.exclusive(sweep, seconds=0) as is_held:
        return update(sweep) if is_held else []


def update(sweep: Sweep) -> list[str]:
    """The same, for a caller that holds the lock."""
    still_open = list(open_jobs(sweep))
    since = min((job.submission.created for job in still_open), default=0.0)
    snapshot = client.query({job.submission.name for job in still_open}, since)
    over = {job: snapshot.jobs.get(job.key) for job in still_open if not _is_alive(job, snapshot)}
    for job in _without_result(over):
        _record_end(job, over[job])
    return snapshot.remarks


def open_jobs(sweep: Sweep) -> Iterator[OpenJob]:
    """The jobs of a sweep's trials whose end is not recorded."""
    loaded: dict[Path, Submission | None] = {}
    for entry in sweep.trials:
        trial = sweep.trial(entry.signature)
        try:
            record = trial.job()
            if not record or record["status"] not in (QUEUED, RUNNING) or (trial.path / "result.json").exists():
                continue
            path = sweep.runs_dir / record["submission"]
            if path not in loaded:
                loaded[path] = submissions.load(path)
        except Unreadable:
            # The trial's status names the damaged file.
            continue
        if submission := loaded[path]:
            yield OpenJob(trial, record, path, submission)
        else:
            trial.write("job", record | {"status": LOST, "cause": f"{path}, the record of its job, is gone"})


def goes_on_alone(sweep: Sweep, least: int = 2) -> bool:
    """Whether nothing waits for room, or at least `least` jobs of the sweep are left, which submit what waits.

    The cluster counts a job until it has ended, so a user's only job finds no room for the next one.
    """
    return not submissions.postponed(sweep) or len(list(islice(open_jobs(sweep), least))) == least


def end(job: OpenJob, cause: str) -> None:
    """Record the end of a job, although its process may still be saving."""
    _update_record(job, {"status": ENDED, "cause": cause})


def ending(job: Job, trial: TrialFolder, output: str) -> Ending:
    """Why a job ended without a result; `output` is the end of its error stream."""
    on_node = f" on {job.node}" if job.node else ""
    last = next(reversed(journal.attempts(trial.journal)), None)
    left = last is not None and last.end == STOPPED and last.place.get("slurm_job_id") == job.id
    if job.state == "CANCELLED":
        return Ending(f"job {job.id} was cancelled", cancelled=True)
    if interruption := INTERRUPTIONS.get(job.state):
        return Ending(f"{interruption}{on_node}{_resumes_at(last)}", again=True)
    if left:
        return Ending(f"stopped by SLURM's signal{on_node}{_resumes_at(last)}", again=True)
    if job.state == "OUT_OF_MEMORY" or "exceeded memory limit" in output or "oom-kill" in output:
        return Ending(f"out of memory{on_node}: raise hydra.launcher.mem_gb")
    # srun's exit status is 128 + signal where its task died of a signal.
    signal = job.signal or max(0, job.code - 128)
    if not last and (signal == SIGUSR2 or "User defined signal 2" in output):
        return Ending(f"stopped by SLURM's signal{on_node} before it could begin", again=True)
    if signal and job.reason != "JobLaunchFailure":
        return Ending(f"killed by signal {signal}{on_node}")
    if not last:
        return Ending(f"it could not be started{on_node} ({job.reason or job.state}){_last_words(output)}")
    return Ending(f"job {job.id} ended as {job.state} with status {job.code} and no result{_last_words(output)}")


def is_futile(attempts: Sequence[Attempt], since: float) -> bool:
    """Whether the last MAX_FUTILE_ATTEMPTS attempts all began after `since` (in s) and saved no later step."""
    latest = attempts[-MAX_FUTILE_ATTEMPTS:]
    return len(latest) == MAX_FUTILE_ATTEMPTS and all(a.time >= since and a.saved <= a.start for a in latest)


def tail(path: Path) -> str:
    """The end of a job's output; empty if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _is_alive(job: OpenJob, snapshot: Snapshot) -> bool:
    """Whether a job is pending or running, as far as is known; records its status."""
    seen = snapshot.jobs.get(job.key)
    if seen is None:
        if not snapshot.complete or job.submission.array is None:
            return not snapshot.complete or job.submission.is_in_flight
        missed = job.record.get("missed") or time.time()
        _update_record(job, {"missed": missed})
        return time.time() - missed < MISSING_SECONDS
    if job.submission.array is None:
        replace(job.submission, array=seen.array).write(job.path)
    if seen.state in client.OVER:
        return False
    status = QUEUED if seen.state in client.PENDING else RUNNING
    reason = seen.reason if status == QUEUED and seen.reason != "None" else None
    _update_record(job, {"status": status, "cause": reason, "missed": None})
    return True


def _without_result(over: Mapping[OpenJob, Job | None]) -> list[OpenJob]:
    """The ended jobs whose trials have no result, after a pause in which a node's last writes become visible."""
    completed = any(seen and seen.state == "COMPLETED" for seen in over.values())
    deadline = time.monotonic() + (COMPLETED_LAG_SECONDS if completed else LAG_SECONDS)
    left = list(over)
    while left and time.monotonic() < deadline:
        time.sleep(LAG_SECONDS / 2)
        for job in left:
            # Listing a folder makes a network file system fetch it from the server again.
            list(job.trial.path.iterdir())
        left = [job for job in left if not job.trial.state().has_result]
    return left


def _record_end(job: OpenJob, seen: Job | None) -> None:
    """Record why a job ended without a result."""
    trial, attempts = job.trial, journal.attempts(job.trial.journal)
    number = seen.id if seen else job.id
    own_attempts = [a for a in attempts if a.place.get("slurm_job_id") == number]
    failure = trial.last_failure()
    if not own_attempts and trial.is_locked():
        _update_record(job, {"status": ENDED, "cause": "another process works on it", "again": True})
    elif failure and (own_attempts or failure.get("slurm_job_id") == number):
        _update_record(job, {"status": ENDED, "cause": failure["cause"]})
    elif seen is None:
        _record_missing(job, own_attempts)
    else:
        found = ending(seen, trial, tail(job.path.parent / f"{seen.id}_0_log.err"))
        tries = 0 if own_attempts else job.record.get("tries", 0) + 1
        if found.again and (tries >= MAX_FUTILE_ATTEMPTS or is_futile(attempts, job.submission.since)):
            found = Ending(f"{found.cause}: {MAX_FUTILE_ATTEMPTS} attempts in a row saved no later step")
        if found.cancelled and not trial.is_cancelled():
            trial.write("cancel", {"time": time.time(), "cause": found.cause})
        elif not found.again and not found.cancelled:
            trial.write("failure", {"cause": found.cause, "attempt": trial.attempts(), "time": time.time()})
        _update_record(job, {"status": ENDED, "cause": found.cause, "again": found.again, "tries": tries})


def _record_missing(job: OpenJob, own_attempts: Sequence[Attempt]) -> None:
    """Record that SLURM does not know a job: sbatch never submitted it, or SLURM has forgotten it."""
    if job.submission.array is None and not own_attempts:
        job.trial.remove("job.json")
    elif own_attempts and own_attempts[-1].end == STOPPED:
        _update_record(job, {"status": ENDED, "cause": own_attempts[-1].cause, "again": True})
    else:
        missing = f"squeue and sacct do not know job {job.id}, and it left no result"
        _update_record(job, {"status": LOST, "cause": missing})


def _update_record(job: OpenJob, changes: dict[str, Any]) -> None:
    """Update a trial's job.json, unless the trial has another job by now."""
    current = job.trial.last_job()
    is_same = all(current.get(key) == job.record[key] for key in ("submission", "index"))
    if is_same and {key: current.get(key) for key in changes} != changes:
        job.trial.write("job", current | changes)


def _resumes_at(attempt: Attempt | None) -> str:
    return f"; resumes at step {attempt.saved}" if attempt and attempt.saved else ""


def _last_words(output: str) -> str:
    """The last line of output that is not SLURM's own."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))] or lines
    return f": {own[-1]}" if own else ""
