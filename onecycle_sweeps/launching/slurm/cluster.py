"""SLURM's own programs: what they know of jobs by name, and what is asked of them."""

import os
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

SECONDS = 60
# A controller that is away is asked again after so many seconds; its clients have waited nine by then.
PAUSES = (2.0, 5.0, 10.0, 20.0, 40.0)
AWAY = (
    *("Unable to contact slurm controller", "did not answer", "Socket timed out", "Connection refused"),
    *("Connection reset", "Connection timed out", "Zero Bytes were transmitted"),
)
# Columns of squeue and sacct that may hold anything but a line's end and this.
MARK = "|"
PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "CONFIGURING"}
# The words after which no process of a job is left; whatever else a release of SLURM may say, the job lives.
SETTLED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE"}
OVER = SETTLED | {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
# Of a shell's wishes for all its jobs, those that concern where they may run, also where the shell is itself in a job.
KEPT = (
    *("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS"),
    *("SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS"),
)
WITHOUT_ACCOUNTING = ("accounting storage is disabled", "not on the PATH")

T = TypeVar("T")


class Refused(Exception):
    """One of SLURM's programs failed or is not here; the message is its last line."""


@dataclass(frozen=True)
class Job:
    """One element of a job array as SLURM sees it; `code` and `signal` are how its batch script ended."""

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
class Seen:
    """What the cluster knows at one moment of the jobs of some names, by name and index.

    `trusted` is whether a job that is not among them is gone: false where one of the programs did not answer that
    should have. `remarks` has a line for each of those.
    """

    jobs: dict[tuple[str, int], Job] = field(default_factory=dict)
    trusted: bool = True
    remarks: list[str] = field(default_factory=list)


def look(names: Collection[str], since: float) -> Seen:
    """What squeue, and for jobs that it has forgotten sacct, know of the jobs of these names since a time in s."""
    seen = Seen()
    if not names:
        return seen
    listed, accounted = {}, {}
    believed = OVER
    try:
        listed = dict(_listed(names))
    except Refused as error:
        seen.trusted = False
        seen.remarks.append(f"squeue: {error}")
        # A job that lost its node or its place may wait again, which squeue alone would tell.
        believed = SETTLED
    try:
        accounted = dict(_accounted(names, since))
    except Refused as error:
        if not any(words in str(error) for words in WITHOUT_ACCOUNTING):
            seen.trusted = False
            seen.remarks.append(f"sacct: {error}")
    seen.jobs |= {key: job for key, job in accounted.items() if job.state in believed} | listed
    return seen


def state_of(job: str) -> str:
    """SLURM's word for a job by its number; raises Refused."""
    return ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def patiently(call: Callable[[], T]) -> T:
    """What a call gives; while the controller is away it is made again and again. Raises Refused in the end."""
    for pause in PAUSES:
        try:
            return call()
        except Refused as error:
            if not is_away(error):
                raise
        time.sleep(pause)
    return call()


def is_away(error: Refused) -> bool:
    """Whether the controller did not answer, which it may do later."""
    return any(words in str(error) for words in AWAY)


def cancel(ids: Collection[str]) -> None:
    """Cancel jobs; raises Refused. Jobs that have ended are no reason to."""
    if ids:
        ask("scancel", "--quiet", *ids)


def requeue(job: str) -> None:
    """Let SLURM run a job again, which ends the process that asks; raises Refused where the cluster forbids it."""
    ask("scontrol", "requeue", job)


def largest_array() -> int:
    """The most elements that an array may have here; raises Refused."""
    lines = (line.split("=") for line in ask("scontrol", "show", "config").splitlines())
    size = next((int(line[1]) for line in lines if line[0].strip() == "MaxArraySize"), 1001)
    if size < 1:
        raise Refused("MaxArraySize is 0: this cluster takes no job arrays, as which sweeps are submitted")
    return size


def ask(*command: str, stdin: str | None = None) -> str:
    """What one of SLURM's programs says; raises Refused."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=SECONDS,
            check=False,
            env=outside_a_job(),
        )
    except FileNotFoundError as error:
        raise Refused(f"{command[0]} is not on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{command[0]} did not answer within {SECONDS} s") from error
    if done.returncode:
        raise Refused((done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1])
    return done.stdout


def outside_a_job() -> dict[str, str]:
    """This process's environment without what a job that it may be part of would add to its own jobs."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    inherited = ("SLURM_", "SBATCH_", "SRUN_")
    return {k: v for k, v in os.environ.items() if not k.startswith(inherited) or k in KEPT}


def _listed(names: Collection[str]) -> Iterator[tuple[tuple[str, int], Job]]:
    fields = ("Name", "ArrayJobID", "ArrayTaskID", "State", "NodeList", "Reason", "exit_code")
    columns = ",".join(f"{field}:{MARK}" for field in fields)
    for line in ask("squeue", "-h", "-r", "-t", "all", "-n", ",".join(names), "-O", columns).splitlines():
        with _readable(line):
            name, array, index, state, node, reason, status, *_ = map(str.strip, line.split(MARK))
            if index.isdigit():
                code, signal = int(status) >> 8 & 0xFF, int(status) & 0x7F
                yield (name, int(index)), Job(array, int(index), state, node, reason, code, signal)


def _accounted(names: Collection[str], since: float) -> Iterator[tuple[tuple[str, int], Job]]:
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 1))
    columns = "JobName%200,JobID,State,NodeList%200,Reason,ExitCode"
    asked = ("sacct", "-X", "-n", "-P", "-S", start, f"--name={','.join(names)}", f"--format={columns}")
    for line in ask(*asked).splitlines():
        with _readable(line):
            name, job, state, node, reason, ended = line.split(MARK)
            array, _, index = job.partition("_")
            if index.isdigit():
                code, _, signal = ended.partition(":")
                # CANCELLED by 1000
                word = state.partition(" ")[0]
                yield (name, int(index)), Job(array, int(index), word, node, reason, int(code), int(signal or 0))


@contextmanager
def _readable(line: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Refused(f"a line that says nothing of a job: {line!r}") from error
