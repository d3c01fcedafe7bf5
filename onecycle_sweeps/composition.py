"""A sweep's jobs composed as Hydra composes them, but once for each set of choices in config groups."""

import pickle
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from onecycle_sweeps import hydra_job, settings
from onecycle_sweeps.config import paths
from onecycle_sweeps.plan import Request

# What an interpolation of Hydra's own config begins with.
OF_HYDRA = "${hydra:"


class HydrasFolders(Callback):
    """Expands `~` in the paths of the folders that Hydra makes by itself, before it makes them."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Locate the folder of one trial."""
        _locate(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Locate the folder of a sweep."""
        _locate(config, "sweep")


def _locate(config: DictConfig, mode: str) -> None:
    node = config.hydra[mode]
    try:
        found = paths.expanded(node.dir)
    except ValueError as error:
        # An exception of a callback is a warning to Hydra, which then makes the folder.
        print(f"onecycle_sweeps: hydra.{mode}.dir: {error}", file=sys.stderr)
        sys.exit(2)
    # What is the same stays an interpolation, which tells who reads a key.
    if found != node.dir:
        with read_write(node):
            node.dir = found


@dataclass(frozen=True)
class _Chosen:
    """What jobs of the same choices in groups begin with; `whole` is whether the config is pickled with Hydra's own."""

    pickled: bytes
    choices: Mapping[str, str]
    read_by_hydra: frozenset[str]
    whole: bool


class Composer:
    """Composes jobs from their overrides to what Hydra's `load_sweep_config` makes of them.

    Jobs that agree in their choices in groups begin as copies of one config, to which Hydra's own code applies their
    values. Whatever that objects to, and overrides of Hydra's own config, are left to its loader, whose word counts.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._chosen: dict[tuple[str | None, ...], _Chosen] = {}

    def compose(self, overrides: Sequence[str], number: int = 0) -> Request:
        """The job of these overrides and this number; raises ConfigError, or what the loader raises, for a mistake."""
        with suppress(HydraException, OmegaConfBaseException):
            parsed = [self._parse(override) for override in overrides]
            if not any(o.is_hydra_override() or o.is_sweep_override() or OF_HYDRA in str(o.input_line) for o in parsed):
                return self._compose(overrides, parsed, number)
        return _request(self._load(overrides), overrides, number)

    def _compose(self, overrides: Sequence[str], parsed: Sequence[Override], number: int) -> Request:
        typed = tuple(override.input_line for override in parsed if self._is_choice(override))
        if typed not in self._chosen:
            config = self._load([line for line in typed if line])
            whole = hydra_job.asks_for_more(config) or OF_HYDRA in OmegaConf.to_yaml(settings.own(config))
            kept = config if whole else settings.own(config)
            OmegaConf.set_struct(kept, True)
            # A pickle gives a copy in a fifth of the time that deepcopy takes.
            choices = dict(config.hydra.runtime.choices)
            self._chosen[typed] = _Chosen(pickle.dumps(kept), choices, settings.read_by_hydra(config.hydra), whole)
        chosen = self._chosen[typed]
        config = pickle.loads(chosen.pickled)
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not self._is_choice(o)], config)
        if chosen.whole:
            self._tell_hydra(config, parsed)
            return _request(config, overrides, number)
        return Request(settings.resolved(config, chosen.read_by_hydra), tuple(overrides), chosen.choices)

    def _tell_hydra(self, config: DictConfig, parsed: Sequence[Override]) -> None:
        """Write the job's overrides into Hydra's own config, as its loader does, and take over what was resolved."""
        OmegaConf.copy_cache(from_config=self.master, to_config=config)
        named = config.hydra.job.config.override_dirname
        config.hydra.overrides.task = [override.input_line for override in parsed]
        config.hydra.job.override_dirname = get_overrides_dirname(
            list(parsed), kv_sep=named.kv_sep, item_sep=named.item_sep, exclude_keys=named.exclude_keys
        )

    def _parse(self, override: str) -> Override:
        if override not in self._parsed:
            self._parsed[override] = OverridesParser.create().parse_override(override)
        return self._parsed[override]

    def _is_choice(self, override: Override) -> bool:
        """Whether an override is one of a group's, as Hydra tells them: by whether there is a group of its name."""
        name = override.key_or_group
        if name not in self._groups:
            hydra = self.master.hydra
            options = self.loader.get_group_options(name, None, hydra.job.config_name, list(hydra.overrides.hydra))
            self._groups[name] = bool(options)
        return self._groups[name] and not isinstance(override.value(), dict)

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        return self.loader.load_sweep_config(self.master, list(overrides))


def _request(config: DictConfig, overrides: Sequence[str], number: int) -> Request:
    """The request of a job's whole config, in which interpolations may ask for Hydra's own."""
    with open_dict(config.hydra.job):
        config.hydra.job.num, config.hydra.job.id = number, str(number)
    HydraConfig.instance().set_config(config)
    hydra = hydra_job.content(config) if hydra_job.asks_for_more(config) else None
    return Request(settings.plain(config), tuple(overrides), dict(config.hydra.runtime.choices), hydra)
