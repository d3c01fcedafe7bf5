"""The program of a job on its node: it runs one trial of a submission, or writes the sweep's report."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

# The handlers are set before the other imports, because a signal may arrive during the seconds that these take.
_stopping = threading.Event()
_received: list[int] = []


def _stop(number: int, _: FrameType | None) -> None:
    _received.append(number)
    _stopping.set()


for _number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(_number, _stop)

from contextlib import ExitStack  # noqa: E402
from functools import cache  # noqa: E402

from onecycle_sweeps import command_line, journal, memory, sweep, tracking  # noqa: E402
from onecycle_sweeps.config import schema  # noqa: E402
from onecycle_sweeps.files import Unreadable  # noqa: E402
from onecycle_sweeps.launching.queue import BUSY  # noqa: E402
from onecycle_sweeps.launching.slurm import client, jobs, submissions  # noqa: E402
from onecycle_sweeps.launching.slurm.submissions import Submission  # noqa: E402
from onecycle_sweeps.sweep import Sweep  # noqa: E402
from onecycle_sweeps.trial_folder import FAILED, STOPPED, TrialFolder  # noqa: E402

# The exit status of a job that was stopped after it had saved (sysexits.h, EX_TEMPFAIL).
STOPPED_STATUS = 75
SHIPPING_SECONDS = 10.0
GRACE_SECONDS = 20.0
# How long a job that ends waits for the lock of submissions, and then for room for another job: it still counts too.
LOCK_SECONDS, ROOM_SECONDS = 60.0, 10.0
# How long to wait for an earlier job that has the trial's lock: after a cancellation it may still be saving.
BUSY_SECONDS, BUSY_PAUSE = 120.0, 1.0


def main(path: Path) -> int:
    """Do this job's part of the submission recorded at `path`; returns the exit status."""
    memory.collect_seldom()
    found = sweep.load(path.parent.parent)
    command_line.add_code(found.command, Path(found.cwd))
    submission = submissions.load(path)
    if submission is None:
        raise FileNotFoundError(f"{path}, the record of this job's submission, is gone")
    if not submission.trials:
        return _report(found)
    trial = found.trial(submission.trials[int(os.environ["SLURM_ARRAY_TASK_ID"])])
    status = _run(found, trial, submission)
    if status != STOPPED_STATUS:
        _submit_waiting(found)
    return status


def _run(found: Sweep, trial: TrialFolder, submission: Submission) -> int:
    """Run the trial, and ship it if its tracker is a server; returns the exit status."""
    if cause := _reason_not_to_run(trial, submission):
        failure = {"cause": cause, "attempt": trial.attempts(), "time": time.time()}
        trial.write("failure", failure | {"slurm_job_id": place()["slurm_job_id"]})
        return 1
    with ExitStack() as stack:
        if tracking.is_server(found.tracking_uri):
            shipper = tracking.Shipper(
                found.folder, only=trial.signature, interval=SHIPPING_SECONDS, grace=GRACE_SECONDS
            )
            stack.enter_context(shipper)
        return _execute(trial)


def _submit_waiting(found: Sweep) -> None:
    """Submit trials of the sweep that wait for room, as the next job that ends."""
    if not submissions.postponed(found):
        return
    # Imported only here, since submitit takes a while.
    from onecycle_sweeps.launching.slurm import waiting

    with submissions.exclusive(found, seconds=LOCK_SECONDS) as is_held:
        if not is_held:
            return
        deadline = time.monotonic() + ROOM_SECONDS
        is_only_one = cache(lambda: client.own_jobs() == 1)

        def give_up() -> bool:
            return _stopping.is_set() or time.monotonic() > deadline or is_only_one()

        try:
            for line in waiting.submit(found, give_up=give_up):
                print(line, file=sys.stderr)
        except (client.SlurmError, PermissionError, Unreadable) as error:
            print(f"the trials that wait were not submitted: {error}", file=sys.stderr)


def _reason_not_to_run(trial: TrialFolder, submission: Submission) -> str | None:
    """Why another attempt would be useless: the last ones saved nothing, or what finds its rate has failed."""
    if jobs.is_futile(journal.attempts(trial.journal), submission.since):
        return f"{jobs.MAX_FUTILE_ATTEMPTS} attempts in a row saved no later step: raise hydra.launcher.timeout_min"
    try:
        word, needs = schema.rate_from(trial.config())
    except Unreadable as error:
        return str(error)
    if needs is None or (test := trial.sibling(needs)).state().has_result:
        return None
    last = next(reversed(journal.attempts(test.journal)), None)
    failed = last is not None and last.end == FAILED and last.time >= submission.since
    return f"{word} {needs}: {last.cause}" if failed and last else None


def place() -> dict[str, str]:
    """Where this job runs, by SLURM's variables, for the journal."""
    here = os.environ
    return {
        "slurm_job_id": f"{here['SLURM_ARRAY_JOB_ID']}_{here['SLURM_ARRAY_TASK_ID']}",
        "slurm_restarts": here.get("SLURM_RESTART_COUNT", "0"),
        "node": here.get("SLURMD_NODENAME", ""),
        "partition": here.get("SLURM_JOB_PARTITION", ""),
        **({"gpu": here["CUDA_VISIBLE_DEVICES"]} if here.get("CUDA_VISIBLE_DEVICES") else {}),
    }


def _execute(trial: TrialFolder) -> int:
    from onecycle_sweeps.launching.execution import execute

    here = place()
    deadline = time.monotonic() + BUSY_SECONDS
    while (ended := execute(trial, _stopping.is_set, here)).status == BUSY and time.monotonic() < deadline:
        if _is_an_earlier_copy(trial, here):
            trial.break_lock()
        elif _stopping.wait(BUSY_PAUSE):
            break
    print(f"trial {trial.signature}: {ended.status}{f', {ended.cause}' if ended.cause else ''}", file=sys.stderr)
    if ended.status == STOPPED:
        _requeue()
        return STOPPED_STATUS
    return 1 if ended.status == FAILED else 0


def _is_an_earlier_copy(trial: TrialFolder, here: dict[str, str]) -> bool:
    """Whether an earlier run of this same job has the trial's lock, on a node that SLURM considers lost."""
    head = journal.latest_attempt(trial.journal)
    if head is None or head.place.get("slurm_job_id") != here["slurm_job_id"]:
        return False
    return int(head.place["slurm_restarts"]) < int(here["slurm_restarts"])


def _requeue() -> None:
    """Ask SLURM to run this job again. If the cluster forbids it, `status --watch` or `resume` submits the trial again.

    A preempted job gets SIGTERM and, if it exits in time, is not requeued by SLURM itself. A job that was cancelled or
    has reached its time limit gets the same signal, but its state is no longer RUNNING.
    """
    # It has the index: the array's number alone would requeue all its elements.
    number = place()["slurm_job_id"]
    try:
        if signal.SIGUSR2 in _received or client.state_of(number) == "RUNNING":
            client.requeue(number)
    except client.SlurmError as error:
        print(f"not requeued: {error}", file=sys.stderr)


def _report(found: Sweep) -> int:
    from onecycle_sweeps import report

    comparison = report.compare(found)
    files = report.write(comparison)
    if not tracking.is_server(found.tracking_uri):
        return 0
    undelivered = tracking.deliver(found, files, report.markdown(comparison), comparison.findings)
    print(undelivered or "all of it is in MLflow", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
