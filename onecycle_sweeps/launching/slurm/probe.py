"""The doctor's questions to a cluster: whether it answers, takes the request, and runs it on a node that can work."""

import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from onecycle_sweeps import provenance
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.files import read_json, write_json
from onecycle_sweeps.launching import conclusion
from onecycle_sweeps.launching.finding import Finding, fails, ok
from onecycle_sweeps.launching.slurm import client, jobs, request, sbatch
from onecycle_sweeps.launching.slurm.client import OVER, Job, SlurmError
from onecycle_sweeps.launching.slurm.request import Settings
from onecycle_sweeps.trial_folder import TrialFolder

TIMEOUT_MIN = 2
LOOK_SECONDS = 1.0
# What a node wrote last may take so long to be seen from here.
LAG_SECONDS = 2.0
PATIENCE_MIN = 10
TAIL_LINES = 5
NODE = "node"


def reach(settings: Settings) -> Finding:
    """Whether SLURM's programs are here and its controller answers."""
    try:
        request.check({**settings, "dry_run": False})
        # Where the controller is away, squeue says so in a line, and the ping in a box of stars.
        client.run("squeue", "--noheader", "--me")
        answer = client.run("scontrol", "ping").strip()
    except (ConfigError, SlurmError) as error:
        return fails("slurm", str(error))
    return ok("slurm", answer.splitlines()[0])


def try_request(settings: Settings, runs_dir: Path) -> Finding:
    """Whether sbatch would take a trial's job; nothing is submitted."""
    executor = sbatch.executor(settings, runs_dir, "onecycle-doctor", str(Path.cwd()))
    try:
        client.run("sbatch", "--test-only", stdin=executor.text(sbatch.node_command(runs_dir / "doctor.json")))
    except SlurmError as error:
        return fails("sbatch", f"{error}: change the keys of hydra.launcher; sinfo lists what the cluster has")
    return ok("sbatch", "the request is accepted; nothing was submitted")


def probe(settings: Settings, runs_dir: Path, uri: str) -> Iterator[Finding]:
    """What a short job of the same request finds on its node; leaving the iteration cancels it."""
    name = f"onecycle-doctor-{uuid.uuid4().hex[:8]}"
    folder = runs_dir / f".{name}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        path = folder / "question.json"
        asked = {"versions": provenance.versions(), "gpus": settings["gpus_per_node"], "tracking_uri": uri}
        write_json(path, asked)
        executor = sbatch.executor({**settings, "timeout_min": TIMEOUT_MIN}, folder, name, str(Path.cwd()))
        since = time.time()
        try:
            array = executor.submit_command(sbatch.node_command(path, "onecycle_sweeps.launching.slurm.probing"))
        except SlurmError as error:
            yield fails(NODE, str(error))
            return
        try:
            conclusion.say(f"         job {array} was submitted to look from a node; Ctrl-C cancels it")
            yield from _heard(folder, name, since)
        finally:
            # A job that has ended is not touched by this.
            with suppress(SlurmError):
                client.cancel([array])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _heard(folder: Path, name: str, since: float) -> Iterator[Finding]:
    """What the job answers, or why it does not."""
    deadline = time.monotonic() + 60 * PATIENCE_MIN
    job = None
    while time.monotonic() < deadline:
        seen = client.query([name], since)
        job = seen.jobs.get((name, 0), job)
        over = (job and job.state in OVER) or (seen.complete and (name, 0) not in seen.jobs)
        if over:
            time.sleep(LAG_SECONDS)
        if answer := read_json(folder / "answer.json"):
            yield from (Finding(**finding) for finding in answer["findings"])
            yield ok("runs_dir there", f"what {answer['host']} wrote into it is seen here")
            return
        if over:
            yield _silent(folder, job)
            return
        time.sleep(LOOK_SECONDS)
    how = f"{job.state.lower()} ({job.reason})" if job else "unknown to squeue"
    yield fails(
        NODE, f"after {PATIENCE_MIN} minutes the job is {how}: it is cancelled, ask for less or try again later"
    )


def _silent(folder: Path, job: Job | None) -> Finding:
    """A job that is over and left no answer."""
    if job is None:
        return fails(NODE, f"the job is gone without a trace: does a node see {folder.parent}?")
    output = jobs.tail(folder / f"{job.id}_0_log.err")
    for line in [line for line in output.splitlines() if line.strip()][-TAIL_LINES:]:
        conclusion.say(f"         {line}")
    cause = jobs.ending(job, TrialFolder(folder), output).cause
    return fails(NODE, f"{cause}: {_advice(output, folder)}" if cause.startswith("it could not be started") else cause)


def _advice(output: str, folder: Path) -> str:
    see = "see the lines of hydra.launcher.setup"
    if not output.strip():
        return f"{see}, and whether the node sees {folder.parent}"
    return f"{see}, and whether {sys.executable} and its packages are on the node"
