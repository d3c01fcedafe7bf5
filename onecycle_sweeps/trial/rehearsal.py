"""A rehearsal of a trial on random images: its net, transforms, one step, one evaluation and its optimizer."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from onecycle_sweeps import scheduler
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.images import Facts, ImageBatches, Split
from onecycle_sweeps.images.augmentation import Draws, EpochWords
from onecycle_sweeps.images.transforms import transforms
from onecycle_sweeps.loop import Learner, evaluate
from onecycle_sweeps.policies import Hyper
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.trial import build
from onecycle_sweeps.validation import kind_of

SAMPLES = 2
NEEDS_GPU = re.compile("cuda|nvidia|triton", re.IGNORECASE)


class Rehearsal:
    """Rehearses configs in turn; a net that consecutive configs share is tried once, each optimizer separately.

    The images are noise in the shape of the data. The CPU is tried first, then a GPU if that fails.
    """

    def __init__(self) -> None:
        self._tried = ""
        self._net: nn.Module | None = None

    def attempt(self, config: Config, facts: Facts, *, elsewhere: bool = False) -> None:
        """Raise ValueError, in one line, for a trial that cannot take a step.

        A trial that will run `elsewhere` is accepted if it fails only because this machine has no GPU.
        """
        try:
            self._attempt(config, facts, "cpu")
        except ValueError as error:
            if config["device"] == "cpu":
                raise
            if torch.cuda.is_available():
                self._attempt(config, facts, "cuda")
            elif not elsewhere or not NEEDS_GPU.search(str(error)):
                raise

    def _attempt(self, config: Config, facts: Facts, device: str) -> None:
        with torch.random.fork_rng(devices=[]):
            net = self._trained(config, facts, device)
            with _reporting("optimizer", "optimizer cannot be built", config["optimizer"]):
                optimizer = build.make_optimizer(config["optimizer"], net)
            scheduler.apply(optimizer, _first(config, facts))
            with _reporting("optimizer", "optimizer cannot take a step", config["optimizer"]):
                optimizer.step()

    def _trained(self, config: Config, facts: Facts, device: str) -> nn.Module:
        """The config's net with the gradients of a batch."""
        settings = [config.get(key) for key in ("model", "data", "precision", schema.ENV_SET)]
        key = json.dumps([settings, min(SAMPLES, config["batch_size"]), device, asdict(facts)], sort_keys=True)
        if self._net is None or self._tried != key:
            # Only one net at a time is kept in memory.
            self._net = None
            self._net, self._tried = _with_gradients(config, facts, device), key
        return self._net


def _with_gradients(config: Config, facts: Facts, device: str) -> nn.Module:
    node = config["model"]
    with _reporting("model", "model cannot be built", node):
        net = build.make_net(config, facts.offered)
    if not isinstance(net, nn.Module):
        raise ValueError(f"model._target_={node['_target_']} must make a torch.nn.Module, got {kind_of(net)}")
    with _reporting("model", "model.normalisation must be the means and deviations of the channels", node):
        data = _noise(config, build.normalised(facts, getattr(net, "normalisation", None)), device)
        data.normalise(data.train.images)
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError(f"model._target_={node['_target_']} must have a parameter that requires a gradient")
    net = net.to(device).to(memory_format=torch.channels_last)
    images = _augmented(data)
    # Not used: the optimizer is rehearsed separately.
    unused = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    learner = Learner(net, unused, data, build.make_objective(config), 0, bf16=config["precision"] == "bf16")
    labels = data.train.labels
    with _outputs_checked(learner, f"model._target_={node['_target_']}", labels):
        net.train()
        with _reporting("model", f"model cannot be trained on images of shape {tuple(images.shape)}", node):
            loss, _ = learner.objective.training(learner.outputs(data.normalise(images)), labels)
            loss.backward()
        with _reporting("model", f"model cannot be evaluated on images of shape {tuple(data.val.images.shape)}", node):
            evaluate(learner, "val")
        net.train()
    return net


def _noise(config: Config, facts: Facts, device: str) -> ImageBatches:
    """A few random images in the shape of the data set."""
    count = min(SAMPLES, config["batch_size"])
    images = torch.randint(0, 256, (count, facts.in_channels, facts.height, facts.width), dtype=torch.uint8)
    numbers = torch.arange(count)
    part = Split(images.to(device), (numbers % facts.num_classes).to(device), numbers.to(device))
    return replace(ImageBatches(part, part, None, facts, count), **transforms(config, facts))


def _augmented(data: ImageBatches) -> Tensor:
    """The training images after their transforms; raises ValueError for a transform that cannot process them."""
    images, count = data.train.images, len(data.train)
    for place, transform in enumerate(data.augment):
        name = f"data.augment[{place}]"
        with _reporting("data", f"{name} cannot take images of shape {tuple(images.shape)}"):
            result: Any = transform(images, Draws(EpochWords(0, 0, place, count, images.device), data.train.index))
        if not isinstance(result, Tensor) or result.dtype != torch.uint8:
            raise ValueError(f"{name} must return uint8 images, got {kind_of(result)}")
        if result.ndim != 4 or result.shape[:2] != (count, data.facts.in_channels):
            wanted = f"({count}, {data.facts.in_channels}, height, width)"
            raise ValueError(f"{name} must return images of shape {wanted}, got {tuple(result.shape)}")
        images = result
    return images


def _first(config: Config, facts: Facts) -> Hyper:
    """The learning rate and momentum of the trial's first step."""
    if config["task"] == "range_test":
        return Hyper(config["range_test"]["end_lr"])
    return nodes.policy(config, schema.max_lr(config), facts.train // config["batch_size"])(0)


@contextmanager
def _outputs_checked(learner: Learner, name: str, targets: Tensor) -> Iterator[None]:
    """Within this context the objective checks each output of the net."""

    def check(_: nn.Module, __: Any, outputs: Any) -> None:
        try:
            learner.objective.check(outputs, targets, learner.data.offered)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None

    handle = learner.model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _reporting(section: str, what: str, node: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turn any exception into a ValueError of one line; `node` is the config's section.

    A ValueError of one line keeps its message, after the name of the section if it begins with a key of the node.
    The message of any other exception is put between `what` and the settings of the node.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        message = in_one_line(error)
        if isinstance(error, ValueError) and message == " ".join(str(error).split()):
            begins_with_key = message.split(" ", 1)[0] in (node or {})
            raise ValueError(f"{section}.{message}" if begins_with_key else message) from error
        keys = ", ".join(f"{key}={value!r}" for key, value in (node or {}).items() if not key.startswith("_"))
        built_by = f"; it is {node['_target_']}({keys})" if node else ""
        raise ValueError(f"{what}: {message}{built_by}") from error
