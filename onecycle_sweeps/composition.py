"""A sweep's jobs composed as Hydra composes them, but once for each set of choices in config groups."""

import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from onecycle_sweeps import settings
from onecycle_sweeps.plan import Request


class Composer:
    """Composes jobs from their overrides to what Hydra's `load_sweep_config` makes of them.

    Jobs that agree in their choices in groups begin as copies of one config, to which Hydra's own code applies their
    values. Whatever that objects to, and overrides of Hydra's own config, are left to its loader, whose word counts.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._chosen: dict[tuple[str | None, ...], tuple[bytes, Mapping[str, str]]] = {}

    def compose(self, overrides: Sequence[str]) -> Request:
        """The job of these overrides; raises what Hydra raises, in its words."""
        with suppress(HydraException, OmegaConfBaseException):
            parsed = [self._parse(override) for override in overrides]
            if not any(override.is_hydra_override() or override.is_sweep_override() for override in parsed):
                return self._compose(overrides, parsed)
        config = self._load(overrides)
        return Request(settings.plain(config), tuple(overrides), dict(config.hydra.runtime.choices))

    def _compose(self, overrides: Sequence[str], parsed: Sequence[Override]) -> Request:
        typed = tuple(override.input_line for override in parsed if self._is_choice(override))
        if typed not in self._chosen:
            config = self._load([line for line in typed if line])
            own = settings.own(config)
            OmegaConf.set_struct(own, True)
            # A pickle gives a copy in a fifth of the time that deepcopy takes.
            self._chosen[typed] = pickle.dumps(own), dict(config.hydra.runtime.choices)
        pickled, choices = self._chosen[typed]
        config = pickle.loads(pickled)
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not self._is_choice(o)], config)
        return Request(settings.resolved(config), tuple(overrides), choices)

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
