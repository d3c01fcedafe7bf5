"""The verb doctor: checks each thing that a sweep needs before anything is submitted, with one line for each.

As a program, `python -m onecycle_sweeps.launching.doctor QUESTION` is the short job by which `--probe` checks a node.
"""

import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from socket import gethostname
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlsplit

from onecycle_sweeps import datasets, files, provenance, tracking
from onecycle_sweeps.config import function_node, nodes, schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.credentials import address
from onecycle_sweeps.launching import preflight
from onecycle_sweeps.launching.commands import check_launcher, is_slurm
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.slurm import client, jobs, options, sbatch
from onecycle_sweeps.launching.slurm.client import OVER, Job, SlurmError
from onecycle_sweeps.launching.slurm.options import Settings
from onecycle_sweeps.planning import Planner, Request
from onecycle_sweeps.terminal import FAILURE, say
from onecycle_sweeps.trial_folder import TrialFolder

OK, FAILS, SKIPPED = "ok", "FAILS", "skipped"
# File systems that several machines mount; those in user space have names such as fuse.ceph.
SHARED = (
    *("nfs", "lustre", "gpfs", "beegfs", "ceph", "gluster", "cifs", "smb", "afs", "weka", "panfs", "orangefs"),
    "pvfs",
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MODULE = "onecycle_sweeps.launching.doctor"
# The time limit of the job on the node, and how long to wait for it.
TIMEOUT_MIN, PATIENCE_MIN = 2, 10
POLL_SECONDS = 1.0
# How long it may take until what a node has written is visible here.
LAG_SECONDS = 2.0
TAIL_LINES = 5
HOST = os.environ.get("SLURMD_NODENAME", gethostname())


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: OK, FAILS or SKIPPED, what was checked, and a line that says what to do if it fails."""

    word: str
    about: str
    line: str

    @property
    def is_ok(self) -> bool:
        return self.word == OK

    def __str__(self) -> str:
        return f"{self.word:<8} {self.about}: {self.line}"


ok, fails, skipped = (partial(Finding, word) for word in (OK, FAILS, SKIPPED))


def examine(requests: Sequence[Request], launcher: Mapping[str, Any], *, with_job: bool) -> int:
    """Check what the jobs need and print each finding; returns the exit status.

    `with_job` submits a short job that checks a node of the cluster as well.
    """
    failed = False
    for finding in _findings(requests, launcher, with_job):
        say(str(finding))
        failed = failed or finding.word == FAILS
    return FAILURE if failed else 0


def _findings(requests: Sequence[Request], launcher: Mapping[str, Any], with_job: bool) -> Iterator[Finding]:
    on_slurm = is_slurm(launcher)
    yield (valid := _config(requests, launcher))
    if not valid.is_ok:
        for about in ("runs_dir", "trial", "tracking", "slurm", "sbatch"):
            yield skipped(about, "needs a config without mistakes")
        return
    config = requests[0].config
    folder, uri = Path(config["runs_dir"]), config["tracking"]["uri"]
    yield (writable := runs_dir(folder, on_nodes=on_slurm))
    cpus = launcher["cpus_per_task"] if on_slurm else None
    yield _trials(requests, folder, cpus) if writable.is_ok else skipped("trial", "its data is kept in runs_dir")
    yield tracker(uri, on_nodes=on_slurm)
    if not on_slurm:
        for about in ("slurm", "sbatch"):
            yield skipped(about, "needs hydra/launcher=slurm")
        return
    yield (reachable := _slurm(launcher))
    yield (
        accepted := _sbatch(launcher, folder) if reachable.is_ok else skipped("sbatch", "needs a SLURM that answers")
    )
    if not with_job:
        yield skipped("node", "--probe submits a short job that checks a node")
    elif not writable.is_ok or not accepted.is_ok:
        yield skipped("node", "needs runs_dir and sbatch")
    else:
        yield from _node(launcher, folder, uri)


def _config(requests: Sequence[Request], launcher: Mapping[str, Any]) -> Finding:
    try:
        for request in requests:
            schema.check(request.config)
        # Another check says whether SLURM's programs are here.
        check_launcher({**launcher, "dry_run": True} if is_slurm(launcher) else launcher)
    except ConfigError as error:
        return fails("config", str(error))
    return ok("config", "every value can be used")


def runs_dir(folder: Path, *, on_nodes: bool) -> Finding:
    """Whether this machine can write trials to a folder, and whether other machines are likely to see it."""
    about = "runs_dir"
    existing = _nearest_that_exists(folder)
    if reason := _not_writable(folder, about):
        return fails(about, reason)
    line = f"{folder} can be written to, with {shutil.disk_usage(existing).free / 1e9:.0f} GB free"
    if not on_nodes:
        return ok(about, line)
    kind = files.file_system(existing)
    if kind.removeprefix("fuse.").startswith(SHARED):
        return ok(about, f"{line}, on {kind}, which machines share")
    return ok(about, f"{line}; warning: {kind} looks local to this machine, the nodes must see it too (try --probe)")


def _trials(requests: Sequence[Request], folder: Path, cpus_elsewhere: int | None) -> Finding:
    """Whether the trials can be planned, which needs their data, and could take a step."""
    planner, found = Planner(folder, cpus_elsewhere=cpus_elsewhere), {}
    try:
        trials = [planner.plan(request) for request in requests]
        Preflight(preflight.in_a_fresh_process, elsewhere=cpus_elsewhere is not None).check(trials, folder)
    except (ConfigError, OSError) as error:
        return fails("trial", str(error))
    for config in (trial.config for trial in trials):
        if schema.LOOP in config:
            return ok("trial", f"{function_node.name(config)} can be called; whether it can take a step is not tried")
        cache = folder / "data" / config["needs"]["data"]
        with nodes.environment(config):
            found[cache] = datasets.prepare(nodes.loader(config), cache, **schema.split(config))
    facts = dict.fromkeys(f"{one.train} training and {one.val} validation samples" for one in found.values())
    return ok("trial", f"it has {', or '.join(facts)}, and can take a step")


def tracker(uri: str, *, on_nodes: bool = False) -> Finding:
    """Whether this machine can use a store; a server gets a request that its host check would refuse."""
    about = "tracking"
    try:
        tracking.check_uri(uri)
    except ValueError as error:
        return fails(about, str(error))
    if file := tracking.database_file(uri):
        if reason := _not_writable(file.parent, "tracking.uri"):
            return fails(about, reason)
        return ok(about, f"{address(uri)} can be written to from this machine, which is the one that fills it")
    try:
        tracking.ping(uri)
    except tracking.StoreUnreachable as error:
        return fails(about, f"{error}: {_advice_on_server(str(error), uri)}")
    if on_nodes and urlsplit(uri).hostname in LOOPBACK:
        return ok(about, f"{address(uri)} answers here; warning: on a node it means the node itself (try --probe)")
    return ok(about, f"{address(uri)} answers")


def _nearest_that_exists(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _not_writable(folder: Path, key: str) -> str | None:
    """Why a folder, which need not exist yet, cannot be written to or locked; None if it can."""
    existing = _nearest_that_exists(folder)
    try:
        with TemporaryFile(dir=existing) as file:
            file.write(b"onecycle")
            file.flush()
            os.fsync(file.fileno())
        files.check_locks(existing)
    except files.NoLocks as error:
        return str(error)
    except OSError as error:
        return f"{folder} cannot be written to ({error.strerror}): choose another with {key}=..."
    return None


def _advice_on_server(error: str, uri: str) -> str:
    """What to do about a tracking server that does not answer as it should."""
    if "error code 403" in error:
        name = urlsplit(uri).netloc.rpartition("@")[2]
        return (
            "its host check, or a proxy, refuses the request. Start the server with "
            f"MLFLOW_SERVER_ALLOWED_HOSTS={name},localhost:* and every other name that clients use for it"
        )
    if "error code 401" in error:
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials (docker/README.md)"
    return "start it, or use another with tracking.uri=..."


def _slurm(settings: Settings) -> Finding:
    """Whether SLURM's programs are here and its controller answers."""
    try:
        options.check({**settings, "dry_run": False})
        # Without a controller, squeue fails with one line and the ping with a box of stars.
        client.run("squeue", "--noheader", "--me")
        answer = client.run("scontrol", "ping").strip()
    except (ConfigError, SlurmError) as error:
        return fails("slurm", str(error))
    return ok("slurm", answer.splitlines()[0])


def _sbatch(settings: Settings, folder: Path) -> Finding:
    """Whether sbatch would accept a trial's job; nothing is submitted."""
    executor = sbatch.executor(settings, folder, "onecycle-doctor", str(Path.cwd()))
    try:
        client.run("sbatch", "--test-only", stdin=executor.text(sbatch.node_command(folder / "doctor.json")))
    except SlurmError as error:
        return fails("sbatch", f"{error}: change the keys of hydra.launcher; sinfo lists what the cluster has")
    return ok("sbatch", "the request is accepted; nothing was submitted")


def _node(settings: Settings, parent: Path, uri: str) -> Iterator[Finding]:
    """The findings of a short job with the same request on its node; closing the iterator cancels the job."""
    name = f"onecycle-doctor-{uuid.uuid4().hex[:8]}"
    folder = parent / f".{name}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        path = folder / "question.json"
        question = {"versions": provenance.versions(), "gpus": settings["gpus_per_node"], "tracking_uri": uri}
        files.write_json(path, question)
        executor = sbatch.executor({**settings, "timeout_min": TIMEOUT_MIN}, folder, name, str(Path.cwd()))
        since = time.time()
        try:
            array = executor.submit_command(sbatch.node_command(path, MODULE))
        except SlurmError as error:
            yield fails("node", str(error))
            return
        try:
            say(f"         job {array} was submitted to check a node; Ctrl-C cancels it")
            yield from _await_answer(folder, name, since)
        finally:
            # It does nothing to a job that has ended.
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
        if answer := files.read_json(folder / "answer.json"):
            yield from (Finding(**finding) for finding in answer["findings"])
            yield ok("runs_dir there", f"what {answer['host']} wrote into it is visible here")
            return
        if is_over:
            yield _without_answer(folder, job)
            return
        time.sleep(POLL_SECONDS)
    status = f"{job.state.lower()} ({job.reason})" if job else "unknown to squeue"
    yield fails(
        "node",
        f"after {PATIENCE_MIN} minutes the job is {status}: it is cancelled, ask for less or try again later",
    )


def _without_answer(folder: Path, job: Job | None) -> Finding:
    """The finding if the job has ended without an answer."""
    if job is None:
        return fails("node", f"SLURM no longer knows the job: does a node see {folder.parent}?")
    output = jobs.tail(folder / f"{job.id}_0_log.err")
    lines = [line for line in output.splitlines() if line.strip()]
    for line in lines[-TAIL_LINES:]:
        say(f"         {line}")
    cause = jobs.ending(job, TrialFolder(folder), output).cause
    if cause.startswith("it could not be started"):
        other = f"{sys.executable} and its packages are on the node" if lines else f"the node sees {folder.parent}"
        cause += f": see the lines of hydra.launcher.setup, and whether {other}"
    return fails("node", cause)


def main(path: Path) -> None:
    """On the node: answer the question at `path`, in a file beside it."""
    question = files.read_json(path)
    if question is None:
        raise FileNotFoundError(f"{path}, which the doctor has just written, is not visible from {HOST}")
    findings = [asdict(finding) for finding in _findings_on_node(question)]
    files.write_json(path.with_name("answer.json"), {"host": HOST, "findings": findings})


def _findings_on_node(question: Mapping[str, Any]) -> Iterator[Finding]:
    yield _versions(question["versions"])
    yield _devices(question["gpus"])
    if tracking.is_server(question["tracking_uri"]):
        yield replace(tracker(question["tracking_uri"]), about="tracking there")
    else:
        yield skipped("tracking there", "jobs only write journals, from which this machine fills MLflow")


def _versions(submitting: Mapping[str, str]) -> Finding:
    """Whether this Python has the packages of the submitting one."""
    here = provenance.versions()
    try:
        import torch
    except ImportError as error:
        return fails("node", f"{HOST} cannot import torch: {error}")
    if differing := [name for name in submitting if submitting[name] != here.get(name)]:
        found = ", ".join(f"{name} {here.get(name)} instead of {submitting[name]}" for name in differing)
        return fails("node", f"{HOST} has {found}: let it use the environment that submits")
    return ok("node", f"{HOST} runs {sys.executable} with torch {torch.__version__} and the packages of this machine")


def _devices(gpus: int | str | None) -> Finding:
    """Whether torch finds the GPUs that were requested."""
    import torch

    if not gpus:
        return skipped("cuda", "hydra.launcher.gpus_per_node requests none")
    if count := torch.cuda.device_count():
        return ok("cuda", f"torch finds {count}, the first is {torch.cuda.get_device_name(0)}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return fails("cuda", f"torch {torch.__version__}, {build}, finds no device (CUDA_VISIBLE_DEVICES is {visible})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
