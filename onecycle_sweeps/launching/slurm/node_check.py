"""The doctor's checks of a cluster: it answers, it accepts the request, and a short job finds all it needs on a node.

As a program, this module is that job: `python -m ...node_check QUESTION`.
"""

import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from socket import gethostname
from typing import Any

from onecycle_sweeps import provenance, tracking
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.files import read_json, write_json
from onecycle_sweeps.launching import doctor
from onecycle_sweeps.launching.doctor import Finding, fails, ok, skipped
from onecycle_sweeps.launching.slurm import client, jobs, options, sbatch
from onecycle_sweeps.launching.slurm.client import OVER, Job, SlurmError
from onecycle_sweeps.launching.slurm.options import Settings
from onecycle_sweeps.terminal import say
from onecycle_sweeps.trial_folder import TrialFolder

MODULE = "onecycle_sweeps.launching.slurm.node_check"
TIMEOUT_MIN = 2
POLL_SECONDS = 1.0
# How long a node's last writes may take to be visible here.
LAG_SECONDS = 2.0
PATIENCE_MIN = 10
TAIL_LINES = 5
NODE = "node"
HOST = os.environ.get("SLURMD_NODENAME", gethostname())


def check_cluster(
    settings: Settings, writable: Finding, runs_dir: Path, uri: str, *, with_job: bool
) -> Iterator[Finding]:
    """Check SLURM and the request, and with a short job its node; `writable` is what was found of runs_dir."""
    yield (reachable := _reach(settings))
    yield (accepted := _test_request(settings, runs_dir) if reachable.is_ok else skipped("sbatch", "SLURM comes first"))
    if not with_job:
        yield skipped(NODE, "--probe submits one short job that looks from a node")
    elif not writable.is_ok or not accepted.is_ok:
        yield skipped(NODE, "runs_dir and sbatch come first")
    else:
        yield from _check_node(settings, runs_dir, uri)


def _reach(settings: Settings) -> Finding:
    """Whether SLURM's programs are here and its controller answers."""
    try:
        options.check({**settings, "dry_run": False})
        # Without a controller squeue prints one line, and the ping a box of stars.
        client.run("squeue", "--noheader", "--me")
        answer = client.run("scontrol", "ping").strip()
    except (ConfigError, SlurmError) as error:
        return fails("slurm", str(error))
    return ok("slurm", answer.splitlines()[0])


def _test_request(settings: Settings, runs_dir: Path) -> Finding:
    """Whether sbatch would accept a trial's job; nothing is submitted."""
    executor = sbatch.executor(settings, runs_dir, "onecycle-doctor", str(Path.cwd()))
    try:
        client.run("sbatch", "--test-only", stdin=executor.text(sbatch.node_command(runs_dir / "doctor.json")))
    except SlurmError as error:
        return fails("sbatch", f"{error}: change the keys of hydra.launcher; sinfo lists what the cluster has")
    return ok("sbatch", "the request is accepted; nothing was submitted")


def _check_node(settings: Settings, runs_dir: Path, uri: str) -> Iterator[Finding]:
    """What a short job of the same request finds on its node; leaving the iteration cancels it."""
    name = f"onecycle-doctor-{uuid.uuid4().hex[:8]}"
    folder = runs_dir / f".{name}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        path = folder / "question.json"
        question = {"versions": provenance.versions(), "gpus": settings["gpus_per_node"], "tracking_uri": uri}
        write_json(path, question)
        executor = sbatch.executor({**settings, "timeout_min": TIMEOUT_MIN}, folder, name, str(Path.cwd()))
        since = time.time()
        try:
            array = executor.submit_command(sbatch.node_command(path, MODULE))
        except SlurmError as error:
            yield fails(NODE, str(error))
            return
        try:
            say(f"         job {array} was submitted to look from a node; Ctrl-C cancels it")
            yield from _await_answer(folder, name, since)
        finally:
            # This does nothing to a job that has ended.
            with suppress(SlurmError):
                client.cancel([array])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_answer(folder: Path, name: str, since: float) -> Iterator[Finding]:
    """The job's findings, or why it has none."""
    deadline = time.monotonic() + 60 * PATIENCE_MIN
    job = None
    while time.monotonic() < deadline:
        snapshot = client.query([name], since)
        job = snapshot.jobs.get((name, 0), job)
        is_over = (job and job.state in OVER) or (snapshot.complete and (name, 0) not in snapshot.jobs)
        if is_over:
            time.sleep(LAG_SECONDS)
        if answer := read_json(folder / "answer.json"):
            yield from (Finding(**finding) for finding in answer["findings"])
            yield ok("runs_dir there", f"what {answer['host']} wrote into it is visible here")
            return
        if is_over:
            yield _without_answer(folder, job)
            return
        time.sleep(POLL_SECONDS)
    status = f"{job.state.lower()} ({job.reason})" if job else "unknown to squeue"
    yield fails(
        NODE,
        f"after {PATIENCE_MIN} minutes the job is {status}: it is cancelled, ask for less or try again later",
    )


def _without_answer(folder: Path, job: Job | None) -> Finding:
    """The finding where the job is over and left no answer."""
    if job is None:
        return fails(NODE, f"SLURM no longer knows the job: does a node see {folder.parent}?")
    output = jobs.tail(folder / f"{job.id}_0_log.err")
    for line in [line for line in output.splitlines() if line.strip()][-TAIL_LINES:]:
        say(f"         {line}")
    cause = jobs.ending(job, TrialFolder(folder), output).cause
    return fails(NODE, f"{cause}: {_advice(output, folder)}" if cause.startswith("it could not be started") else cause)


def _advice(output: str, folder: Path) -> str:
    """What to look at where the job's Python did not start."""
    see = "see the lines of hydra.launcher.setup"
    if not output.strip():
        return f"{see}, and whether the node sees {folder.parent}"
    return f"{see}, and whether {sys.executable} and its packages are on the node"


def main(path: Path) -> None:
    """On the node: answer the question at `path`, in a file beside it."""
    question = read_json(path)
    if question is None:
        raise FileNotFoundError(f"{path}, the doctor's question, is not visible from {HOST}")
    findings = [asdict(finding) for finding in _findings_on_node(question)]
    write_json(path.with_name("answer.json"), {"host": HOST, "findings": findings})


def _findings_on_node(question: Mapping[str, Any]) -> Iterator[Finding]:
    yield _versions(question["versions"])
    yield _devices(question["gpus"])
    if tracking.is_server(question["tracking_uri"]):
        yield replace(doctor.tracker(question["tracking_uri"]), about="tracking there")
    else:
        yield skipped("tracking there", "jobs write journals only, and this machine fills MLflow from them")


def _versions(submitting: Mapping[str, str]) -> Finding:
    """Whether this Python has the packages of the submitting one."""
    here = provenance.versions()
    try:
        import torch
    except ImportError as error:
        return fails(NODE, f"{HOST} cannot import torch: {error}")
    if differing := [name for name in submitting if submitting[name] != here.get(name)]:
        found = ", ".join(f"{name} {here.get(name)} instead of {submitting[name]}" for name in differing)
        return fails(NODE, f"{HOST} has {found}: let it use the environment that submits")
    return ok(NODE, f"{HOST} runs {sys.executable} with torch {torch.__version__} and the packages of this machine")


def _devices(gpus: int | str | None) -> Finding:
    """Whether torch finds the GPUs that were requested."""
    import torch

    if not gpus:
        return skipped("cuda", "hydra.launcher.gpus_per_node asks for none")
    if count := torch.cuda.device_count():
        return ok("cuda", f"torch finds {count}, the first is {torch.cuda.get_device_name(0)}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return fails("cuda", f"torch {torch.__version__}, {build}, finds no device (CUDA_VISIBLE_DEVICES is {visible})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
