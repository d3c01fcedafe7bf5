"""Job arrays: written down, handed to sbatch by submitit, and found again by name after a crash in between."""

import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from onecycle_sweeps.launching.slurm import cluster, records, request
from onecycle_sweeps.launching.slurm.cluster import Refused
from onecycle_sweeps.launching.slurm.records import Submission
from onecycle_sweeps.launching.slurm.request import Settings
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import QUEUED

# A Python that is starting dies of the signal that asks it to save: it is to be deaf to it until it can listen.
DEAF = "trap '' USR2; exec \"$@\""


class Sbatch(SlurmExecutor):
    """Submitit's writing and submitting of sbatch files, for a command that is no pickle of submitit's."""

    @classmethod
    def affinity(cls) -> int:
        """That SLURM is meant, also where a text is wanted and no srun is there."""
        return 1

    def text(self, command: str) -> str:
        """The sbatch file of a command."""
        return self._make_submission_file_text(command, "")

    def submit_command(self, command: str) -> str:
        """Submit a command; returns its job's number. Raises Refused with sbatch's words."""
        try:
            with _outside_a_job():
                return self._submit_command(command).job_id
        except (FailedJobError, FailedSubmissionError) as error:
            lines = [line for line in str(error).splitlines() if "sbatch:" in line] or str(error).splitlines()
            raise Refused(lines[-1].strip()) from error


def submit(
    sweep: Sweep,
    trials: Sequence[str],
    settings: Settings,
    since: float,
    after: Sequence[str] = (),
    *,
    again: bool = False,
) -> Submission:
    """Submit one array, which begins when the arrays `after` have ended; raises Refused, and nothing is left then.

    `again` is whether its trials had jobs that ended for no fault of theirs. It is written down before sbatch is
    called, so that a crash at any moment leaves a name to look for.
    """
    name = f"onecycle-{sweep.id}-{uuid.uuid4().hex[:8]}"
    made = Submission(name, tuple(trials), dict(settings), since, time.time())
    executor, command = prepared(sweep, made, after)
    records.folder(sweep).mkdir(mode=0o700, parents=True, exist_ok=True)
    made.write(path := records.place(sweep, name))
    for index, signature in enumerate(trials):
        trial = sweep.trial(signature)
        tries = trial.last_job().get("tries", 0) if again else 0
        trial.write("job", pointer(sweep, made, index) | {"tries": tries})
    try:
        made = replace(made, array=_array(executor, command, name))
    except Refused:
        for signature in trials:
            sweep.trial(signature).remove("job.json")
        path.unlink()
        raise
    made.write(path)
    return made


def _array(executor: Sbatch, command: str, name: str) -> str:
    """Submit; where the controller is away it is asked again, once it is sure that it has not taken the first."""
    began, asked_before = time.time(), False

    def ask() -> str:
        nonlocal asked_before
        if asked_before and (taken := _found(name, began)):
            return taken
        asked_before = True
        return executor.submit_command(command)

    return cluster.patiently(ask)


def _found(name: str, since: float) -> str | None:
    """The number of an array of this name, None where SLURM knows of none; raises Refused where it cannot tell."""
    seen = cluster.look([name], since)
    if not seen.jobs and not seen.trusted:
        raise Refused(seen.remarks[-1])
    return next((job.array for job in seen.jobs.values()), None)


def prepared(sweep: Sweep, submission: Submission, after: Sequence[str] = ()) -> tuple[Sbatch, str]:
    """The executor that would submit an array, and the command of its jobs."""
    executor = asking(submission.settings, records.folder(sweep), submission.name, sweep.cwd, len(submission.trials))
    if after:
        executor.parameters["dependency"] = f"afterany:{':'.join(after)}"
    return executor, command(records.place(sweep, submission.name))


def asking(settings: Settings, folder: Path, name: str, cwd: str, count: int = 1) -> Sbatch:
    """The executor that would submit an array of so many elements, whose jobs print into `folder`."""
    executor = Sbatch(folder)
    asked: dict[str, Any] = request.parameters(settings) | {"job_name": name}
    asked["additional_parameters"] = asked["additional_parameters"] | {"chdir": cwd}
    # The executor's own names are longer: time is timeout_min there, mem is mem_gb.
    executor.parameters |= asked | {"map_count": max(1, count)}
    return executor


def command(path: Path, module: str = "node") -> str:
    """What each job of a submission runs: this Python, in the environment that it was submitted from."""
    python = [sys.executable, "-u", "-m", f"onecycle_sweeps.launching.slurm.{module}", str(path)]
    return shlex.join(["bash", "-c", DEAF, "node", *python])


def pointer(sweep: Sweep, submission: Submission, index: int) -> dict[str, Any]:
    """What a trial's job.json says of a job that was just submitted."""
    path = records.place(sweep, submission.name).relative_to(sweep.runs_dir)
    return {"submission": str(path), "index": index, "status": QUEUED, "cause": None, "again": False}


@contextmanager
def _outside_a_job() -> Iterator[None]:
    """Submitit's sbatch takes this process's environment."""
    before = dict(os.environ)
    kept = cluster.outside_a_job()
    for key in before.keys() - kept.keys():
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(before)
