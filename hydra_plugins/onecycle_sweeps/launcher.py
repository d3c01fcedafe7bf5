"""The classes that Hydra's launcher protocol wants; every Hydra program imports them, so they import Hydra alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class Launcher(HydraLauncher):
    """Composes the jobs of a sweep and hands them over; its parameters are the keys of hydra.launcher.

    `run` names who takes them.
    """

    run = "sweep"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra offers before the first launch, and refuse what cannot be done around the jobs."""
        from onecycle_sweeps.composing import Composer
        from onecycle_sweeps.launching import commands

        commands.check_sweep(config.hydra)
        # A sweeper writes the config to disk, and the jobs inherit what is to be copied from this process.
        with open_dict(config.hydra.job.env_set):
            for name in config.hydra.job.env_copy:
                config.hydra.job.env_set.pop(name, None)
        self.composer, self.config = Composer(hydra_context.config_loader, config), config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a trial that failed is listed by the sweep, and no failure of the launch."""
        from onecycle_sweeps.config.schema import ConfigError
        from onecycle_sweeps.launching import commands

        if not job_overrides:
            raise ConfigError("the overrides name no value to try: glob() finds choices of groups alone")
        requests = [self.composer.compose(typed, initial_job_idx + i) for i, typed in enumerate(job_overrides)]
        sweeper = self.config.hydra.sweeper
        # Only a sweeper that asks for all its jobs at once has a sweep that is known from its start.
        whole = sweeper._target_.endswith((".BasicSweeper", ".GridSweeper")) and sweeper.max_batch_size is None
        run, launcher = getattr(commands, self.run), plain_settings(self.settings)
        objectives = run(requests, self.config.hydra, launcher, sequential=not whole)
        return [
            JobReturn(request.overrides, working_dir=".", status=JobStatus.COMPLETED, _return_value=objective)
            for request, objective in zip(requests, objectives, strict=True)
        ]


class SlurmLauncher(Launcher):
    """Hands the jobs of a sweep to a SLURM cluster."""

    run = "submit"


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of hydra.launcher as plain values."""
    return {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()}
