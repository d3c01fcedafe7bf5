"""Nets of other libraries, prepared for fine-tuning: body and head, normalisation, and files of trained weights."""

import difflib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


class Transfer(nn.Module):
    """(N, in_channels, H, W) -> the scores of `net`, whose last part is the module or modules `head`.

    `trained_with` is the (mean, std) of each channel, in the units of uint8, that the weights were trained with; None
    for random weights, for which the training set's statistics are used. A net for 3 channels also takes grey images,
    which are repeated in all three. `normalisation` is what the images must be normalised with.
    `freeze="body"` trains only the head: no other parameter requires a gradient, and the batch norms outside the head
    keep their statistics. The state_dict is that of `net`.
    Raises ValueError for another number of channels, another `freeze`, or a frozen body with random weights.
    """

    def __init__(
        self,
        net: nn.Module,
        head: Iterable[nn.Module],
        in_channels: int,
        net_channels: int = 3,
        trained_with: Normalisation | None = None,
        freeze: str | None = None,
    ) -> None:
        super().__init__()
        if in_channels not in (1, net_channels):
            raise ValueError(f"the model needs images with 1 or {net_channels} channels, got {in_channels}")
        if freeze not in (None, "body"):
            raise ValueError(f"model.freeze must be null or body, got {freeze!r}")
        if freeze and trained_with is None:
            raise ValueError("model.freeze=body needs trained weights: set model.pretrained=true or model.weights_file")
        repeats = in_channels != net_channels
        self.entrance = RepeatGrey(net_channels, trained_with) if repeats else nn.Identity()
        self.net = net
        self.normalisation = _of_grey(trained_with) if repeats else trained_with
        # In a tuple, because a module that is an attribute would be registered a second time.
        self._head = tuple(head)
        self._frozen = tuple(self._body_norms()) if freeze else ()
        if freeze:
            net.requires_grad_(False)
            for parameter in self.head_parameters():
                parameter.requires_grad_(True)

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of the head; all others are the body's."""
        return [parameter for module in self._head for parameter in module.parameters()]

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.entrance(images))

    def train(self, mode: bool = True) -> "Transfer":
        """Set the mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._frozen:
            norm.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The state_dict of the net."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state_dict of the net."""
        return self.net.load_state_dict(state_dict, strict, assign)

    def _body_norms(self) -> Iterable[nn.Module]:
        in_head = {id(module) for top in self._head for module in top.modules()}
        norms = (module for module in self.net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        return (norm for norm in norms if id(norm) not in in_head)


class RepeatGrey(nn.Module):
    """(N, 1, H, W), normalised as grey -> (N, channels, H, W), each channel normalised as the net was trained with."""

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int, trained_with: Normalisation | None) -> None:
        super().__init__()
        scale, shift = torch.ones(channels), torch.zeros(channels)
        if grey := _of_grey(trained_with):
            (mean,), (std,) = grey
            means, stds = torch.tensor(trained_with)
            scale, shift = std / stds, (mean - means) / stds
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", shift.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale).contiguous(memory_format=torch.channels_last)


def _of_grey(normalisation: Normalisation | None) -> Normalisation | None:
    """The mean and the deviation for a grey image: those of the channels, averaged."""
    if normalisation is None:
        return None
    mean, std = ((sum(values) / len(values),) for values in normalisation)
    return mean, std


def read(weights_file: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a saved state_dict, loaded without running code.

    Raises ValueError for a missing file or another kind of file.
    """
    path = Path(weights_file).expanduser()
    if not path.is_file():
        raise ValueError(
            f"model.weights_file must be the path of a file of weights, got {path.absolute()}: no such file"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True).items())
    except Exception as error:  # torch and safetensors have no error class in common
        wanted = "a complete .safetensors file or a state_dict saved by torch"
        raise ValueError(f"model.weights_file must be {wanted}, got {path.absolute()}: {reason(error)}") from error


def unavailable(net: str, place: str, error: Exception) -> ValueError:
    """The error for weights that cannot be fetched from `place`."""
    return ValueError(
        f"the weights of {net} could not be downloaded ({reason(error)}): download {place} on a machine with internet "
        "access and set model.weights_file to its path"
    )


def unfit(net: str, weights_file: str, error: Exception) -> ValueError:
    """The error for a file whose tensors are not those of the net."""
    return ValueError(f"{weights_file} does not have the weights of {net}: {reason(error)}")


def check_name(name: str, names: Sequence[str], library: str) -> None:
    """Raise ValueError, with similar names, for a net that a library does not have."""
    if name not in names:
        near = ", ".join(difflib.get_close_matches(str(name), names)) or names[0]
        raise ValueError(f"model.name must be a classification net of {library}, such as {near}, got {name!r}")


def in_uint8(mean: Sequence[float], std: Sequence[float]) -> Normalisation:
    """A normalisation for values in 0..255, from one for values in 0..1."""
    return tuple(255 * value for value in mean), tuple(255 * value for value in std)


def reason(error: Exception) -> str:
    """An error in one short line; the second line of torch's message names the weights that do not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else " ".join(lines[:1])
    return textwrap.shorten(line or type(error).__name__, 160, placeholder=" ...")
