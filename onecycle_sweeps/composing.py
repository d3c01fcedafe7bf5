"""From overrides to requests: configs are composed as Hydra composes them, and turned into plain data.

A plain config is resolved, and contains neither Hydra's own node nor relative paths nor passwords.
"""

import pickle
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, Node, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from onecycle_sweeps import hydra_internals, hydra_job, mistakes
from onecycle_sweeps.command_line import CONF
from onecycle_sweeps.config import keys, paths, schema
from onecycle_sweeps.config.schema import ENV_SET, Config, ConfigError
from onecycle_sweeps.planning import Request

# How an interpolation of Hydra's own config begins.
OF_HYDRA = "${hydra:"
# Hydra's options that can be used with a verb: they say where configs are, and that the command is a sweep.
COMPOSING_OPTIONS = ("config_dir", "config_path", "config_name", "multirun")


class HydrasFolders(Callback):
    """Expands `~` in the paths of the folders that Hydra itself makes, before it makes them."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Expand the path for one trial."""
        _locate(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Expand the path for a sweep."""
        _locate(config, "sweep")


def _locate(config: DictConfig, mode: str) -> None:
    node = config.hydra[mode]
    try:
        found = paths.expanded(node.dir)
    except ValueError as error:
        # Hydra turns an exception from a callback into a warning, and makes the folder anyway.
        print(f"onecycle_sweeps: hydra.{mode}.dir: {error}", file=sys.stderr)
        sys.exit(2)
    # An unchanged path stays an interpolation, which shows which keys are read.
    if found != node.dir:
        with read_write(node):
            node.dir = found


def plain(config: DictConfig, hydra: Any = None) -> Config:
    """A composed config as plain data; `hydra` is Hydra's own node, if the config does not contain it.

    hydra.job.env_set is kept, because results of user code that reads the environment depend on it.
    Raises ConfigError for a key that nothing reads, and for a value that cannot be resolved.
    """
    hydra = OmegaConf.select(config, "hydra") if hydra is None else hydra
    job = hydra.job if hydra else None
    # Jobs inherit the variables of env_copy from this process.
    env_set = {name: job.env_set[name] for name in job.env_set if name not in job.env_copy} if job else {}
    return _resolved(_own(config), _read_by_hydra(hydra) if hydra else ()) | ({ENV_SET: env_set} if env_set else {})


def typed(hydra: Any, part: str) -> list[str]:
    """The typed overrides of `part`, hydra or task, unresolved, since some can only be resolved in a job."""
    found = OmegaConf.to_container(hydra.overrides[part], resolve=False)
    assert isinstance(found, list)
    return list(map(str, found))


def searches_seeds(hydra: Any) -> bool:
    """Whether a sweeper that learns from values has several seeds to choose from."""
    if hydra_job.is_grid(hydra.sweeper):
        return False
    seed = _swept(hydra, OverridesParser.create()).get("seed")
    return seed is not None and seed.is_sweep_override()


def _swept(hydra: Any, parser: OverridesParser) -> dict[str, Override]:
    """The overrides that a sweeper gets, by key: those of its config, and those typed, which win."""
    words = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    parsed = parser.parse_overrides(words + typed(hydra, "task"))
    return {override.get_key_element(): override for override in parsed}


def launcher(config: DictConfig) -> Config:
    """The keys of hydra.launcher, as plain data."""
    content = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key != "_target_"}


def _own(config: DictConfig) -> DictConfig:
    """A copy of a composed config without Hydra's own node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _read_by_hydra(hydra: Any) -> frozenset[str]:
    """The keys that Hydra's own node reads by interpolation."""
    node = OmegaConf.to_container(hydra, resolve=False)
    assert isinstance(node, dict)
    return keys.read_in({str(key): value for key, value in node.items()})


def _resolved(config: DictConfig, read_elsewhere: Iterable[str] = ()) -> Config:
    """A config without Hydra's own node as plain data.

    Raises ConfigError for a key that is neither read nor in `read_elsewhere`, for a value that cannot be resolved, and
    for the home folder of an unknown user.
    """
    schema.check_keys({str(key): value for key, value in _unresolved(config).items()}, read_elsewhere)
    try:
        with hydra_internals.interpolations_parsed_once():
            content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(mistakes.unresolvable(error)) from error
    assert isinstance(content, dict)
    return paths.located({str(key): value for key, value in content.items()}, Path.cwd())


def _unresolved(node: Node) -> Any:
    """A config's content with its interpolations unresolved; far faster than OmegaConf's to_container."""
    content = node._value()
    if isinstance(content, dict):
        return {key: _unresolved(value) for key, value in content.items()}
    return [_unresolved(value) for value in content] if isinstance(content, list) else content


@dataclass(frozen=True)
class _Template:
    """The config that jobs with the same choices in groups start from; `whole` if it includes Hydra's own node."""

    pickled: bytes
    choices: Mapping[str, str]
    read_by_hydra: frozenset[str]
    whole: bool


class Composer:
    """Composes jobs from their overrides, with the same result as Hydra's `load_sweep_config`, but faster.

    Jobs with the same choices in groups start from copies of one config, to which Hydra's code applies the other
    overrides. Where that fails, and for overrides of Hydra's own config, Hydra's loader composes the job.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._templates: dict[tuple[str | None, ...], _Template] = {}

    def compose(self, overrides: Sequence[str], number: int = 0) -> Request:
        """The request of the job with these overrides and this number; raises ConfigError or what the loader raises."""
        if hydra_internals.IS_TESTED:
            with suppress(HydraException, OmegaConfBaseException):
                parsed = [self._parse(override) for override in overrides]
                if not any(
                    o.is_hydra_override() or o.is_sweep_override() or OF_HYDRA in str(o.input_line) for o in parsed
                ):
                    return self._compose(overrides, parsed, number)
        return _request(self._load(overrides), overrides, number)

    def _compose(self, overrides: Sequence[str], parsed: Sequence[Override], number: int) -> Request:
        choices = tuple(override.input_line for override in parsed if self._is_choice(override))
        if choices not in self._templates:
            config = self._load([line for line in choices if line])
            whole = hydra_job.asks_for_more(config) or OF_HYDRA in OmegaConf.to_yaml(_own(config))
            kept = config if whole else _own(config)
            OmegaConf.set_struct(kept, True)
            # Unpickling takes a fifth of the time of deepcopy.
            self._templates[choices] = _Template(
                pickle.dumps(kept), dict(config.hydra.runtime.choices), _read_by_hydra(config.hydra), whole
            )
        template = self._templates[choices]
        config = pickle.loads(template.pickled)
        hydra_internals.apply_values(config, [o for o in parsed if not self._is_choice(o)])
        if template.whole:
            hydra_internals.record_overrides(config, parsed, self.master)
            return _request(config, overrides, number)
        return Request(_resolved(config, template.read_by_hydra), tuple(overrides), template.choices)

    def _parse(self, override: str) -> Override:
        if override not in self._parsed:
            self._parsed[override] = OverridesParser.create().parse_override(override)
        return self._parsed[override]

    def _is_choice(self, override: Override) -> bool:
        """Whether an override chooses a file of a group; for Hydra it does if a group has its name."""
        name = override.key_or_group
        if name not in self._groups:
            hydra = self.master.hydra
            options = self.loader.get_group_options(name, None, hydra.job.config_name, list(hydra.overrides.hydra))
            self._groups[name] = bool(options)
        return self._groups[name] and not isinstance(override.value(), dict)

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        return self.loader.load_sweep_config(self.master, list(overrides))


def _request(config: DictConfig, overrides: Sequence[str], number: int) -> Request:
    """The request of a job with its whole config, whose interpolations may read Hydra's own node."""
    with open_dict(config.hydra.job):
        config.hydra.job.num, config.hydra.job.id = number, str(number)
    HydraConfig.instance().set_config(config)
    hydra = hydra_job.content(config) if hydra_job.asks_for_more(config) else None
    return Request(plain(config), tuple(overrides), dict(config.hydra.runtime.choices), hydra)


def options(argv: Sequence[str], parser: ArgumentParser | None = None) -> Namespace:
    """The options and overrides that were typed after a verb; raises ConfigError for an option that verbs do not take.

    `parser` is Hydra's parser with further options.
    """
    common = hydra_internals.option_parser()
    hydras = set(vars(common.parse_args([]))) - {*COMPOSING_OPTIONS, "overrides"}
    parser = parser or common
    found = parser.parse_args(mistakes.checked_arguments(argv, parser))
    for name, value in vars(found).items():
        if value and name in hydras:
            raise ConfigError(f"--{name.replace('_', '-')} cannot be used with a verb: leave it out")
    return found


def composed(asked: Namespace, *, jobs: bool) -> tuple[DictConfig, list[Request]]:
    """Compose a command without running it; returns its whole config and, with `jobs`, the requests of its sweep.

    Raises ConfigError or what Hydra raises.
    """
    mode = RunMode.MULTIRUN if jobs or asked.multirun else RunMode.RUN
    path, name = asked.config_path or str(CONF), asked.config_name or "config"
    with hydra_internals.composition(path, asked.config_dir, name, asked.overrides, mode) as (loader, config):
        composer = Composer(loader, config)
        listed = _jobs(loader, config) if jobs else []
        return config, [composer.compose(job, number) for number, job in enumerate(listed)]


def _jobs(loader: ConfigLoader, config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a grid; for a search, whose jobs are unknown, the two ends of its space."""
    last = _swept(config.hydra, OverridesParser.create(config_loader=loader))
    if hydra_job.is_grid(config.hydra.sweeper):
        values = [[f"{key}={value}" for value in _values(override)] for key, override in last.items()]
        return [list(job) for job in product(*values)]
    ends = [(f"{key}={first}", f"{key}={final}") for key, o in last.items() for first, final in [_ends(o)]]
    return [[override[place] for override in ends] for place in (0, -1)]


def _values(override: Override) -> Iterator[str]:
    """The values that an override sweeps over, or its one value."""
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise HydraException(f"{override.input_line}: a grid needs a list of values, not an interval")
    if override.is_sweep_override():
        yield from override.sweep_string_iterator()
    else:
        yield override.get_value_element_as_str()


def _ends(override: Override) -> tuple[str, str]:
    """The first and the last value of an override."""
    if isinstance(value := override.value(), IntervalSweep):
        return str(value.start), str(value.end)
    values = list(_values(override))
    return values[0], values[-1]
