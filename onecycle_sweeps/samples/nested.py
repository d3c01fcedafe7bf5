"""Inputs of a net: one array, a tuple of them (positional arguments), or a dict of them (keyword arguments)."""

from collections.abc import Callable, Iterable
from typing import Any


def leaves(inputs: Any) -> dict[str, Any]:
    """Each array by the name that messages give it."""
    if isinstance(inputs, dict):
        return {f"inputs[{name}]": value for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return {f"inputs[{number}]": value for number, value in enumerate(inputs)}
    return {"inputs": inputs}


def changed(inputs: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with each array changed."""
    if isinstance(inputs, dict):
        return {name: change(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(change(value) for value in inputs)
    return change(inputs)


def tensors(pieces: Iterable[tuple[Any, Any]]) -> list[Any]:
    """All arrays of batches of (inputs, targets), in a fixed order."""
    return [value for piece in pieces for part in piece for value in leaves(part).values()]


def filled(pieces: Iterable[tuple[Any, Any]], arrays: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Batches of the same structure with other arrays, in the order of `tensors`."""
    others = iter(arrays)
    return [tuple(changed(part, lambda _: next(others)) for part in piece) for piece in pieces]  # type: ignore[misc]


def apart(item: Any, label: str | None) -> tuple[Any, Any]:
    """The inputs and the target of a sample or a batch that has both.

    A dict's target is under `label`, else under labels, label, target or y; a tuple's or list's is its last element.
    If an item that is a tuple has one input, that input is returned without a tuple around it. Raises ValueError where
    there is no target.
    """
    if isinstance(item, dict):
        names = [label] if label is not None else [name for name in ("labels", "label", "target", "y") if name in item]
        if not names or names[0] not in item:
            wanted = f"data.label={label}" if label is not None else "labels, label, target or y"
            raise ValueError(f"a sample must have a key {wanted} to be predicted, and has {', '.join(map(str, item))}")
        return {name: value for name, value in item.items() if name != names[0]}, item[names[0]]
    if isinstance(item, tuple | list) and len(item) >= 2:
        *inputs, target = item
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), target
    kind = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
    raise ValueError(f"a sample must be a tuple of inputs and target, or a dict, got {kind}")
