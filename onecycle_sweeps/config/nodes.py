"""Config nodes that name code by `_target_`: the code is found, compared with the node's keys, and called."""

import difflib
import importlib
import inspect
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import PurePath
from types import ModuleType
from typing import Any

import numpy as np
from hydra.core.utils import env_override
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from onecycle_sweeps.config import keys
from onecycle_sweeps.config.schema import CHECKED, ENV_SET, NOT_FOR_THE_LOADER, Config
from onecycle_sweeps.terminal import in_one_line

Parameters = Mapping[str, inspect.Parameter]
SWITCHES = ("bool", "bool | None", "None | bool", "Optional[bool]", "typing.Optional[bool]")
# The peak rate with which a policy's other keys are checked before a range test has measured the real one.
STAND_IN_MAX_LR = 1e9


def build(name: str, node: Config, **offered: Any) -> Any:
    """Call the `_target_` of the config node `name` with the node's keys and those of `offered` that it can take.

    Raises ValueError, with the key, for a target that does not exist, and for keys that it does not take or lacks.
    """
    takes = parameters(located(f"{name}._target_", node["_target_"]))
    taken = {key: value for key, value in offered.items() if key in takes}
    for key, value in taken.items():
        if key in node and node[key] != value:
            raise ValueError(
                f"{name}.{key} follows from the trial, which makes it {value}: leave it out, got {node[key]}"
            )
    return _call(name, node, **taken)


def policy(config: Config, max_lr: float | None, steps_per_epoch: int) -> Any:
    """The trial's policy with its peak at `max_lr`; None takes a stand-in, to check it before the range test."""
    node = {key: value for key, value in config["policy"].items() if key != "max_lr"}
    peak = STAND_IN_MAX_LR if max_lr is None else max_lr
    total_steps = config["epochs"] * steps_per_epoch
    return build("policy", node, max_lr=peak, total_steps=total_steps, steps_per_epoch=steps_per_epoch)


def loader(config: Config) -> Callable[[], Any]:
    """The call that reads the raw data set; its random draws are the same each time, as all trials share one cache."""
    return partial(_load, {key: value for key, value in config["data"].items() if key not in NOT_FOR_THE_LOADER})


def _load(node: Config) -> Any:
    seed_generators(0)
    return _call("data", node)


def text_defaults(node: Config) -> Config:
    """The texts that the data node's `_target_` has as defaults for keys that are not given; they may name files."""
    takes = parameters(located("data._target_", node["_target_"]))
    defaults = {name: one.default for name, one in takes.items() if name not in node}
    return {name: str(default) for name, default in defaults.items() if isinstance(default, str | PurePath)}


def environment(config: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Set the variables of hydra.job.env_set while the user's code is called."""
    return env_override(config.get(ENV_SET, {}))


def seed_generators(seed: int) -> None:
    """Seed what user code may draw from: Python's generator, NumPy's, and torch's if it is loaded."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def _call(name: str, node: Config, **taken: Any) -> Any:
    """Call a node's `_target_`; its exceptions are passed on as they are, which Hydra would wrap."""
    check(name, node, taken)
    try:
        return instantiate(node, **taken, _convert_="all")
    except InstantiationException as error:
        reason = error.__cause__ or error
    raise reason


def located(key: str, target: str) -> Any:
    """The class or function of a dotted name; raises ValueError, with the config's key, if there is none.

    The message about a module that fails to import has the line of code.
    """
    first, *rest = target.split(".")
    found = _imported(key, target, first)
    if found is None:
        raise ValueError(f"{key}={target}: there is no module {first} in this folder, in --config-dir or installed")
    path = first
    for name in rest:
        path, parent = f"{path}.{name}", found
        found = getattr(parent, name, None)
        if found is None and isinstance(parent, ModuleType):
            found = _imported(key, target, path)
        if found is None:
            raise ValueError(f"{key}={target}: {parent.__name__} has no {name}{_nearest(name, dir(parent))}")
    if not callable(found):
        raise ValueError(f"{key} must be the dotted name of a class or function, got {target}, which is neither")
    return found


def _imported(key: str, target: str, path: str) -> ModuleType | None:
    """A module, or None if there is none; raises ValueError if it fails to import."""
    try:
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{path}.".startswith(f"{error.name}."):
            return None
        raise ValueError(f"{key}={target} cannot be imported: {in_one_line(error)}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    """A question after the name that was probably meant, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {near[0]}?" if near else ""


def parameters(target: Any) -> Parameters:
    """The parameters of a target by name; a target without a readable signature is taken to accept any."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {"anything": inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)}


def check(name: str, node: Any, given: Iterable[str] = ()) -> None:
    """Raise ValueError for the first key at or below the config node `name` that does not fit its target.

    `given` are arguments that the target gets beside the node's keys.
    """
    for key, inner in _nodes(name, node):
        target = located(f"{key}._target_", inner["_target_"])
        check_arguments(key, inner, target, given if key == name else ())


def check_arguments(name: str, node: Mapping[str, Any], target: Any, given: Iterable[str] = ()) -> None:
    """Raise ValueError for a key that a target does not take, lacks, or takes as true or false alone."""
    takes = parameters(target)
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    target_name = getattr(target, "__name__", str(target))
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    by_name = [key for key, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if (unknown := [key for key in arguments if key not in by_name]) and not takes_any:
        known = [f"{name}.{one}" for one in by_name if one not in given]
        raise ValueError(_not_taken([f"{name}.{key}" for key in unknown], known, target_name))
    for key, value in arguments.items():
        if key in by_name and _is_switch(takes[key]) and not _is_valid_switch(takes[key], value):
            raise ValueError(f"{name}.{key} must be true or false, got {value!r}")
    if "_args_" in node or node.get("_partial_"):
        return
    required = [key for key in by_name if takes[key].default is inspect.Parameter.empty]
    if missing := [key for key in required if key not in arguments and key not in given]:
        raise ValueError(
            f"{name}.{missing[0]} is missing, which {target_name} needs: give it in the YAML or as an override"
        )


def _not_taken(unknown: Sequence[str], known: Sequence[str], target: str) -> str:
    """The message about keys that a target does not take: misspelt, or from the YAML of another target."""
    for key in unknown:
        if (meant := keys.suggestion(key, known)) and key not in CHECKED:
            return f"unknown key {key}; did you mean {meant}?"
    takes = f"{target} takes {', '.join(key.rpartition('.')[2] for key in known) or 'none'}"
    without = " ".join(f"~{key}" for key in unknown)
    return f"unknown key {unknown[0]}: {takes}; to leave out what it does not take, type {without}"


def _is_switch(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    written = getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)
    return isinstance(parameter.default, bool) or written in SWITCHES


def _is_valid_switch(parameter: inspect.Parameter, value: Any) -> bool:
    return isinstance(value, bool) or (value is None and not isinstance(parameter.default, bool))


def _nodes(name: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The nodes with a `_target_` at and below a place in a config, each with its place."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield name, value
        for key, inner in value.items():
            yield from _nodes(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _nodes(f"{name}[{place}]", inner)
