"""What a command line asks for, composed without being run: the config, and the jobs of a sweep."""

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.types import RunMode
from omegaconf import DictConfig

from onecycle_sweeps import mistakes, settings
from onecycle_sweeps.arguments import CONF
from onecycle_sweeps.composition import Composer
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.plan import Request

# Options that say where configs lie, and that what is typed is a sweep.
TAKEN = ("config_dir", "config_path", "config_name", "multirun", "overrides")


def options(argv: Sequence[str]) -> Namespace:
    """Hydra's options and the overrides of a command line; raises ConfigError for one that does more than compose."""
    found = get_args_parser().parse_args(mistakes.arguments(argv))
    others = [name for name, value in vars(found).items() if value and name not in TAKEN]
    for name in others:
        raise ConfigError(f"--{name.replace('_', '-')} does not go with a verb: leave it out")
    return found


def composed(typed: Namespace, *, jobs: bool) -> tuple[DictConfig, list[Request]]:
    """The whole config of a command typed in this folder, and if they are wanted the jobs that it has as a sweep.

    Raises ConfigError or what Hydra raises.
    """
    mode = RunMode.MULTIRUN if jobs or typed.multirun else RunMode.RUN
    search_path = create_config_search_path(os.path.abspath(typed.config_path or CONF))
    if typed.config_dir:
        own = f"file://{os.path.abspath(typed.config_dir)}"
        search_path.prepend("command-line", own, SearchPathQuery(provider="schema"))
    hydra = Hydra.create_main_hydra2("onecycle_sweeps", search_path)
    try:
        name, overrides = typed.config_name or "config", typed.overrides
        config = hydra.compose_config(name, overrides, mode, from_shell=False)
        composer, listed = Composer(hydra.config_loader, config), _jobs(hydra, config) if jobs else []
        return config, [composer.compose(job, number) for number, job in enumerate(listed)]
    finally:
        GlobalHydra.instance().clear()


def _jobs(hydra: Hydra, config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a sweep; of a search, which is not known, those at the ends of its space."""
    typed = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    typed += settings.typed(config.hydra, "task")
    parsed = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(typed)
    if config.hydra.sweeper._target_.endswith((".BasicSweeper", ".GridSweeper")):
        (jobs,) = BasicSweeper.split_arguments(parsed, None)
        return jobs
    last = {override.get_key_element(): override for override in parsed}
    ends = {key: list(_ends(override)) for key, override in last.items()}
    return [[f"{key}={values[place]}" for key, values in ends.items()] for place in (0, -1)]


def _ends(override: Override) -> Iterator[str]:
    """The first and the last value of an override."""
    if isinstance(value := override.value(), IntervalSweep):
        yield from (str(value.start), str(value.end))
    elif override.is_sweep_override():
        yield from override.sweep_string_iterator()
    else:
        yield override.get_value_element_as_str()
