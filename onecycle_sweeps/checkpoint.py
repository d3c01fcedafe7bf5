"""A trial's state at one step: one dict in one file, replaced whole, loaded without running code."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch


class Corrupt(Exception):
    """The file is not a whole checkpoint."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint by a durable new one; on an error the old one stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    # torch would hide why a write fails, such as a disk that is full.
    torch.save(state, content := io.BytesIO())
    try:
        with part.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The saved state, None where there is none; raises Corrupt for a file that is torn or is something else."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Corrupt(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, dict) or "step" not in state:
        raise Corrupt(f"{path} is not a checkpoint: it has no step")
    return state
