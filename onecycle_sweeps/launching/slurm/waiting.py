"""Trials that wait for room among the user's jobs, and their submission as other jobs end.

Each array that waits is a file in the sweep's folder `waiting/`; one without trials is the job that writes the report.
The files are only an index: a trial waits as long as its job.json names one of them.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from onecycle_sweeps.launching.slurm import client, jobs, sbatch, submissions
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.launching.slurm.submissions import JobArray, Submission, postponed
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import ENDED, WAITING, check_owner

CAUSE = "waits for room among your jobs"
PAUSE_SECONDS = 1.0


def postpone(sweep: Sweep, arrays: Sequence[JobArray], submitted: Collection[str], since: float) -> int:
    """Record that the trials of these arrays that are not submitted wait for room; returns their number."""
    _folder(sweep).mkdir(mode=0o700, parents=True, exist_ok=True)
    number, count = max((int(path.stem) for path in postponed(sweep)), default=0), 0
    for array in arrays:
        trials = tuple(signature for signature in array.trials if signature not in submitted)
        if array.trials and not trials:
            continue
        number += 1
        path = _folder(sweep) / f"{number:06d}.json"
        Submission(path.stem, trials, dict(array.settings), since, time.time()).write(path)
        for index, signature in enumerate(trials):
            trial = sweep.trial(signature)
            record = {"submission": _name(sweep, path), "index": index, "status": submissions.ENDED, "cause": CAUSE}
            trial.write("job", record | {"again": True, "tries": trial.last_job().get("tries", 0)})
        count += len(trials)
    return count


def is_postponed(sweep: Sweep, signature: str) -> bool:
    """Whether a trial waits for room."""
    path = sweep.runs_dir / sweep.trial(signature).last_job().get("submission", "")
    return path.parent == _folder(sweep) and path.exists()


def forget(sweep: Sweep) -> None:
    """Let nothing wait for room any more."""
    for path in postponed(sweep):
        path.unlink(missing_ok=True)


def submit(sweep: Sweep, *, give_up: Callable[[], bool]) -> Generator[str]:
    """Submit what waits, as far as there is room; yields a line for each job array. The caller holds the lock.

    Where there is no room even for one job, it tries again until `give_up()` is true. Raises SlurmError if the cluster
    refuses a trial for another reason; the trial still waits.
    """
    for path in (paths := postponed(sweep)):
        # The settings contain shell lines, so another user must not have written them.
        check_owner(path)
        array = submissions.load(path)
        if array and array.trials:
            if (yield from _submit_trials(sweep, path, array, give_up)):
                return
        elif array and postponed(sweep) == [path]:
            # Where trials have just taken the room, the next call submits it.
            yield from _submit_report(sweep, path, array, give_up if paths == [path] else lambda: True)


def _submit_trials(
    sweep: Sweep, path: Path, array: Submission, give_up: Callable[[], bool]
) -> Generator[str, None, bool]:
    """Submit trials of one file, one job at first and then twice as many each time; returns whether room ran out.

    Trials that wait for another one, which finds their rate, are left in the file.
    """
    needs = {entry.signature: entry.needs for entry in sweep.trials}
    left, blocked = deque(array.trials), list[str]()
    size, grows, is_full, submitted = 1, True, False, False

    @cache
    def has_ended(signature: str) -> bool:
        return sweep.trial(signature).state().status in ENDED

    def take() -> list[str]:
        """The next trials, without those that another command has submitted or cancelled since."""
        part: list[str] = []
        while left and len(part) < size:
            signature = left.popleft()
            if (needed := needs.get(signature)) and not has_ended(needed):
                blocked.append(signature)
            elif _waits(sweep, signature, path):
                part.append(signature)
        return part

    try:
        while not is_full and (part := take()):
            try:
                made = sbatch.submit(sweep, JobArray(tuple(part), array.settings), array.since, resubmit=True)
            except SlurmError as error:
                left.extendleft(reversed(part))
                if not client.is_full(error):
                    raise
                if len(part) > 1:
                    size, grows = len(part) // 2, False
                elif submitted or give_up():
                    is_full = True
                else:
                    time.sleep(PAUSE_SECONDS)
                continue
            submitted, size = True, 2 * size if grows else size
            yield submissions.describe(made)
    finally:
        if left or blocked:
            replace(array, trials=(*blocked, *left)).write(path)
        else:
            path.unlink()
    return is_full


def _submit_report(sweep: Sweep, path: Path, array: Submission, give_up: Callable[[], bool]) -> Generator[str]:
    """Submit the job that writes the report, after all jobs of the sweep that have not ended."""
    jobs.update(sweep)
    ids = {job.trial.signature: job.id for job in jobs.open_jobs(sweep) if job.submission.array}
    after = submissions.dependencies([entry.signature for entry in sweep.trials], ids)
    while True:
        try:
            yield submissions.describe(sbatch.submit(sweep, JobArray((), array.settings), array.since, after))
        except SlurmError as error:
            if client.is_full(error):
                if give_up():
                    return
                time.sleep(PAUSE_SECONDS)
                continue
            yield submissions.report_refused(error)
        path.unlink()
        return


def _waits(sweep: Sweep, signature: str, path: Path) -> bool:
    trial = sweep.trial(signature)
    return trial.last_job().get("submission") == _name(sweep, path) and trial.state().status == WAITING


def _folder(sweep: Sweep) -> Path:
    return sweep.folder / "waiting"


def _name(sweep: Sweep, path: Path) -> str:
    """A path as job.json names it."""
    return str(path.relative_to(sweep.runs_dir))
