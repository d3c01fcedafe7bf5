"""A composed config as plain data: without Hydra's own node, resolved, and with absolute paths."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from onecycle_sweeps.config import keys, paths, schema
from onecycle_sweeps.config.schema import ENV_SET, Config, ConfigError


def plain(config: DictConfig, hydra: Any = None) -> Config:
    """A composed config as plain data, resolved, without Hydra's own node and without a store's credentials.

    `hydra` is that node where the config is without it. Its job.env_set is kept: code that reads it may give other
    results. Raises ConfigError for a key that nothing reads, and for a value that cannot be resolved.
    """
    hydra = OmegaConf.select(config, "hydra") if hydra is None else hydra
    job = hydra.job if hydra else None
    # What is copied from this process's environment is there for its children in any case.
    env_set = {name: job.env_set[name] for name in job.env_set if name not in job.env_copy} if job else {}
    return resolved(own(config), read_by_hydra(hydra) if hydra else ()) | ({ENV_SET: env_set} if env_set else {})


def typed(hydra: Any, part: str) -> list[str]:
    """The overrides of a `part` of the config, hydra or task, as they were typed: some are resolved in a job alone."""
    found = OmegaConf.to_container(hydra.overrides[part], resolve=False)
    assert isinstance(found, list)
    return list(map(str, found))


def own(config: DictConfig) -> DictConfig:
    """A copy of a composed config without Hydra's own node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def launcher(config: DictConfig) -> Config:
    """The keys of hydra.launcher, as plain data."""
    content = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key != "_target_"}


def read_by_hydra(hydra: Any) -> frozenset[str]:
    """The keys that Hydra's own node of a composed config reads by interpolation."""
    node = OmegaConf.to_container(hydra, resolve=False)
    assert isinstance(node, dict)
    return keys.read_in({str(key): value for key, value in node.items()})


def resolved(config: DictConfig, read_elsewhere: Iterable[str] = ()) -> Config:
    """A config as plain data, resolved, with its paths made absolute, and without a store's credentials.

    Raises ConfigError for a key that nothing reads, `read_elsewhere` beside the config, for a value that cannot be
    resolved, and for a home folder that there is not.
    """
    schema.check_keys({str(key): value for key, value in _unresolved(config).items()}, read_elsewhere)
    try:
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(unresolvable(error)) from error
    assert isinstance(content, dict)
    return paths.located({str(key): value for key, value in content.items()}, Path.cwd())


def _unresolved(node: Node) -> Any:
    """A config's content with its interpolations as they stand; OmegaConf's to_container takes far longer for it."""
    content = node._value()
    if isinstance(content, dict):
        return {key: _unresolved(value) for key, value in content.items()}
    return [_unresolved(value) for value in content] if isinstance(content, list) else content


def unresolvable(error: OmegaConfBaseException) -> str:
    """The message about a value that cannot be resolved."""
    reason = str(error).splitlines()[0].rpartition("raised while resolving interpolation: ")[2].strip('"')
    reason = re.sub(r"^Interpolation key '(.*)' not found$", r"there is no key \1", reason)
    return f"{error.full_key or 'a value'} cannot be resolved: {reason}"
