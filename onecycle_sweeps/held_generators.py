"""Random generators that a data loader, its samplers, datasets and their transforms hold: found, saved and seeded."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps import seeding

if TYPE_CHECKING:
    import torch

    Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

# A generator deeper in attributes and containers, behind more objects or further back in a container is not found.
DEEPEST, MOST_OBJECTS, MOST_ELEMENTS = 8, 1000, 64
# Where loaders and samplers have torch's generators, perhaps as properties.
OF_SAMPLERS = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")
PARTS_OF_A_LOADER = ("sampler", "batch_sampler", "dataset")
# What torch's modules and optimizers keep in attributes with these names is large, and has no generator.
OF_TORCH = ("_parameters", "_buffers", "_modules", "state", "param_groups")
HOLDS_NONE = (str, bytes, int, float, complex, type(None), type, ModuleType, np.ndarray, np.generic)


def held(**parts: Any) -> dict[str, Generator]:
    """The generators that the parts hold in attributes and containers, each once, by a name such as `dataset.rng`.

    A part may be a generator itself. Those that all code shares, such as torch's default, are left out. No property is
    called.
    """
    found: dict[str, Generator] = {}
    seen, level = set[int](), list(parts.items())
    # What was seen is kept alive, since the next object could get its id.
    kept: list[Any] = []
    for _ in range(DEEPEST + 1):
        inner: list[tuple[str, Any]] = []
        for name, one in level:
            if id(one) in seen or len(seen) == MOST_OBJECTS:
                continue
            seen.add(id(one))
            kept.append(one)
            if _is_generator(one):
                found[name] = one
            else:
                inner += ((f"{name}.{key}", value) for key, value in _inside(one) if not isinstance(value, HOLDS_NONE))
        level = inner
    return found


def of_loader(loader: Any) -> dict[str, Generator]:
    """The generators that a data loader and its parts hold, by names such as `sampler.generator`."""
    parts = {name: _at(loader, name) for name in (*OF_SAMPLERS, *PARTS_OF_A_LOADER)}
    return held(**parts, loader=loader)


def of_net(model: Any, **others: Any) -> dict[str, Generator]:
    """The generators that a model's modules and what trains it hold, by names such as `model.0.generator`."""
    parts = {f"model.{name}": module for name, module in model.named_modules()}
    found: dict[str, Generator] = {}
    for name, part in (parts | others).items():
        attributes = {key: value for key, value in getattr(part, "__dict__", {}).items() if key not in OF_TORCH}
        found |= held(**{name: attributes})
    return found


def _at(one: Any, path: str) -> Any:
    for name in path.split("."):
        one = getattr(one, name, None)
    return one


@contextmanager
def kept(generators: Mapping[str, Generator]) -> Iterator[None]:
    """A context after which the generators are as before."""
    before = states(generators)
    try:
        yield
    finally:
        set_states(generators, before)


def states(generators: Mapping[str, Generator]) -> dict[str, Any]:
    """The state of each generator, which torch loads with weights_only."""
    return {name: _state(one) for name, one in generators.items()}


def set_states(generators: Mapping[str, Generator], kept: Mapping[str, Any]) -> list[str]:
    """Bring the generators to states of `states`; returns the names of those that are not there or of another kind."""
    lacking = []
    for name, state in kept.items():
        try:
            _set_state(generators[name], state)
        except (KeyError, TypeError, ValueError, RuntimeError):
            lacking.append(name)
    return lacking


def seed(generators: Mapping[str, Generator], text: str) -> None:
    """Seed each generator by the text and its name, so that no two of them draw the same."""
    for name, one in generators.items():
        number = seeding.number(f"{text},{name}")
        if isinstance(one, random.Random):
            one.seed(number)
        elif isinstance(one, np.random.Generator):
            one.bit_generator.state = type(one.bit_generator)(number).state  # type: ignore[call-arg]
        elif isinstance(one, np.random.RandomState):
            kind = type(one._bit_generator)  # type: ignore[attr-defined]
            one.set_state(np.random.RandomState(kind(number)).get_state(legacy=False))
        else:
            one.manual_seed(number)


def _is_generator(one: Any) -> bool:
    if isinstance(one, random.Random):
        return not isinstance(one, random.SystemRandom) and one is not random.seed.__self__  # type: ignore[attr-defined]
    if isinstance(one, np.random.RandomState):
        return one is not np.random.mtrand._rand
    loaded = sys.modules.get("torch")
    is_of_torch = loaded is not None and isinstance(one, loaded.Generator) and one is not loaded.default_generator
    return is_of_torch or isinstance(one, np.random.Generator)


def _inside(one: Any) -> Iterator[tuple[Any, Any]]:
    """What an object holds, by name: attributes, and what is in a container, a closure or a partial function."""
    if (loaded := sys.modules.get("torch")) and isinstance(one, loaded.Tensor):
        return
    if isinstance(one, dict):
        yield from islice(list(one.items()), MOST_ELEMENTS)
    elif isinstance(one, list | tuple):
        yield from enumerate(one[:MOST_ELEMENTS])
    elif isinstance(one, partial):
        yield from (("func", one.func), ("args", one.args), ("keywords", one.keywords))
    elif isinstance(one, MethodType):
        yield "self", one.__self__
    elif isinstance(one, FunctionType):
        cells = zip(one.__code__.co_freevars, one.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in cells if _is_full(cell))
    try:
        attributes = object.__getattribute__(one, "__dict__")
    except AttributeError:
        return
    if isinstance(attributes, dict):
        yield from list(attributes.items())


def _is_full(cell: Any) -> bool:
    """Whether the variable of a closure has a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _state(one: Generator) -> Any:
    if isinstance(one, random.Random):
        return one.getstate()
    if isinstance(one, np.random.Generator):
        return _plain(one.bit_generator.state)
    if isinstance(one, np.random.RandomState):
        return _plain(one.get_state(legacy=False))
    return one.get_state()


def _set_state(one: Generator, state: Any) -> None:
    if isinstance(one, random.Random):
        one.setstate(state)
    elif isinstance(one, np.random.Generator):
        one.bit_generator.state = state
    elif isinstance(one, np.random.RandomState):
        one.set_state(state)
    else:
        one.set_state(state.cpu())


def _plain(value: Any) -> Any:
    """NumPy's state without arrays, which a checkpoint cannot have."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
