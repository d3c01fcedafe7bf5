"""Arrays of any shape from a .npz or .safetensors file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from onecycle_sweeps.samples import Part, Rows
from onecycle_sweeps.samples.nested import apart
from onecycle_sweeps.terminal import first_few

PARTS = ("train", "val", "test")
PREFIXES = tuple(f"{part}_" for part in PARTS)


def load(path: str, label: str | None = None) -> Rows:
    """The arrays `x` and `y` of a file, or `train_x`, `train_y`, `val_x`, `test_x` and so on if it has several parts.

    The target is the array `label`, by default labels, label, target or y. One array beside it is the net's input, and
    several are its keyword arguments. Raises ValueError for a file that is missing or has no such arrays, and for an
    array such as `valid_x` that would be left out beside `train_x`.
    """
    arrays = _read(Path(path).expanduser())
    of_parts = {part: _of_part(arrays, part) for part in PARTS}
    found = {part: one for part, one in of_parts.items() if one} or {"train": dict(arrays)}
    if "train" not in found:
        raise ValueError(f"{path} must have arrays of a training part, train_..., got {', '.join(arrays)}")
    of_train = of_parts["train"]
    if odd := [name for name in arrays if _is_like(name, of_train) and not name.startswith(PREFIXES)]:
        raise ValueError(
            f"{path} has {odd[0]} beside train_{next(iter(of_train))}: begin the names of all arrays with "
            f"{first_few(list(PREFIXES))}"
        )
    train, val, test = (_part(found[part], label) if part in found else None for part in PARTS)
    assert train is not None
    return Rows(train, val, test, label=label or "the target", unit="samples")


def _read(file: Path) -> Mapping[str, np.ndarray]:
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as content:
                return dict(content)
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(file)
    except Exception as error:  # zip, NumPy and safetensors have no class of errors in common
        raise ValueError(f"{file} cannot be read as arrays: {' '.join(str(error).split())}") from error
    raise ValueError(f"data.path must be a .npz or .safetensors file, got {file}")


def _is_like(name: str, of_train: Iterable[str]) -> bool:
    """Whether an array is named as one of the training part is, with any other word before it or none."""
    return any(name == one or name.endswith(f"_{one}") for one in of_train)


def _of_part(arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{part}_"): array for name, array in arrays.items() if name.startswith(f"{part}_")}


def _part(arrays: dict[str, np.ndarray], label: str | None) -> Part:
    inputs, targets = apart(arrays, label)
    if not inputs:
        raise ValueError(f"the arrays must have inputs beside the target, and are {', '.join(arrays)} alone")
    return Part(next(iter(inputs.values())) if len(inputs) == 1 else inputs, targets)
