"""What config nodes name by `_target_`: found, and compared with the keys that stand beside it."""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from onecycle_sweeps import checks, keys
from onecycle_sweeps.terminal import in_one_line

Parameters = Mapping[str, inspect.Parameter]
SWITCHES = ("bool", "bool | None", "None | bool", "Optional[bool]", "typing.Optional[bool]")


def located(key: str, target: str) -> Any:
    """What a dotted name stands for; raises ValueError, with the config's key, where there is none such.

    What a module raises as it is imported is told with its line of code.
    """
    first, *rest = target.split(".")
    found = _imported(key, target, first)
    if found is None:
        raise ValueError(f"{key}={target}: there is no module {first} in this folder, in --config-dir or installed")
    path = first
    for name in rest:
        path, above = f"{path}.{name}", found
        found = getattr(above, name, None)
        if found is None and isinstance(above, ModuleType):
            found = _imported(key, target, path)
        if found is None:
            raise ValueError(f"{key}={target}: {above.__name__} has no {name}{nearest(name, dir(above))}")
    if not callable(found):
        raise ValueError(f"{key} must be the dotted name of a class or function, got {target}, which is neither")
    return found


def parameters(target: Any) -> Parameters:
    """The parameters of a target by name; of one that does not tell, it takes anything."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {"anything": inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)}


def check(name: str, node: Any, given: Iterable[str] = ()) -> None:
    """Raise ValueError for the first key below the config node `name` that its target does not take, lacks or misreads.

    `given` are the arguments that it gets beside the node's keys.
    """
    for key, inner in _nodes(name, node):
        target = located(f"{key}._target_", inner["_target_"])
        fits(key, inner, target, given if key == name else ())


def fits(name: str, node: Mapping[str, Any], target: Any, given: Iterable[str] = ()) -> None:
    """Raise ValueError for the first key of a node that a target does not take, lacks or misreads."""
    takes = parameters(target)
    named = {key: value for key, value in node.items() if not key.startswith("_")}
    said = getattr(target, "__name__", str(target))
    of_any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    by_name = [key for key, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if (foreign := [key for key in named if key not in by_name]) and not of_any_name:
        known = [f"{name}.{one}" for one in by_name if one not in given]
        raise ValueError(_not_taken([f"{name}.{key}" for key in foreign], known, said))
    for key, value in named.items():
        if key in by_name and _is_switch(takes[key]) and not _is_switched(takes[key], value):
            raise ValueError(f"{name}.{key} must be true or false, got {value!r}")
    if "_args_" in node or node.get("_partial_"):
        return
    lacking = [key for key in by_name if takes[key].default is inspect.Parameter.empty]
    if missing := [key for key in lacking if key not in named and key not in given]:
        raise ValueError(f"{name}.{missing[0]} is missing, which {said} needs: give it in the YAML or as an override")


def _not_taken(foreign: Sequence[str], known: Sequence[str], target: str) -> str:
    """The line for keys that a target does not take: misspelt, or from the YAML of another target."""
    for key in foreign:
        if (meant := keys.suggestion(key, known)) and key not in checks.CHECKS:
            return f"unknown key {key}; did you mean {meant}?"
    takes = f"{target} takes {', '.join(key.rpartition('.')[2] for key in known) or 'none'}"
    without = " ".join(f"~{key}" for key in foreign)
    return f"unknown key {foreign[0]}: {takes}; to leave out what it does not take, type {without}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A question after the name that was meant, if one is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {near[0]}?" if near else ""


def _is_switch(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    written = getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)
    return isinstance(parameter.default, bool) or written in SWITCHES


def _is_switched(parameter: inspect.Parameter, value: Any) -> bool:
    return isinstance(value, bool) or (value is None and not isinstance(parameter.default, bool))


def _imported(key: str, target: str, path: str) -> ModuleType | None:
    """A module, None where there is none; raises ValueError for one that fails as it is imported."""
    try:
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{path}.".startswith(f"{error.name}."):
            return None
        raise ValueError(f"{key}={target} cannot be imported: {in_one_line(error)}") from error


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
