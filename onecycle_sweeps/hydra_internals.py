"""Hydra's private interfaces: only this module and the sweeper plugin import them.

They are tested with Hydra 1.3.8, and used with every 1.3. With another version the program does without most of them:
Hydra's loader composes each job, which is slower, and Hydra prints its own error messages.
"""

import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

import hydra
import omegaconf.base
from hydra._internal import hydra as hydra_program
from hydra._internal import utils
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.defaults_list import DefaultsList
from hydra.core import utils as core_utils
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

__all__ = ["ConfigLoaderImpl", "DefaultsList"]

VERSION_BASE = "1.3"
IS_TESTED = hydra.__version__.startswith("1.3.")
# A parse tree depends on the text alone, and resolving only reads it.
_of_omegaconf = omegaconf.base.__dict__
_parsed = lru_cache(maxsize=4096)(_of_omegaconf["parse"])


def option_parser() -> ArgumentParser:
    """The parser of Hydra's options and of overrides."""
    return utils.get_args_parser()


@contextmanager
def composition(
    config_path: str, config_dir: str | None, name: str, overrides: list[str], mode: RunMode
) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """The loader of a command's config, and the whole config as `hydra.main` composes it, without running the command.

    In this context the loader can compose jobs.
    """
    search_path = utils.create_config_search_path(os.path.abspath(config_path))
    if config_dir:
        own = f"file://{os.path.abspath(config_dir)}"
        search_path.prepend("command-line", own, SearchPathQuery(provider="schema"))
    program = hydra_program.Hydra.create_main_hydra2("onecycle_sweeps", search_path)
    try:
        yield program.config_loader, program.compose_config(name, overrides, mode, from_shell=False)
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def interpolations_parsed_once() -> Iterator[None]:
    """In this context OmegaConf parses a text with interpolations only once, which takes most of the time otherwise."""
    before = _of_omegaconf["parse"]
    _of_omegaconf["parse"] = _parsed if IS_TESTED else before
    try:
        yield
    finally:
        _of_omegaconf["parse"] = before


def apply_values(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Apply overrides, none of which is a choice in a group, to a composed config."""
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def record_overrides(config: DictConfig, overrides: Sequence[Override], master: DictConfig) -> None:
    """Write a job's overrides into Hydra's own node, and copy resolved values from the sweep's config."""
    OmegaConf.copy_cache(from_config=master, to_config=config)
    named = config.hydra.job.config.override_dirname
    config.hydra.overrides.task = [override.input_line for override in overrides]
    config.hydra.job.override_dirname = get_overrides_dirname(
        list(overrides), kv_sep=named.kv_sep, item_sep=named.item_sep, exclude_keys=named.exclude_keys
    )


def job_context(config: DictConfig) -> HydraContext:
    """The argument of Hydra's `run_job` with a job's callbacks; its loader is not used."""
    return HydraContext(ConfigLoaderImpl(ConfigSearchPathImpl()), Callbacks(config))


@contextmanager
def replaced(
    loader: Callable[[ConfigSearchPath], ConfigLoader], environment: Callable[[Any], AbstractContextManager[None]]
) -> Iterator[None]:
    """A context in which Hydra loads configs by `loader`, sets variables by `environment`, and raises its exceptions.

    Outside of it, Hydra prints its errors in several lines and exits with status 1.
    """
    if not IS_TESTED:
        yield
        return
    names, report, override = hydra_program.__dict__, utils.run_and_report, core_utils.env_override
    names["ConfigLoaderImpl"] = loader
    utils.run_and_report = lambda function: function()
    core_utils.env_override = environment
    try:
        yield
    finally:
        names["ConfigLoaderImpl"], utils.run_and_report = ConfigLoaderImpl, report
        core_utils.env_override = override
