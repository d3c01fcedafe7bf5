"""What Hydra does around a job, wherever the job runs: its environment, output folder, logging and callbacks."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra import version
from hydra.conf import HydraConf
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from onecycle_sweeps import hydra_internals
from onecycle_sweeps.config import nodes, paths

# The part of Hydra's config that makes a job do more than run its trial, with this program's defaults.
DEFAULTS = {
    "callbacks": {"folders": {"_target_": "onecycle_sweeps.composing.HydrasFolders"}},
    "output_subdir": None,
    "verbose": False,
    "sweep": {"dir": "${runs_dir}/sweeps", "subdir": "."},
    "job_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
}
# Long texts that no job reads.
HELP = ("help", "hydra_help")


class NoValue(Exception):
    """A trial gave no value to the sweeper that learns from it, which may end with this error."""


def asks_for_more(config: DictConfig) -> bool:
    """Whether a job's config makes Hydra do more than run the trial."""
    found = OmegaConf.to_container(OmegaConf.masked_copy(config.hydra, list(DEFAULTS)))
    job = config.hydra.job
    return found != DEFAULTS or not set(job.env_set) <= set(job.env_copy)


def content(config: DictConfig) -> dict[str, Any]:
    """Hydra's own config of a job as plain data, resolved as far as possible before the job begins."""
    found: dict[str, Any] = {}
    for key in config.hydra:
        if key not in HELP:
            part = OmegaConf.masked_copy(config.hydra, [str(key)])
            part._set_parent(config)
            found |= _resolved(part, typed=key == "overrides")
    found["sweep"]["dir"] = paths.expanded(found["sweep"]["dir"])
    copied = found["job"]["env_copy"]
    found["job"]["env_set"] = {k: v for k, v in found["job"]["env_set"].items() if k not in copied}
    return found


def _resolved(part: DictConfig, *, typed: bool) -> dict[str, Any]:
    """A part of Hydra's config as plain data, unresolved if it was typed or only the job's process can resolve it."""
    try:
        found = OmegaConf.to_container(part, resolve=not typed, enum_to_str=True)
    except OmegaConfBaseException:
        found = OmegaConf.to_container(part, enum_to_str=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def run(hydra: Mapping[str, Any], config: Mapping[str, Any], job_id: str | None, task: Callable[[], float]) -> None:
    """Do what Hydra's own launchers do around a job, whose `task` returns the value for the sweeper.

    An exception of the task is passed to the callbacks only; any other exception is raised here.
    """
    # This program's own callback has acted before the jobs. A record may name it in another module.
    callbacks = hydra["callbacks"].items()
    own = {name for name, node in callbacks if str(node.get("_target_", "")).endswith(".HydrasFolders")}
    hydra = {**hydra, "callbacks": {name: node for name, node in callbacks if name not in own}}
    version.setbase(hydra_internals.VERSION_BASE)
    setup_globals()
    node = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(node, False)
    whole = OmegaConf.create({**config, "hydra": OmegaConf.merge(node, hydra)})
    if job_id:
        whole.hydra.job.id = job_id
    JobRuntime.instance().set("name", whole.hydra.job.name)
    # The modules of callbacks are user code as well.
    with nodes.environment(config):
        run_job(lambda _: task(), whole, "hydra.sweep.dir", "hydra.sweep.subdir", hydra_internals.job_context(whole))


def returned(overrides: Sequence[str], value: float, sweeper: DictConfig) -> JobReturn:
    """What a launch returns to its sweeper for a job.

    A job without a value has failed: Optuna ends with a traceback if it is told NaN, and Nevergrad takes it for a loss.
    A grid reads no values, and goes on.
    """
    if is_grid(sweeper) or not math.isnan(value):
        return JobReturn(overrides, working_dir=".", status=JobStatus.COMPLETED, _return_value=value)
    ends = sweeper.get("max_failure_rate", 1) < 1
    remedy = "; to go on in spite of failures, add hydra.sweeper.max_failure_rate=1" if ends else ""
    error = NoValue(f"the sweeper got no value of the trial {' '.join(overrides)}{remedy}")
    return JobReturn(overrides, working_dir=".", status=JobStatus.FAILED, _return_value=error)


def is_grid(sweeper: DictConfig) -> bool:
    """Whether a sweeper runs every combination, and so learns nothing from the jobs' values."""
    return sweeper._target_.endswith((".BasicSweeper", ".GridSweeper"))
