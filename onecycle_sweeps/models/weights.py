"""Files of trained weights: read, or refused in one line that says how to get them."""

import difflib
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from onecycle_sweeps.models.transfer import Normalisation


def read(weights_file: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a saved state_dict, which can run no code.

    Raises ValueError for a file that is missing or is something else.
    """
    path = Path(weights_file).expanduser()
    if not path.is_file():
        raise ValueError(f"model.weights_file is the path of a file of weights, and there is none at {path.absolute()}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True).items())
    except Exception as error:  # torch and safetensors have none in common
        wanted = "a .safetensors file or a state_dict saved by torch"
        raise ValueError(f"model.weights_file must be {wanted}, whole, and {path.absolute()} is not") from error


def unavailable(net: str, place: str, error: Exception) -> ValueError:
    """What to say where weights cannot be fetched from `place`."""
    return ValueError(
        f"the weights of {net} could not be fetched ({reason(error)}): get {place} where there is internet, "
        "and give its path as model.weights_file"
    )


def unfit(net: str, weights_file: str, error: Exception) -> ValueError:
    """What to say where a file's tensors are not those of the net."""
    return ValueError(f"{weights_file} does not hold the weights of {net}: {reason(error)}")


def check_name(name: str, names: Sequence[str], library: str) -> None:
    """Raise ValueError, with names that are near, for a net that a library has not."""
    if name not in names:
        near = ", ".join(difflib.get_close_matches(str(name), names)) or names[0]
        raise ValueError(f"model.name must be a classification net of {library}, such as {near}, got {name!r}")


def in_uint8(mean: Sequence[float], std: Sequence[float]) -> Normalisation:
    """A normalisation of values in 0..1, for those in 0..255."""
    return tuple(255 * value for value in mean), tuple(255 * value for value in std)


def reason(error: Exception) -> str:
    """An error in one short line; torch says in its second which weights do not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else " ".join(lines[:1])
    return textwrap.shorten(said or type(error).__name__, 160, placeholder=" ...")
