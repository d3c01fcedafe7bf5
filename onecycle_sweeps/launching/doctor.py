"""The verb doctor: each thing that a sweep needs is checked before anything is submitted, and told in one line."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlsplit

from onecycle_sweeps import files, images, tracking
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.credentials import address
from onecycle_sweeps.launching import preflight
from onecycle_sweeps.launching.commands import is_slurm
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.slurm import options
from onecycle_sweeps.planning import Planner, Request
from onecycle_sweeps.terminal import FAILURE, say

OK, FAILS, SKIPPED = "ok", "FAILS", "skipped"
OF_A_CLUSTER = ("slurm", "sbatch")
# File systems that several machines mount; one in user space has a name such as fuse.ceph.
SHARED = (
    *("nfs", "lustre", "gpfs", "beegfs", "ceph", "gluster", "cifs", "smb", "afs", "weka", "panfs", "orangefs"),
    "pvfs",
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


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


def ok(about: str, line: str) -> Finding:
    """A check that passed."""
    return Finding(OK, about, line)


def fails(about: str, line: str) -> Finding:
    """A check that failed."""
    return Finding(FAILS, about, line)


def skipped(about: str, line: str) -> Finding:
    """A check that was not made."""
    return Finding(SKIPPED, about, line)


# Checks a cluster, given the keys of hydra.launcher, what was found of runs_dir, its path, and the tracker's URI.
ClusterChecks = Callable[[Mapping[str, Any], Finding, Path, str], Iterator[Finding]]


def examine(requests: Sequence[Request], launcher: Mapping[str, Any], cluster_checks: ClusterChecks) -> int:
    """Print the outcome of each check as soon as it is known; returns 1 if one fails."""
    failed = False
    for finding in _findings(requests, launcher, cluster_checks):
        say(str(finding))
        failed = failed or finding.word == FAILS
    return FAILURE if failed else 0


def _findings(
    requests: Sequence[Request], launcher: Mapping[str, Any], cluster_checks: ClusterChecks
) -> Iterator[Finding]:
    on_slurm = is_slurm(launcher)
    yield (valid := _config(requests, launcher))
    if not valid.is_ok:
        yield from (
            skipped(about, "the config comes first") for about in ("runs_dir", "trial", "tracking", *OF_A_CLUSTER)
        )
        return
    config = requests[0].config
    folder, uri = Path(config["runs_dir"]), config["tracking"]["uri"]
    yield (writable := runs_dir(folder, on_nodes=on_slurm))
    cpus = launcher["cpus_per_task"] if on_slurm else None
    yield _trials(requests, folder, cpus) if writable.is_ok else skipped("trial", "its data is kept in runs_dir")
    yield tracker(uri, on_nodes=on_slurm)
    if on_slurm:
        yield from cluster_checks(launcher, writable, folder, uri)
    else:
        yield from (skipped(about, "hydra/launcher=slurm was not asked for") for about in OF_A_CLUSTER)


def _config(requests: Sequence[Request], launcher: Mapping[str, Any]) -> Finding:
    try:
        for request in requests:
            schema.check(request.config)
        if is_slurm(launcher):
            # Whether SLURM's programs are here is a check of its own.
            options.check({**launcher, "dry_run": True})
        else:
            schema.check_launcher(launcher, schema.LOCAL_LAUNCHER)
    except ConfigError as error:
        return fails("config", str(error))
    return ok("config", "every value can be used")


def runs_dir(folder: Path, *, on_nodes: bool) -> Finding:
    """Whether this machine can write trials to a folder, and whether other machines are likely to see it."""
    about = "runs_dir"
    try:
        existing = _try_writing(folder)
    except files.NoLocks as error:
        return fails(about, str(error))
    except OSError as error:
        return fails(about, f"{folder} cannot be written to ({error.strerror}): choose another with runs_dir=...")
    line = f"{folder} can be written to, with {shutil.disk_usage(existing).free / 1e9:.0f} GB free"
    if not on_nodes:
        return ok(about, line)
    kind = files.file_system(existing)
    if kind.removeprefix("fuse.").startswith(SHARED):
        return ok(about, f"{line}, on {kind}, which machines share")
    return ok(about, f"{line}; warning: {kind} looks local to this machine, the nodes must see it too (try --probe)")


def _trials(requests: Sequence[Request], runs_dir: Path, cpus_elsewhere: int | None) -> Finding:
    """Whether the trials can be planned, which needs their data, and could take a step."""
    planner, found = Planner(runs_dir, cpus_elsewhere=cpus_elsewhere), {}
    try:
        trials = [planner.plan(request) for request in requests]
        Preflight(preflight.in_a_fresh_process, elsewhere=cpus_elsewhere is not None).check(trials, runs_dir)
    except (ConfigError, OSError) as error:
        return fails("trial", str(error))
    for config in (trial.config for trial in trials):
        cache = runs_dir / "data" / config["needs"]["data"]
        with nodes.environment(config):
            found[cache] = images.prepare(nodes.loader(config), cache, **schema.split(config))
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
        try:
            _try_writing(file.parent)
        except files.NoLocks as error:
            return fails(about, str(error))
        except OSError as error:
            return fails(
                about, f"{file.parent} cannot be written to ({error.strerror}): choose another with tracking.uri=..."
            )
        return ok(about, f"{address(uri)} can be written to from this machine, which is the one that fills it")
    try:
        tracking.ping(uri)
    except tracking.StoreUnreachable as error:
        return fails(about, f"{error}: {_advice(str(error), uri)}")
    if on_nodes and urlsplit(uri).hostname in LOOPBACK:
        return ok(about, f"{address(uri)} answers here; warning: on a node it means the node itself (try --probe)")
    return ok(about, f"{address(uri)} answers")


def _try_writing(folder: Path) -> Path:
    """Write to a folder, or to its nearest parent that exists; returns where. Raises OSError."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    with TemporaryFile(dir=existing) as file:
        file.write(b"onecycle")
        file.flush()
        os.fsync(file.fileno())
    files.check_locks(existing)
    return existing


def _advice(error: str, uri: str) -> str:
    """What to do about a tracking server that does not answer as it should."""
    if "error code 403" in error:
        name = urlsplit(uri).netloc.rpartition("@")[2]
        return (
            "its host check, or a proxy, refuses the request. Start the server with "
            f"MLFLOW_SERVER_ALLOWED_HOSTS={name},localhost:* and every other name that clients use for it"
        )
    if "error code 401" in error:
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials (docker/README.md)"
    return "start it, or name another by tracking.uri=..."
