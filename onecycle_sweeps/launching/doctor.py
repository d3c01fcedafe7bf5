"""What would fail later: each thing that a sweep needs is tried beforehand, as far as that costs nothing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onecycle_sweeps import images
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.launching import conclusion, places, preflight
from onecycle_sweeps.launching.commands import is_slurm
from onecycle_sweeps.launching.finding import FAILS, Finding, fails, ok, skipped
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.planning import Planner, Request

SLURM = ("slurm", "sbatch")
NO_CLUSTER = "hydra/launcher=slurm was not asked for"
PROBE = "--probe submits one short job that looks from a node"


def examine(requests: Sequence[Request], launcher: Mapping[str, Any], *, probing: bool) -> int:
    """Print what each check came to; returns 1 if one fails. `probing` lets a job look from a node as well."""
    failed = False
    for finding in _findings(requests, launcher, probing):
        conclusion.say(str(finding))
        failed = failed or finding.word == FAILS
    return conclusion.FAILURE if failed else 0


def _findings(requests: Sequence[Request], launcher: Mapping[str, Any], probing: bool) -> Iterator[Finding]:
    on_slurm = is_slurm(launcher)
    yield (readable := _config(requests, launcher, on_slurm))
    if not readable.good:
        yield from (skipped(about, "the config comes first") for about in ("runs_dir", "trial", "tracking", *SLURM))
        return
    request = requests[0]
    folder = Path(request.config["runs_dir"])
    uri = request.config["tracking"]["uri"]
    yield (writable := places.runs_dir(folder, on_nodes=on_slurm))
    cpus = launcher["cpus_per_task"] if on_slurm else None
    yield _trials(requests, folder, cpus) if writable.good else skipped("trial", "its data is kept in runs_dir")
    yield places.tracker(uri, on_nodes=on_slurm)
    if not on_slurm:
        yield from (skipped(about, NO_CLUSTER) for about in SLURM)
        return
    from onecycle_sweeps.launching.slurm import probe

    yield (reachable := probe.reach(launcher))
    yield (
        accepted := probe.try_request(launcher, folder) if reachable.good else skipped("sbatch", "SLURM comes first")
    )
    if not probing:
        yield skipped("node", PROBE)
    elif not writable.good or not accepted.good:
        yield skipped("node", "runs_dir and sbatch come first")
    else:
        yield from probe.probe(launcher, folder, uri)


def _config(requests: Sequence[Request], launcher: Mapping[str, Any], on_slurm: bool) -> Finding:
    from onecycle_sweeps.launching.slurm import request as asked

    try:
        for request in requests:
            schema.check(request.config)
        if on_slurm:
            asked.check({**launcher, "dry_run": True})
        else:
            schema.check_launcher(launcher, schema.LOCAL_LAUNCHER)
    except ConfigError as error:
        return fails("config", str(error))
    return ok("config", "every value can be used")


def _trials(requests: Sequence[Request], runs_dir: Path, cpus_elsewhere: int | None) -> Finding:
    """Whether the trials can be planned, for which their data has to be there, and could take a step."""
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
