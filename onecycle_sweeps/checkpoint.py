"""A trial's state at one step: a dict in a file that is replaced atomically and loaded without running code."""

import copy
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from onecycle_sweeps import files


class Corrupt(Exception):
    """The file is not a complete checkpoint."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint durably; on an error the previous one is kept."""
    files.write(path, packed(files.with_format(state)))


def packed(state: dict[str, Any]) -> memoryview:
    """The bytes of a checkpoint file; `files` writes them, because torch hides why a write fails."""
    torch.save(_compact(state), content := io.BytesIO())
    return content.getbuffer()


def _compact(value: Any) -> Any:
    """The value with copies of tensors that are parts of larger ones, which torch would save whole."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    if isinstance(value, dict):
        # The kind of a mapping, such as a state_dict's with its metadata, is kept.
        compact = copy.copy(value)
        compact.update({key: _compact(inner) for key, inner in value.items()})
        return compact
    return type(value)(map(_compact, value)) if type(value) in (list, tuple) else value


def check_loadable(value: Any) -> None:
    """Raise what torch raises for a value that `load` would refuse; the content of tensors is left out."""
    torch.load(io.BytesIO(packed({"value": _without_content(value)})), weights_only=True)


def _without_content(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().new_empty(0)
    if type(value) is dict:
        return {key: _without_content(inner) for key, inner in value.items()}
    return [_without_content(inner) for inner in value] if type(value) in (list, tuple) else value


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The saved state; None if there is none. Raises Corrupt if the file is incomplete or not a checkpoint."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Corrupt(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, dict) or "step" not in state:
        raise Corrupt(f"{path} is not a checkpoint: it has no step")
    if (found := state.pop("format", 0)) != files.FORMAT:
        raise Corrupt(f"{path} has format {found}, and this version of the program resumes from {files.FORMAT}")
    return state
