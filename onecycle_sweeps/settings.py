"""What a trial's config means: which parts it names, which rate it asks for, which range test would find it."""

import inspect
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from hydra.core.utils import env_override
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from onecycle_sweeps import checks, credentials, keys, paths, targets
from onecycle_sweeps.checks import ConfigError
from onecycle_sweeps.images import Facts, Source
from onecycle_sweeps.images.augmentation import Transform
from onecycle_sweeps.policies import Policy
from onecycle_sweeps.terminal import in_one_line

Config = dict[str, Any]
# The key of a trial's config that holds hydra.job.env_set, if it sets anything.
ENV_SET = "env_set"
# What these name is the same from every working folder: a job begins in its own, and a sweep may be continued from
# another. data.path is a place below data.root.
PATHS = (("runs_dir",), ("data", "root"), ("model", "weights_file"))
SPLIT_KEYS = ("val_fraction", "split_seed", "classes")
# Lists of transforms: for training batches, and for evaluations.
TRANSFORM_KEYS = ("augment", "evaluation")
# Where a range test is still to find the rate, the other keys of a policy are checked below a rate out of reach.
UNREACHED_RATE = 1e9
# A range test serves every policy, every seed and every length of training. It evaluates in mode linear alone.
NOT_OF_A_RANGE_TEST = ("policy", "max_lr", "max_lr_scale", "epochs", "seed", "evaluations_per_epoch")


def seed_generators(seed: int) -> None:
    """Seed whatever code of the user's may draw from: Python's generator, NumPy's, and torch's where it is loaded."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


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


def environment(config: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Set the variables that a trial's config asks for while the user's code is called."""
    return env_override(config.get(ENV_SET, {}))


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
    checks.check_keys({str(key): value for key, value in _unresolved(config).items()}, read_elsewhere)
    try:
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(unresolvable(error)) from error
    assert isinstance(content, dict)
    return located({str(key): value for key, value in content.items()}, Path.cwd())


def _unresolved(node: Node) -> Any:
    """A config's content with its interpolations as they stand; OmegaConf's to_container takes far longer for it."""
    content = node._value()
    if isinstance(content, dict):
        return {key: _unresolved(value) for key, value in content.items()}
    return [_unresolved(value) for value in content] if isinstance(content, list) else content


def located(config: Config, cwd: Path) -> Config:
    """A plain config whose paths, given as they are seen from `cwd`, are the same from everywhere."""
    config = {
        key: paths.with_homes(value) if isinstance(value, dict) and "_target_" in value else value
        for key, value in config.items()
    }
    for *parents, leaf in PATHS:
        node = config
        for parent in parents:
            node = found if isinstance(found := node.get(parent), dict) else {}
        # Without a text there is nothing to locate, and the checks say so.
        if isinstance(value := node.get(leaf), str) and value.strip():
            node[leaf] = _absolute(".".join((*parents, leaf)), value, paths.absolute, cwd)
    match config:
        case {"tracking": {"uri": str(uri)}}:
            config["tracking"]["uri"] = credentials.entrusted(_absolute("tracking.uri", uri, paths.absolute_uri, cwd))
    return config


def moved(config: Config, before: Path, now: Path) -> Config:
    """A located config after the folder `before` was moved to `now`: what is gone there and is here is found again."""
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    for *parents, leaf in PATHS:
        node = config
        for parent in parents:
            node = found if isinstance(found := node.get(parent), dict) else {}
        if isinstance(value := node.get(leaf), str) and not (before / value).exists():
            inside = (before / value).is_relative_to(before)
            if inside and (place := now / (before / value).relative_to(before)).exists():
                node[leaf] = str(place)
    return config


def _absolute(key: str, value: str, locate: Callable[[str, Path], str], cwd: Path) -> str:
    try:
        return locate(value, cwd)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def unresolvable(error: OmegaConfBaseException) -> str:
    """The line for a value that cannot be resolved."""
    reason = str(error).splitlines()[0].rpartition("raised while resolving interpolation: ")[2].strip('"')
    reason = re.sub(r"^Interpolation key '(.*)' not found$", r"there is no key \1", reason)
    return f"{error.full_key or 'a value'} cannot be resolved: {reason}"


def build(name: str, node: Config, **offered: Any) -> Any:
    """Call the `_target_` of the config node `name` with the node's keys and those of `offered` that it can take.

    Raises ValueError, with the key, for a target that is not there, and for keys that it does not take or lacks.
    """
    parameters = targets.parameters(targets.located(f"{name}._target_", node["_target_"]))
    taken = {key: value for key, value in offered.items() if key in parameters}
    for key, value in taken.items():
        if key in node and node[key] != value:
            raise ValueError(
                f"{name}.{key} follows from the trial, which makes it {value}: leave it out, got {node[key]}"
            )
    return _call(name, node, **taken)


def loader(config: Config) -> Callable[[], Source]:
    """The call that reads the raw data set; what it draws at random is the same each time, as one cache serves all."""
    of_others = (*SPLIT_KEYS, *TRANSFORM_KEYS, "files", "fingerprint")
    return partial(_load, {key: value for key, value in config["data"].items() if key not in of_others})


def _load(node: Config) -> Source:
    seed_generators(0)
    return _call("data", node)


def text_defaults(node: Config) -> Config:
    """The texts that the data node's `_target_` takes where the node says nothing, which may name files as well."""
    parameters = targets.parameters(targets.located("data._target_", node["_target_"]))
    named = {name: one.default for name, one in parameters.items() if name not in node}
    return {name: str(default) for name, default in named.items() if isinstance(default, str | PurePath)}


def split(config: Config) -> dict[str, Any]:
    """How the data set is divided: the keywords of `images.prepare`."""
    return {key: config["data"][key] for key in SPLIT_KEYS}


def transforms(config: Config, facts: Facts) -> dict[str, tuple[Transform, ...]]:
    """What is done to images before they are normalised: the fields `augment` and `evaluation` of a Dataset.

    Raises ValueError, with the place in its list, for one that cannot be built or that its images do not suit.
    """
    return {key: tuple(_transforms(config, key, facts)) for key in TRANSFORM_KEYS}


def policy(config: Config, max_lr: float, steps_per_epoch: int) -> Policy:
    """The trial's policy with its peak at `max_lr`."""
    total_steps = config["epochs"] * steps_per_epoch
    node = {key: value for key, value in config["policy"].items() if key != "max_lr"}
    return build("policy", node, max_lr=max_lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch)


def outlined_policy(config: Config, steps_per_epoch: int) -> Policy:
    """The trial's policy before it runs, with its peak out of reach where a range test is still to find the rate."""
    return policy(config, max_lr(config) or UNREACHED_RATE, steps_per_epoch)


def max_lr(config: Config) -> float | None:
    """The rate that the config asks for, with its scale; None where a range test is to find it."""
    asked = config["policy"]["max_lr"]
    return None if asked == "auto" else float(asked) * config["max_lr_scale"]


def range_test(config: Config) -> Config:
    """The config of the range test that finds a trial's rate: the same for all trials that differ in policy or seed."""
    kept = {key: value for key, value in config.items() if key not in NOT_OF_A_RANGE_TEST}
    if config["range_test"]["mode"] == "exp" or not kept["bn_recalibrate"]:
        del kept["bn_recalibrate"]
    return kept | {"task": "range_test"}


def _transforms(config: Config, key: str, facts: Facts) -> Iterator[Transform]:
    height, width = facts.height, facts.width
    for place, node in enumerate(config["data"].get(key, [])):
        name = f"data.{key}[{place}]"
        try:
            transform = build(name, node, mean=facts.mean)
            if not isinstance(transform, Transform):
                raise ValueError(f"{node['_target_']} makes no transform, which is called with images and has `output`")
            height, width = transform.output(height, width)
            if key == "evaluation":
                _check_repeats(transform)
        except (Exception, SystemExit) as error:
            said = in_one_line(error)
            raise ValueError(said if name in said else f"{name}: {said}") from error
        yield transform


def _check_repeats(transform: Transform) -> None:
    """Raise ValueError for a transform that needs draws: an evaluation gives none, and is to come out the same."""
    try:
        inspect.signature(transform).bind(None)
    except TypeError:
        name = type(transform).__name__
        raise ValueError(f"{name} draws at random, an evaluation needs one that does not, like CenterCrop") from None


def _call(name: str, node: Config, **taken: Any) -> Any:
    """Call a node's `_target_`; what that raises comes as it is, where Hydra would wrap it in words of its own."""
    targets.check(name, node, taken)
    try:
        return instantiate(node, **taken, _convert_="all")
    except InstantiationException as error:
        reason = error.__cause__ or error
    raise reason
