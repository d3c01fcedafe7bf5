"""The classes that Hydra's launcher protocol wants; every Hydra program imports them, so they import Hydra alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class Launcher(HydraLauncher):
    """Composes the jobs of a sweep and hands them over; its parameters are the keys of hydra.launcher.

    `run` names who takes them.
    """

    run = "sweep"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra offers before the first launch."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a trial that failed is listed by the sweep, and no failure of the launch."""
        from onecycle_sweeps.launch import commands
        from onecycle_sweeps.plan import Request
        from onecycle_sweeps.settings import plain

        jobs = [(tuple(o), self.loader.load_sweep_config(self.config, list(o))) for o in job_overrides]
        requests = [Request(plain(c), overrides, dict(c.hydra.runtime.choices)) for overrides, c in jobs]
        sweeper = self.config.hydra.sweeper
        # Only a sweeper that asks for all its jobs at once has a sweep that is known from its start.
        whole = sweeper._target_.endswith(".BasicSweeper") and sweeper.max_batch_size is None
        objectives = getattr(commands, self.run)(requests, plain_settings(self.settings), sequential=not whole)
        returns = []
        for (overrides, config), objective in zip(jobs, objectives, strict=True):
            done = JobReturn(overrides, config, config.hydra, ".", config.hydra.job.name, JobStatus.COMPLETED)
            done.return_value = objective
            returns.append(done)
        return returns


class SlurmLauncher(Launcher):
    """Hands the jobs of a sweep to a SLURM cluster."""

    run = "submit"


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of hydra.launcher as plain values."""
    return {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()}
