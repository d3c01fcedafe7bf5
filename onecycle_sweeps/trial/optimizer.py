"""Builds the optimizer of a config node for a net: its param groups, and how it takes a closure."""

import inspect
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from onecycle_sweeps.config import nodes
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.scheduler import check_groups

# The rate of an optimizer that has no default; the policy sets another before the first step.
PLACEHOLDER_LR = 1e-3
# Keys of the node that are for the param groups or the loop, and not for the optimizer's class.
OURS = {"body_lr_scale": 1, "layer_decay": 1, "no_decay": False, "closure": False}

# The weights that trainings of this process have begun with, for as long as anything holds them.
_begun_with = WeakIdKeyDictionary()

Groups = Sequence[nn.Parameter] | list[dict[str, Any]]


def make_optimizer(node: Config, net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a config node for a net; where the node has a `beta2`, its `momentum` is beta1.

    `body_lr_scale` scales the rate of all but the net's head, `layer_decay` that of each layer once more for each layer
    above it (arXiv:1801.06146), and `no_decay` leaves biases and norms without weight decay.
    Raises ValueError for keys that the class does not take, and for a net that lacks what they need.
    """
    given = {key: value for key, value in node.items() if key not in (*OURS, "_target_")}
    create = nodes.located("optimizer._target_", node["_target_"])
    if "beta2" in given:
        given["betas"] = (given.pop("momentum"), given.pop("beta2"))
    takes = nodes.parameters(create)
    if "lr" in takes and takes["lr"].default is takes["lr"].empty:
        given["lr"] = PLACEHOLDER_LR
    nodes.check_arguments("optimizer", given, create, given=[*list(takes)[:1], "lr"])
    optimizer = create(param_groups(node, net, apart_matrices=getattr(create, "takes_matrices", False)), **given)
    check_groups(optimizer)
    return optimizer


def was_trained(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an earlier training of this process had some of its weights, which this one is about to train.

    A net that a module or a cache holds has them, and would begin where the earlier training ended.
    """
    weights = [one for group in optimizer.param_groups for one in group["params"]]
    found = any(one in _begun_with for one in weights)
    for one in weights:
        _begun_with[one] = True
    return found


def closure_of(node: Config) -> Literal["none", "required", "again"]:
    """How the optimizer is stepped (see `Learner`); the key `closure` decides if its class allows both ways."""
    create = nodes.located("optimizer._target_", node["_target_"])
    takes = inspect.signature(create.step).parameters.get("closure") if hasattr(create, "step") else None
    if takes is not None and takes.default is takes.empty:
        return "required"
    return "again" if node.get("closure", False) else "none"


def param_groups(node: Config, net: nn.Module, *, apart_matrices: bool = False) -> Groups:
    """The trained parameters, in groups where the node's keys treat them differently.

    `apart_matrices`: groups have the key `matrices`, true for the two-dimensional weights of hidden layers.
    """
    settings = {key: node.get(key, default) for key, default in OURS.items()}
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    scales = dict.fromkeys(trained, 1.0)
    if (scale := settings["body_lr_scale"]) != 1:
        scales = _of_body(net, trained, scale)
    if (decay := settings["layer_decay"]) != 1:
        scales = {name: scales[name] * factor for name, factor in _of_layers(net, trained, decay).items()}
    hidden = _hidden_matrices(net) if apart_matrices else set()
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in trained.items():
        special: dict[str, Any] = {"lr_scale": scales[name]} if scales[name] != 1 else {}
        if settings["no_decay"] and parameter.ndim < 2:
            special["weight_decay"] = 0.0
        if apart_matrices:
            special["matrices"] = id(parameter) in hidden
        groups.setdefault(tuple(special.items()), {"params": [], **special})["params"].append(parameter)
    # The first group is one whose rate is the policy's own.
    return list(trained.values()) if set(groups) == {()} else sorted(groups.values(), key=lambda g: "lr_scale" in g)


def _of_body(net: nn.Module, trained: dict[str, nn.Parameter], scale: float) -> dict[str, float]:
    """The scale of each parameter; raises ValueError for a net without a head, or without a body that is trained."""
    in_head = {id(parameter) for parameter in getattr(net, "head_parameters", list)()}
    scales = {name: 1.0 if id(parameter) in in_head else scale for name, parameter in trained.items()}
    if len(set(scales.values())) < 2:
        lacks = "a trained body" if 1.0 in scales.values() else "a separate head"
        raise ValueError(f"optimizer.body_lr_scale must be 1 for a model without {lacks}, got {scale}")
    return scales


def _of_layers(net: nn.Module, trained: dict[str, nn.Parameter], decay: float) -> dict[str, float]:
    """decay ** (layers above) for each parameter.

    The layers are those of the net's longest list of modules and of all lists whose names differ from its name only in
    numbers (layer1, layer2). A part without a matrix, such as a norm, belongs to the layer before it. What comes before
    the first layer counts as the layer below, and what comes after the last list as the layer above.
    """
    lists = {name: part for name, part in net.named_modules() if isinstance(part, nn.ModuleList | nn.Sequential)}
    longest = max(lists, key=lambda name: len(lists[name]), default="")
    depth_of, last = dict[str, int](), 0
    for name, part in lists.items():
        if _without_numbers(name) == _without_numbers(longest):
            for place, layer in part.named_children():
                last += any(parameter.ndim > 1 for parameter in layer.parameters())
                depth_of[f"{name}.{place}.".lstrip(".")] = last
    if last < 2:
        raise ValueError(f"optimizer.layer_decay must be 1 for a model without a list of layers, got {decay}")
    depths, depth = dict[str, int](), 0
    for parameter, _ in net.named_parameters():
        above = last + 1 if depth >= last else depth
        depth = next((at for start, at in depth_of.items() if parameter.startswith(start)), above)
        depths[parameter] = depth
    top = max(depths[parameter] for parameter in trained)
    return {parameter: decay ** (top - depths[parameter]) for parameter in trained}


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _hidden_matrices(net: nn.Module) -> set[int]:
    """The two-dimensional weights that are neither an embedding nor the last layer's, by their ids."""
    linear = [part for part in net.modules() if isinstance(part, nn.Linear)]
    embeddings = {id(part.weight) for part in net.modules() if isinstance(part, nn.Embedding)}
    return {id(part.weight) for part in linear[:-1]} - embeddings
