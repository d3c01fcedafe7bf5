"""Any classification net of torchvision by its name, pretrained or not, with a new last layer."""

import re
from typing import Any

from torch import Tensor, nn
from torchvision import models

from onecycle_sweeps.models.transfer import Transfer, check_name, in_uint8, read, unavailable, unfit

# Nets whose output is a tuple in training mode, unless they are built without their auxiliary heads.
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def torchvision_model(
    in_channels: int,
    num_classes: int,
    name: str,
    pretrained: bool = False,
    weights_file: str | None = None,
    freeze: str | None = None,
    **options: Any,
) -> Transfer:
    """torchvision's net `name`; `options` go to its constructor.

    `pretrained` downloads torchvision's default weights, unless `weights_file` is a file of them; the last layer is new
    in both cases. With neither, all weights are random.
    Raises ValueError, in one line, for a name that torchvision does not have and for weights that cannot be loaded.
    """
    check_name(name, models.list_models(module=models), "torchvision")
    if name in WITH_AUXILIARY_HEADS:
        options = {"aux_logits": False, "init_weights": True} | options
    if not pretrained and weights_file is None:
        net = models.get_model(name, weights=None, num_classes=num_classes, **options)
        return Transfer(net, [net.get_submodule(last_layer(net))], in_channels, freeze=freeze)
    known: Any = models.get_model_weights(name)
    weights = known.DEFAULT
    state = _fetched(name, weights) if weights_file is None else read(weights_file)
    if name in WITH_AUXILIARY_HEADS:
        options = {"transform_input": True} | options
    net = models.get_model(name, weights=None, **options)
    try:
        net.load_state_dict(_fitted(state, net))
    except RuntimeError as error:
        raise unfit(f"torchvision's {name}", weights_file or weights.url, error) from error
    shown = weights.transforms()
    head = renew_last_layer(net, num_classes)
    return Transfer(net, [head], in_channels, trained_with=in_uint8(shown.mean, shown.std), freeze=freeze)


def last_layer(net: nn.Module) -> str:
    """The name of the last layer: in torchvision the last module that is linear or a convolution."""
    return [name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def renew_last_layer(net: nn.Module, num_classes: int) -> nn.Module:
    """Replace the last layer by a new one with `num_classes` scores; returns it."""
    name = last_layer(net)
    last = net.get_submodule(name)
    if isinstance(last, nn.Linear):
        fresh: nn.Module = nn.Linear(last.in_features, num_classes, bias=last.bias is not None)
    else:
        assert isinstance(last, nn.Conv2d)
        fresh = nn.Conv2d(last.in_channels, num_classes, 1)
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, fresh)
    return fresh


def _fetched(name: str, weights: Any) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise unavailable(f"torchvision's {name}", weights.url, error) from error


def _fitted(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """A file's tensors by the net's names, with the last layer of the net."""
    head = f"{last_layer(net)}."
    # Auxiliary heads are not built; torchvision's files of DenseNets have names of an earlier version.
    body = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key): tensor
        for key, tensor in state.items()
        if not key.startswith((head, "aux1.", "aux2.", "AuxLogits."))
    }
    return body | {key: tensor for key, tensor in net.state_dict().items() if key.startswith(head)}
