"""A sweep's jobs from submission to end: submitted in order, watched, resubmitted after a time limit, or cancelled."""

import time
from collections.abc import Generator, Iterator, Sequence

from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.launching.slurm import client, jobs, sbatch, submissions, waiting
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.launching.slurm.options import Settings
from onecycle_sweeps.launching.slurm.submissions import Submission
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import ENDED, QUEUED, RUNNING, WAITING, check_owner, is_own

TICK_SECONDS = 0.5
# SLURM is queried at most every QUERY_SECONDS, and less often the longer the sweep lasts and the longer a query with
# its look at all trials takes.
QUERY_SECONDS, MAX_QUERY_SECONDS, QUERY_SHARE, QUERY_PAUSE = 3.0, 30.0, 0.01, 5.0
IN_FLIGHT_PAUSE = 1.0
# How long the job that writes the report waits for the place of the last job, which may still be ending.
ROOM_SECONDS = 10.0
# Who submits the trials that wait for room if jobs cannot, by the setting `wait`.
WATCHED = {
    True: "this command submits what waits, or status --watch if this command has ended",
    False: "status --watch has to submit what waits, since the only job of the sweep still counts while it ends",
}


def run(settings: Settings, sweep: Sweep, trials: Sequence[Entry], *, report: bool) -> Generator[Event]:
    """Submit the trials and, with the setting `wait`, watch them until they end. Closing the generator keeps the jobs.

    Raises SlurmError with sbatch's message.
    """
    for line in submit_all(sweep, trials, settings, report=report):
        yield Event(news=line)
    if settings["wait"]:
        yield from watch(sweep, trials)
        # This command writes the report.
        waiting.forget(sweep)


def submit_all(sweep: Sweep, trials: Sequence[Entry], settings: Settings, *, report: bool) -> Iterator[str]:
    """Submit the trials without a job and, with `report`, the job that writes the report; yields a line for each array.

    Raises SlurmError with sbatch's message. Earlier arrays stay submitted, and the same command submits the rest.
    """
    with submissions.exclusive(sweep):
        jobs.update(sweep)
        while any(job.submission.is_in_flight for job in jobs.open_jobs(sweep)):
            time.sleep(IN_FLIGHT_PAUSE)
            jobs.update(sweep)
        for entry in trials:
            # The update may have found that an earlier job was cancelled; this command starts the trial again.
            sweep.trial(entry.signature).remove("cancel.json")
        since = time.time()
        queued = {job.trial.signature: job.id for job in jobs.open_jobs(sweep) if job.submission.array}
        largest = client.with_retries(client.largest_array) if any(e.signature not in queued for e in trials) else 1
        arrays = submissions.job_arrays(trials, queued, settings, largest, report=report)
        for number, array in enumerate(arrays):
            try:
                after = submissions.dependencies(array.after, queued)
                for made in sbatch.submit_in_parts(sweep, array, since, after):
                    queued |= made.ids
                    yield submissions.describe(made)
            except SlurmError as error:
                if client.is_full(error):
                    waiting.forget(sweep)
                    count = waiting.postpone(sweep, arrays[number:], queued, since)
                    what = f"{count} trial{'s' * (count > 1)}" if count else submissions.REPORT
                    alone = jobs.goes_on_alone(sweep)
                    then = "each job that ends submits the next" if alone else WATCHED[settings["wait"]]
                    yield f"{what} wait{'s' * (count < 2)} until other jobs of yours end ({error}): {then}"
                elif not array.trials:
                    yield submissions.report_refused(error)
                else:
                    raise
                return
        waiting.forget(sweep)


def watch(sweep: Sweep, trials: Sequence[Entry]) -> Generator[Event]:
    """Yield each change of the trials' status, until all have ended or those that are left have no job.

    A trial whose job was ended by a time limit, a preemption or its node's failure is submitted again, and so is one
    that waits for room among the user's jobs. Of another user's sweep only what the trials' folders record is shown.
    """
    last: dict[str, str] = {}
    began, queried, remarks, spent = time.monotonic(), -MAX_QUERY_SECONDS, [], 0.0
    while unfinished := [entry for entry in trials if last.get(entry.signature) not in ENDED]:
        now = time.monotonic()
        changed = [entry for entry in unfinished if last.get(entry.signature) == RUNNING]
        pause = max(QUERY_SECONDS, QUERY_SHARE * (now - began), QUERY_PAUSE * spent)
        if now - queried >= min(MAX_QUERY_SECONDS, pause):
            found = _update_and_resubmit(sweep, unfinished) if is_own(sweep.folder) else []
            yield from (Event(news=line) for line in found if line not in remarks)
            queried, remarks, changed, spent = now, found, unfinished, time.monotonic() - now
        for entry in changed:
            current = sweep.trial(entry.signature).state()
            if last.get(entry.signature) != current.status:
                last[entry.signature] = current.status
                yield Event(entry, current.status, current.cause)
        if not any(
            last.get(e.signature) in (*ENDED, QUEUED, RUNNING) or _may_be_resubmitted(sweep, e) for e in unfinished
        ):
            return
        yield Event()
        time.sleep(TICK_SECONDS)


def submit_report(sweep: Sweep) -> Iterator[str]:
    """Submit the job that writes the report of trials that have all ended, where it waits for room."""
    if submissions.postponed(sweep) and is_own(sweep.folder):
        with submissions.exclusive(sweep):
            deadline = time.monotonic() + ROOM_SECONDS
            yield from waiting.submit(sweep, give_up=lambda: time.monotonic() > deadline)


def cancel(sweep: Sweep) -> list[str]:
    """Cancel the jobs of a sweep; returns a line if scancel fails."""
    if not ((made := submissions.load_all(sweep)) or submissions.postponed(sweep) or any(jobs.open_jobs(sweep))):
        return []
    with submissions.exclusive(sweep):
        waiting.forget(sweep)
        jobs.update(sweep)
        left = [job for job in jobs.open_jobs(sweep) if job.submission.array]
        reports = [submission.array for submission in made if submission.array and not submission.trials]
        try:
            client.cancel([*(job.id for job in left), *reports])
        except SlurmError as error:
            return [f"scancel: {error}"]
        for job in left:
            jobs.end(job, "cancelled")
    return []


def _update_and_resubmit(sweep: Sweep, trials: Sequence[Entry]) -> list[str]:
    """Update the jobs' status and submit trials again; returns a line for each submission and each failed program.

    Raises SlurmError if the cluster no longer accepts a trial.
    """
    with submissions.exclusive(sweep, seconds=0) as is_held:
        if not is_held:
            return []
        remarks = jobs.update(sweep)
        left = [
            e
            for e in trials
            if _may_be_resubmitted(sweep, e)
            and not waiting.is_postponed(sweep, e.signature)
            and sweep.trial(e.signature).state().status == WAITING
            and (e.needs is None or sweep.trial(e.needs).state().status in ENDED)
        ]
        try:
            return [*remarks, *_resubmit(sweep, left), *waiting.submit(sweep, give_up=lambda: True)]
        except SlurmError as error:
            if not client.is_unreachable(error):
                raise
            return [*remarks, f"sbatch: {error}"]


def _may_be_resubmitted(sweep: Sweep, entry: Entry) -> bool:
    return bool(sweep.trial(entry.signature).last_job().get("again"))


def _resubmit(sweep: Sweep, trials: Sequence[Entry]) -> Iterator[str]:
    """Submit trials again with the settings of their last submission; raises SlurmError."""
    earlier: dict[str, tuple[Submission, list[Entry]]] = {}
    for entry in trials:
        path = sweep.runs_dir / sweep.trial(entry.signature).last_job()["submission"]
        try:
            # The settings contain shell lines, so another user must not have written them.
            check_owner(path)
        except PermissionError as error:
            raise SlurmError(str(error)) from error
        if submission := submissions.load(path):
            earlier.setdefault(submission.name, (submission, []))[1].append(entry)
    for submission, entries in earlier.values():
        largest = client.with_retries(client.largest_array)
        arrays = list(submissions.in_parts(entries, submission.settings, largest))
        submitted: dict[str, str] = {}
        for number, array in enumerate(arrays):
            try:
                for made in sbatch.submit_in_parts(sweep, array, submission.since, resubmit=True):
                    submitted |= made.ids
                    yield f"{submissions.describe(made)} again"
            except SlurmError as error:
                if not client.is_full(error):
                    raise
                waiting.postpone(sweep, arrays[number:], submitted, submission.since)
                yield f"the other trials wait until jobs of yours end: {error}"
                return
