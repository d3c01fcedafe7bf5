"""What a job runs on its node: one trial of a submission, or a sweep's report."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

# The first thing that a job does is to listen: whatever is imported before takes time in which a signal may come.
_asked = threading.Event()
_by: list[int] = []


def _leave(number: int, _: FrameType | None) -> None:
    _by.append(number)
    _asked.set()


for _number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(_number, _leave)

from contextlib import ExitStack  # noqa: E402

from onecycle_sweeps import arguments, journal, sweep, tracking  # noqa: E402
from onecycle_sweeps.files import Unreadable  # noqa: E402
from onecycle_sweeps.launching.slurm import cluster, endings, records  # noqa: E402
from onecycle_sweeps.launching.slurm.records import Submission  # noqa: E402
from onecycle_sweeps.sweep import Sweep  # noqa: E402
from onecycle_sweeps.trial_folder import FAILED, TrialFolder  # noqa: E402

# The exit status of a job that saved and left (sysexits.h, EX_TEMPFAIL).
LEFT = 75
SHIPPING_SECONDS = 10.0
GRACE_SECONDS = 20.0
# A job that was cancelled or superseded may still be saving.
BUSY_SECONDS, BUSY_PAUSE = 120.0, 1.0


def main(path: Path) -> int:
    """Carry out the job's part of the submission at `path`; returns the exit status."""
    whole = sweep.load(path.parent.parent)
    arguments.add_code(whole.command, Path(whole.cwd))
    submission = records.load(path)
    if submission is None:
        raise FileNotFoundError(f"{path}, which tells what to do, is gone")
    if not submission.trials:
        return _report(whole)
    trial = whole.trial(submission.trials[int(os.environ["SLURM_ARRAY_TASK_ID"])])
    if cause := _in_vain(trial, submission):
        number = place()["slurm_job_id"]
        told = {"cause": cause, "attempt": trial.attempts(), "time": time.time(), "slurm_job_id": number}
        trial.write("failure", told)
        return 1
    with ExitStack() as stack:
        if tracking.is_server(whole.tracking_uri):
            shipper = tracking.Shipper(
                whole.folder, only=trial.signature, interval=SHIPPING_SECONDS, grace=GRACE_SECONDS
            )
            stack.enter_context(shipper)
        return _execute(trial)


def _in_vain(trial: TrialFolder, submission: Submission) -> str | None:
    """Why another attempt would come to nothing: those before did, or the range test that it needs failed by itself."""
    if endings.is_futile(journal.attempts(trial.journal), submission.since):
        return f"{endings.FUTILE_ATTEMPTS} attempts in a row saved no later step: raise hydra.launcher.timeout_min"
    try:
        needs = trial.config()["needs"]["range_test"]
    except Unreadable as error:
        return str(error)
    if needs is None or (test := trial.sibling(needs)).state().has_result:
        return None
    last = next(reversed(journal.attempts(test.journal)), None)
    failed = last is not None and last.end == FAILED and last.time >= submission.since
    return f"range test {needs}: {last.cause}" if failed and last else None


def place() -> dict[str, str]:
    """Where this job runs, in SLURM's words."""
    here = os.environ
    return {
        "slurm_job_id": f"{here['SLURM_ARRAY_JOB_ID']}_{here['SLURM_ARRAY_TASK_ID']}",
        "slurm_restarts": here.get("SLURM_RESTART_COUNT", "0"),
        "node": here.get("SLURMD_NODENAME", ""),
        "partition": here.get("SLURM_JOB_PARTITION", ""),
        **({"gpu": here["CUDA_VISIBLE_DEVICES"]} if here.get("CUDA_VISIBLE_DEVICES") else {}),
    }


def _execute(trial: TrialFolder) -> int:
    from onecycle_sweeps.launching import job

    here = place()
    until = time.monotonic() + BUSY_SECONDS
    while (outcome := job.execute(trial, _asked.is_set, here)).status == job.BUSY and time.monotonic() < until:
        if _is_an_earlier_copy(trial, here):
            trial.break_lock()
        elif _asked.wait(BUSY_PAUSE):
            break
    print(f"trial {trial.signature}: {outcome.status}{f', {outcome.cause}' if outcome.cause else ''}", file=sys.stderr)
    if outcome.status == job.STOPPED:
        _requeue()
        return LEFT
    return 1 if outcome.status == job.FAILED else 0


def _is_an_earlier_copy(trial: TrialFolder, here: dict[str, str]) -> bool:
    """Whether who holds the trial is this very job, on a node that SLURM has given up."""
    head = journal.latest_attempt(trial.journal)
    if head is None or head.place.get("slurm_job_id") != here["slurm_job_id"]:
        return False
    return int(head.place["slurm_restarts"]) < int(here["slurm_restarts"])


def _requeue() -> None:
    """Be run again; where the cluster forbids it, the trial is left to whoever watches or resumes its sweep.

    SIGTERM says that SLURM wants the place: a job that leaves in time, as long as it counts as running, is not requeued
    by itself. One that was cancelled, or is at its limit, does not count as running any more.
    """
    # The last element of an array bears the array's own number as well: only with its index is it meant alone.
    number = place()["slurm_job_id"]
    try:
        if signal.SIGUSR2 in _by or cluster.state_of(number) == "RUNNING":
            cluster.requeue(number)
    except cluster.Refused as error:
        print(f"not requeued: {error}", file=sys.stderr)


def _report(whole: Sweep) -> int:
    from onecycle_sweeps import report

    comparison = report.compare(whole)
    files = report.write(comparison)
    if not tracking.is_server(whole.tracking_uri):
        return 0
    undelivered = tracking.deliver(whole, files, report.markdown(comparison))
    print(undelivered or "all of it is in MLflow", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
