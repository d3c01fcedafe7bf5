"""sbatch files and their submission, by private functions of submitit 1.5, which a test checks for."""

import io
import math
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from onecycle_sweeps.launching.slurm import client, options, submissions
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.launching.slurm.options import Settings
from onecycle_sweeps.launching.slurm.submissions import JobArray, Submission
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import QUEUED

# SIGUSR2 makes a job save. It would kill a Python that is still starting, so it is ignored until a handler is set.
IGNORE_USR2 = "trap '' USR2; exec \"$@\""


class Sbatch(SlurmExecutor):
    """Submitit's executor for a command of ours instead of one of submitit's pickled functions."""

    @classmethod
    def affinity(cls) -> int:
        """Use SLURM even if there is no srun, for a dry run."""
        return 1

    def text(self, command: str) -> str:
        """The sbatch file of a command."""
        return self._make_submission_file_text(command, "")

    def submit_command(self, command: str) -> str:
        """Submit a command and return its job's number. Raises SlurmError with sbatch's message."""
        try:
            # Submitit prints what sbatch says, which is in the error too.
            with _environment_outside_jobs(), redirect_stderr(io.StringIO()):
                return self._submit_command(command).job_id
        except (FailedJobError, FailedSubmissionError) as error:
            said = [line.strip() for line in str(error).splitlines() if "sbatch:" in line]
            # The lines before the last one name a limit that a job violates, or a word that is wrong.
            told = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in dict.fromkeys(said)]
            raise SlurmError(f"sbatch: {'; '.join(told)}" if told else str(error).splitlines()[-1].strip()) from error


def submit(
    sweep: Sweep, array: JobArray, since: float, after: Sequence[str] = (), *, resubmit: bool = False
) -> Submission:
    """Submit one array, to begin when the arrays numbered `after` have ended.

    `resubmit`: the cluster ended an earlier job of its trials, by a time limit for instance. The record is written
    before sbatch is called, so that after a crash at any moment the job can be found by its name. Raises SlurmError,
    and then leaves the records of earlier jobs as they were.
    """
    name = f"onecycle-{sweep.id}-{uuid.uuid4().hex[:8]}"
    made = Submission(name, array.trials, dict(array.settings), since, time.time())
    executor = executor_of(sweep, array, name, after)
    submissions.folder(sweep).mkdir(mode=0o700, parents=True, exist_ok=True)
    made.write(path := submissions.path_of(sweep, name))
    earlier = {signature: sweep.trial(signature).last_job() for signature in array.trials}
    for index, (signature, before) in enumerate(earlier.items()):
        tries = before.get("tries", 0) if resubmit else 0
        record = {"submission": str(path.relative_to(sweep.runs_dir)), "index": index, "status": QUEUED}
        sweep.trial(signature).write("job", record | {"cause": None, "again": False, "tries": tries})
    try:
        made = replace(made, array=_submit_once(executor, node_command(path), name))
    except SlurmError:
        for signature, before in earlier.items():
            if before:
                sweep.trial(signature).write("job", before)
            else:
                sweep.trial(signature).remove("job.json")
        path.unlink()
        raise
    made.write(path)
    return made


def submit_in_parts(
    sweep: Sweep, array: JobArray, since: float, after: Sequence[str] = (), *, resubmit: bool = False
) -> Iterator[Submission]:
    """Submit an array as `submit` does, in smaller parts where the user may have only so many jobs.

    Raises SlurmError, also if there is no room for a single job; what was submitted before stays.
    """
    left, size = array.trials, max(1, len(array.trials))
    while True:
        try:
            yield submit(sweep, replace(array, trials=left[:size]), since, after, resubmit=resubmit)
        except SlurmError as error:
            if size == 1 or not client.is_full(error):
                raise
            size = math.ceil(size / 2)
            continue
        left = left[size:]
        if not left:
            return


def text(sweep: Sweep, array: JobArray, name: str, after: Sequence[str]) -> str:
    """The sbatch file with which `submit` would submit an array under this name."""
    return executor_of(sweep, array, name, after).text(node_command(submissions.path_of(sweep, name)))


def executor_of(sweep: Sweep, array: JobArray, name: str, after: Sequence[str]) -> Sbatch:
    """The executor for an array of a sweep."""
    made = executor(array.settings, submissions.folder(sweep), name, sweep.cwd, len(array.trials))
    if after:
        made.parameters["dependency"] = f"afterany:{':'.join(after)}"
    return made


def executor(settings: Settings, folder: Path, name: str, cwd: str, count: int = 1) -> Sbatch:
    """The executor for an array of `count` jobs, which write their output into `folder`."""
    made = Sbatch(folder)
    parameters: dict[str, Any] = options.parameters(settings) | {"job_name": name}
    parameters["additional_parameters"] = parameters["additional_parameters"] | {"chdir": cwd}
    made.parameters |= parameters | {"map_count": max(1, count)}
    return made


def node_command(path: Path, module: str = "onecycle_sweeps.launching.slurm.node") -> str:
    """The command of a job: the Python that submits runs a module of this program with one path."""
    return shlex.join(["bash", "-c", IGNORE_USR2, "node", sys.executable, "-u", "-m", module, str(path)])


def _submit_once(executor: Sbatch, command: str, name: str) -> str:
    """Submit, and again if the controller was unreachable, unless it turns out to have the first job."""
    began, tried = time.time(), False

    def submit_unless_found() -> str:
        nonlocal tried
        if tried and (number := _number_of(name, began)):
            return number
        tried = True
        return executor.submit_command(command)

    return client.with_retries(submit_unless_found)


def _number_of(name: str, since: float) -> str | None:
    """The number of the array of this name, None if there is none; raises SlurmError if SLURM cannot tell."""
    found = client.query([name], since)
    if not found.jobs and not found.complete:
        raise SlurmError(found.remarks[-1])
    return next((job.array for job in found.jobs.values()), None)


@contextmanager
def _environment_outside_jobs() -> Iterator[None]:
    """Drop the variables of the job that this process is in while submitit runs sbatch, which would inherit them."""
    before = dict(os.environ)
    kept = client.environment_outside_jobs()
    for key in before.keys() - kept.keys():
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(before)
