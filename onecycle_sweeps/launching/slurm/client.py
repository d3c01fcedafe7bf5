"""SLURM's own programs: runs them, and reads what squeue and sacct know about jobs."""

import os
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TypeVar

TIMEOUT_SECONDS = 60
# Pauses before an unreachable controller is tried again, after SLURM's programs have waited nine seconds themselves.
RETRY_PAUSES = (2.0, 5.0, 10.0, 20.0, 40.0)
# What SLURM says where a limit of the association or QOS leaves no room for another job.
FULL = ("MaxSubmitJob", "GrpSubmitJob")
UNREACHABLE = (
    *("Unable to contact slurm controller", "did not answer", "Socket timed out", "Connection refused"),
    *("Connection reset", "Connection timed out", "Zero Bytes were transmitted"),
)
# What SLURM's programs say on a machine that belongs to no cluster, and what to do there.
NO_CLUSTER = "Could not establish a configuration source"
ON_A_LOGIN_NODE = "run this on a login node of the cluster, or try it here with hydra.launcher.dry_run=true"
NO_ACCOUNTING = ("accounting storage is disabled", "not on the PATH")
# squeue's columns and their widths: every version pads and cuts by width, not every one takes a separator.
COLUMNS = {
    **{"Name": 128, "ArrayJobID": 16, "ArrayTaskID": 16, "State": 24},
    **{"NodeList": 256, "Reason": 128, "exit_code": 16},
}
PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "CONFIGURING"}
# In these states no process of the job is left. In a state that is in no set here, the job is running.
SETTLED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE"}
OVER = SETTLED | {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
# Kept by a process inside a job, because they say where jobs may run, not what this job was given.
KEPT_VARIABLES = (
    *("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS"),
    *("SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS"),
)

T = TypeVar("T")


class SlurmError(Exception):
    """One of SLURM's programs failed or is missing; the message is its last line."""


@dataclass(frozen=True)
class Job:
    """One element of a job array as SLURM sees it; `code` and `signal` say how its batch script ended."""

    array: str
    index: int
    state: str
    node: str = ""
    reason: str = ""
    code: int = 0
    signal: int = 0

    @property
    def id(self) -> str:
        return f"{self.array}_{self.index}"


@dataclass
class Snapshot:
    """What the cluster knows at one moment about jobs of certain names, by name and index.

    `complete` is false if squeue or sacct failed: a job that is not listed may exist nevertheless. `remarks` has a line
    for each program that failed.
    """

    jobs: dict[tuple[str, int], Job] = field(default_factory=dict)
    complete: bool = True
    remarks: list[str] = field(default_factory=list)


def query(names: Collection[str], since: float) -> Snapshot:
    """Look up this user's jobs by name: in squeue, and those that it has forgotten in sacct.

    sacct is asked for those that ended after `since` (in s).
    """
    snapshot = Snapshot()
    if not names:
        return snapshot
    final = OVER
    try:
        snapshot.jobs |= dict(_squeue(names))
    except SlurmError as error:
        snapshot.complete = False
        snapshot.remarks.append(f"squeue: {error}")
        # A job that lost its node or was preempted may be pending again, which only squeue would know.
        final = SETTLED
    try:
        ended = {key: job for key, job in _sacct(names, since) if job.state in final}
        snapshot.jobs = ended | snapshot.jobs
    except SlurmError as error:
        if not any(words in str(error) for words in NO_ACCOUNTING):
            snapshot.complete = False
            snapshot.remarks.append(f"sacct: {error}")
    return snapshot


def state_of(job: str) -> str:
    """SLURM's state of the job with this number; raises SlurmError."""
    return run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def own_jobs() -> int:
    """How many jobs this user has, each element of an array counted; raises SlurmError."""
    return len(run("squeue", "-h", "-r", "-u", str(os.geteuid()), "-o", "%i").splitlines())


def cancel(ids: Collection[str]) -> None:
    """Cancel jobs; raises SlurmError. Jobs that have ended already do not matter."""
    if ids:
        run("scancel", "--quiet", *ids)


def requeue(job: str) -> None:
    """Let SLURM run a job again, which ends this run of it; raises SlurmError if the cluster forbids it."""
    run("scontrol", "requeue", job)


def largest_array() -> int:
    """The largest job array that this cluster accepts, in elements; raises SlurmError."""
    lines = (line.split("=") for line in run("scontrol", "show", "config").splitlines())
    size = next((int(line[1]) for line in lines if line[0].strip() == "MaxArraySize"), 1001)
    if size < 1:
        raise SlurmError("MaxArraySize is 0: sweeps are submitted as job arrays, which this cluster does not accept")
    return size


def with_retries(call: Callable[[], T]) -> T:
    """The result of a call, repeated for a while if the controller is unreachable; raises SlurmError."""
    for pause in RETRY_PAUSES:
        try:
            return call()
        except SlurmError as error:
            if not is_unreachable(error):
                raise
        time.sleep(pause)
    return call()


def is_unreachable(error: SlurmError) -> bool:
    """Whether the error says that the controller did not answer, so that trying again may help."""
    return any(words in str(error) for words in UNREACHABLE)


def is_full(error: SlurmError) -> bool:
    """Whether the error says that the user may have no more jobs, so that some may be submitted as others end."""
    return any(words in str(error) for words in FULL)


def run(*command: str, stdin: str | None = None) -> str:
    """The output of one of SLURM's programs; raises SlurmError."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=TIMEOUT_SECONDS,
            check=False,
            env=environment_outside_jobs(),
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer within {TIMEOUT_SECONDS} s") from error
    if done.returncode:
        line = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise SlurmError(f"{line}; {ON_A_LOGIN_NODE}" if NO_CLUSTER in line else line)
    return done.stdout


def environment_outside_jobs() -> dict[str, str]:
    """This process's environment without the variables of the job that it is in, which its own jobs would inherit."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    inherited = ("SLURM_", "SBATCH_", "SRUN_")
    return {k: v for k, v in os.environ.items() if not k.startswith(inherited) or k in KEPT_VARIABLES}


def _squeue(names: Collection[str]) -> Iterator[tuple[tuple[str, int], Job]]:
    columns = ",".join(f"{field}:{width}" for field, width in COLUMNS.items())
    # Of one user, squeue loads only the jobs of that user; otherwise it loads everybody's, whatever the names.
    whose = ("-u", str(os.geteuid()), "-n", ",".join(names))
    for line in run("squeue", "-h", "-r", "-t", "all", *whose, "-O", columns).splitlines():
        with _parsing(line):
            places = accumulate(COLUMNS.values(), initial=0)
            name, array, index, state, node, reason, status = (line[a:b].strip() for a, b in pairwise(places))
            if index.isdigit():
                code, signal = int(status) >> 8 & 0xFF, int(status) & 0x7F
                yield (name, int(index)), Job(array, int(index), state, node, reason, code, signal)


def _sacct(names: Collection[str], since: float) -> Iterator[tuple[tuple[str, int], Job]]:
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 1))
    columns = "JobName%200,JobID,State,NodeList%200,Reason,ExitCode"
    command = ("sacct", "-X", "-n", "-P", "-S", start, f"--name={','.join(names)}", f"--format={columns}")
    for line in run(*command).splitlines():
        with _parsing(line):
            name, job, state, node, reason, ended = line.split("|")
            array, _, index = job.partition("_")
            if index.isdigit():
                code, _, signal = ended.partition(":")
                # The state may be "CANCELLED by 1000".
                word = state.partition(" ")[0]
                yield (name, int(index)), Job(array, int(index), word, node, reason, int(code), int(signal or 0))


@contextmanager
def _parsing(line: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise SlurmError(f"this line of output cannot be read as a job: {line!r}") from error
