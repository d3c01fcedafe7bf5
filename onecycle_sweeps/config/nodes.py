"""Config nodes with a `_target_`: its code is imported, checked against the node's keys, and called."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import PurePath
from types import ModuleType
from typing import Any

from hydra.core.utils import env_override
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from onecycle_sweeps import seeding, torch_settings
from onecycle_sweeps.config import keys
from onecycle_sweeps.config.schema import CHECKED, ENV_SET, NOT_FOR_THE_LOADER, Config
from onecycle_sweeps.terminal import in_one_line

Parameters = Mapping[str, inspect.Parameter]
SWITCHES = ("bool", "bool | None", "None | bool", "Optional[bool]", "typing.Optional[bool]")
# The peak rate with which a policy's other keys are checked before a range test has measured the real one.
STAND_IN_MAX_LR = 1e9


def build(name: str, node: Config, **offered: Any) -> Any:
    """Call the `_target_` of the config node `name` with the node's keys and the parameters of `offered` that it has.

    Raises ValueError, with the key, for a target that does not exist, an unknown key or a missing one.
    """
    takes = parameters(located(f"{name}._target_", node["_target_"]))
    taken = {key: value for key, value in offered.items() if key in takes}
    for key, value in taken.items():
        if key in node and node[key] != value:
            raise ValueError(f"{name}.{key} is set by the trial, to {value}: leave it out, got {node[key]}")
    return _call(name, node, **taken)


def policy(config: Config, max_lr: float | None, steps_per_epoch: int, total_steps: int | None = None) -> Any:
    """The trial's policy with its peak at `max_lr`; before the range test that is None, and a very high rate is used.

    `total_steps` is by default that of the config's epochs.
    """
    node = {key: value for key, value in config["policy"].items() if key != "max_lr"}
    peak = STAND_IN_MAX_LR if max_lr is None else max_lr
    total = config["epochs"] * steps_per_epoch if total_steps is None else total_steps
    return build("policy", node, max_lr=peak, total_steps=total, steps_per_epoch=steps_per_epoch)


def loader(config: Config) -> Callable[[], Any]:
    """The function that reads the raw data set. It is seeded, since all trials share one cache of what it returns."""
    return partial(_load, {key: value for key, value in config["data"].items() if key not in NOT_FOR_THE_LOADER})


def _load(node: Config) -> Any:
    seeding.seed_all(0)
    return _call("data", node)


def text_defaults(node: Config) -> Config:
    """The strings that parameters of the data node's `_target_` have as defaults, which may name files.

    Parameters that the node sets are left out.
    """
    takes = parameters(located("data._target_", node["_target_"]))
    defaults = {name: parameter.default for name, parameter in takes.items() if name not in node}
    return {name: str(default) for name, default in defaults.items() if isinstance(default, str | PurePath)}


def environment(config: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Set the variables of hydra.job.env_set while user code runs."""
    return env_override(config.get(ENV_SET, {}))


def _call(name: str, node: Config, **taken: Any) -> Any:
    """Call a node's `_target_`; raises the target's own exceptions, without the one that Hydra wraps around them."""
    check(name, node, taken)
    return _instantiated(node, **taken)


def bound(name: str, node: Config, given: Iterable[str]) -> Callable[..., Any]:
    """The `_target_` of a node with the node's keys as arguments; the caller gives the arguments `given`.

    Raises ValueError, with the key, as `build` does.
    """
    check(name, node, given)
    return _instantiated(node | {"_partial_": True})


def _instantiated(node: Config, **taken: Any) -> Any:
    try:
        return instantiate(node, **taken, _convert_="all")
    except InstantiationException as error:
        reason = error.__cause__ or error
    raise reason


def located(key: str, target: str) -> Any:
    """The class or function with a dotted name; raises ValueError, with the config's key, if it cannot be imported."""
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
            near = keys.nearest(name, dir(parent))
            hint = f", did you mean {near}?" if near else ": correct the dotted name"
            raise ValueError(f"{key}={target} does not exist: there is no {name} in {parent.__name__}{hint}")
    if not callable(found):
        raise ValueError(f"{key} must be the dotted name of a class or function, got {target}, which is neither")
    return found


def _imported(key: str, target: str, path: str) -> ModuleType | None:
    """The module, or None if it does not exist; raises ValueError, with the line of code, if its import fails.

    What it draws when it is imported is the same in each process, and whatever it draws or seeds changes nothing for
    the trial that imports it first. What it sets in torch is set for later trials too.
    """
    if path in sys.modules:
        return sys.modules[path]
    try:
        with seeding.generators_kept(), torch_settings.importing():
            seeding.seed_all(0)
            return importlib.import_module(path)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{path}.".startswith(f"{error.name}."):
            return None
        raise ValueError(f"{key}={target} cannot be imported: {in_one_line(error)}") from error


def parameters(target: Any) -> Parameters:
    """The parameters of a target by name; one without a readable signature is assumed to take any parameter."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {"anything": inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)}


def check(name: str, node: Any, given: Iterable[str] = ()) -> None:
    """Raise ValueError for the first key at or below the config node `name` that its target cannot be called with.

    `given` names the arguments that the target gets besides the node's keys.
    """
    for key, inner in keys.targets(node, name):
        target = located(f"{key}._target_", inner["_target_"])
        check_arguments(key, inner, target, given if key == name else ())


def check_arguments(name: str, node: Mapping[str, Any], target: Any, given: Iterable[str] = ()) -> None:
    """Raise ValueError for a key that the target does not take, a missing one, and one that must be true or false."""
    takes = parameters(target)
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    target_name = getattr(target, "__name__", str(target))
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    by_name = [key for key, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if (unknown := [key for key in arguments if key not in by_name]) and not takes_any:
        known = [f"{name}.{one}" for one in by_name if one not in given]
        raise ValueError(_not_taken([f"{name}.{key}" for key in unknown], known, target_name))
    for key, value in arguments.items():
        if key in by_name and not _is_valid(value, takes[key]):
            raise ValueError(f"{name}.{key} must be true or false, got {value!r}")
    if "_args_" in node or node.get("_partial_"):
        return
    required = [key for key in by_name if takes[key].default is inspect.Parameter.empty]
    if missing := [key for key in required if key not in arguments and key not in given]:
        raise ValueError(
            f"{name}.{missing[0]} is missing, which {target_name} needs: set it in the YAML or as an override"
        )


def _not_taken(unknown: Sequence[str], known: Sequence[str], target: str) -> str:
    """The message about keys that a target does not take: misspelt ones, or keys of another target's YAML."""
    for key in unknown:
        if (meant := keys.suggestion(key, known)) and key not in CHECKED:
            return f"unknown key {key}; did you mean {meant}?"
    takes = f"{target} takes {', '.join(key.rpartition('.')[2] for key in known) or 'none'}"
    without = " ".join(f"~{key}" for key in unknown)
    return f"unknown key {unknown[0]}: {takes}; to leave out what it does not take, type {without}"


def _is_valid(value: Any, parameter: inspect.Parameter) -> bool:
    """Whether the parameter takes the value: one that is a switch takes only true and false."""
    annotation, by_default = parameter.annotation, isinstance(parameter.default, bool)
    is_switch = by_default or getattr(annotation, "__name__", annotation) in SWITCHES or str(annotation) in SWITCHES
    return not is_switch or isinstance(value, bool) or (value is None and not by_default)
