"""Why a job ended that left its trial without a result, and whether another may go on with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR2

from onecycle_sweeps import journal
from onecycle_sweeps.journal import Attempt
from onecycle_sweeps.launching.slurm.cluster import Job
from onecycle_sweeps.trial_folder import STOPPED, TrialFolder

# As many attempts in a row that save no later step, and the trial is given up.
FUTILE_ATTEMPTS = 4
TAIL_BYTES = 4096


@dataclass(frozen=True)
class Ending:
    """A cause in one line; `again` is whether the trial may be submitted again, `cancelled` whether by its user."""

    cause: str
    again: bool = False
    cancelled: bool = False


def ending(job: Job, trial: TrialFolder, output: str) -> Ending:
    """How a job ended that SLURM calls ended; `output` is the end of what it wrote to its error stream."""
    where = f" on {job.node}" if job.node else ""
    last = next(reversed(journal.attempts(trial.journal)), None)
    left = last is not None and last.end == STOPPED and last.place.get("slurm_job_id") == job.id
    if job.state == "CANCELLED":
        return Ending(f"job {job.id} was cancelled", cancelled=True)
    if job.state in ("TIMEOUT", "DEADLINE"):
        return Ending(f"the time limit{where}{_saved(last)}", again=True)
    if job.state in ("NODE_FAIL", "BOOT_FAIL"):
        return Ending(f"node failure{where}{_saved(last)}", again=True)
    if job.state == "PREEMPTED" or left:
        return Ending(f"it left{where} when asked to{_saved(last)}", again=True)
    if job.state == "OUT_OF_MEMORY" or "exceeded memory limit" in output or "oom-kill" in output:
        return Ending(f"out of memory{where}: raise hydra.launcher.mem_gb")
    # srun says 128 + signal where its task died of one.
    signal = job.signal or max(0, job.code - 128)
    if not last and (signal == SIGUSR2 or "User defined signal 2" in output):
        return Ending(f"asked to leave{where} before it could begin", again=True)
    if signal and job.reason != "JobLaunchFailure":
        return Ending(f"killed by signal {signal}{where}")
    if not last:
        return Ending(f"it could not be started{where} ({job.reason or job.state}){_words(output)}")
    return Ending(f"job {job.id} ended as {job.state} with status {job.code} and no result{_words(output)}")


def is_futile(attempts: Sequence[Attempt], since: float) -> bool:
    """Whether the latest attempts since a time in s have saved no later step, so many in a row that more are no use."""
    latest = attempts[-FUTILE_ATTEMPTS:]
    return len(latest) == FUTILE_ATTEMPTS and all(a.time >= since and a.saved <= a.start for a in latest)


def tail(path: Path) -> str:
    """The end of a job's output; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _saved(attempt: Attempt | None) -> str:
    return f"; {attempt.saved} steps are saved" if attempt and attempt.saved else ""


def _words(output: str) -> str:
    """The last line that a program wrote rather than SLURM."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))] or lines
    return f": {own[-1]}" if own else ""
