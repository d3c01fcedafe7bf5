"""The launcher that Hydra calls. Every Hydra program imports this module, so it imports nothing but Hydra."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class Launcher(HydraLauncher):
    """Composes the jobs of a sweep and runs them; its parameters are the keys of hydra/launcher=local or =slurm."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the launches need; exits if an override of Hydra's config cannot be used."""
        from onecycle_sweeps.composing import Composer
        from onecycle_sweeps.launching import commands

        commands.check_sweep(config.hydra)
        # A sweeper writes the config to disk, which may not hold secrets; jobs inherit these variables anyway.
        with open_dict(config.hydra.job.env_set):
            for name in config.hydra.job.env_copy:
                config.hydra.job.env_set.pop(name, None)
        self.composer, self.config = Composer(hydra_context.config_loader, config), config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs. A trial that failed does not fail the launch; the sweep lists it."""
        from onecycle_sweeps import hydra_job
        from onecycle_sweeps.config.schema import ConfigError
        from onecycle_sweeps.launching import commands

        if not job_overrides:
            raise ConfigError("the overrides give no value to try: glob() matches only the choices of a config group")
        requests = [self.composer.compose(typed, initial_job_idx + i) for i, typed in enumerate(job_overrides)]
        sweeper = self.config.hydra.sweeper
        # Only the trials of a sweeper that requests all its jobs at once are known from the start.
        whole = hydra_job.is_grid(sweeper) and sweeper.max_batch_size is None
        values = commands.sweep(requests, self.config.hydra, plain_settings(self.settings), sequential=not whole)
        return [
            hydra_job.returned(request.overrides, value, sweeper)
            for request, value in zip(requests, values, strict=True)
        ]


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of hydra.launcher as plain values."""
    return {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()}
