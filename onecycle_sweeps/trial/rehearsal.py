"""A rehearsal of a trial on a few samples: its net, transforms, one step, one evaluation and its optimizer."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onecycle_sweeps import datasets, scheduler
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.datasets import Facts, transforms
from onecycle_sweeps.images import ImageBatches, Split
from onecycle_sweeps.images.augmentation import Draws, EpochWords
from onecycle_sweeps.loop import Batches, Learner, evaluate, take_step
from onecycle_sweeps.measures import Measure, as_records
from onecycle_sweeps.policies import Hyper
from onecycle_sweeps.samples import SampleFacts
from onecycle_sweeps.samples.nested import leaves
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.trial import build
from onecycle_sweeps.trial.optimizer import closure_of, make_optimizer
from onecycle_sweeps.validation import kind_of

SAMPLES = 2
Batch = tuple[Any, Any]
NEEDS_GPU = re.compile("cuda|nvidia|triton", re.IGNORECASE)


class Rehearsal:
    """Rehearses one config after the other; a net that consecutive ones share is tried once, each optimizer separately.

    The samples are the first of the data; images are noise in their shape. The CPU is tried first, then a GPU if that
    fails.
    """

    def __init__(self) -> None:
        self._tried = ""
        self._learner: tuple[Learner, Batch] | None = None

    def attempt(self, config: Config, facts: Facts, *, elsewhere: bool = False) -> Measure | None:
        """The measure that a trial is judged by; raises ValueError, in one line, if it cannot take a step.

        A trial that will run `elsewhere` is accepted, with None, if it fails only because this machine has no GPU.
        """
        try:
            return self._attempt(config, facts, "cpu")
        except ValueError as error:
            if config["device"] == "cpu":
                raise
            if torch.cuda.is_available():
                return self._attempt(config, facts, "cuda")
            if not elsewhere or not NEEDS_GPU.search(str(error)):
                raise
        return None

    def _attempt(self, config: Config, facts: Facts, device: str) -> Measure:
        node = config["optimizer"]
        with torch.random.fork_rng(devices=[]):
            learner, batch = self._trained(config, facts, device)
            with _reporting("optimizer", "optimizer cannot be built", node):
                optimizer = make_optimizer(node, learner.model)
                trained = replace(learner, optimizer=optimizer, closure=closure_of(node))
            scheduler.apply(optimizer, _first(config, facts))
            with _reporting("optimizer", "optimizer cannot take a step", node):
                trained.train()
                take_step(trained, [batch], has_gradients=True)
        return learner.objective.measures[0]

    def _trained(self, config: Config, facts: Facts, device: str) -> tuple[Learner, Batch]:
        """A learner whose net has the gradients of a batch, and that batch."""
        settings = [config.get(key) for key in ("model", "data", "objective", "precision", schema.ENV_SET)]
        settings += [closure_of(config["optimizer"]), min(SAMPLES, config["batch_size"]), device]
        key = json.dumps([settings, asdict(facts)], sort_keys=True)
        if self._learner is None or self._tried != key:
            # Only one net at a time is kept in memory.
            self._learner = None
            self._learner, self._tried = _with_gradients(config, facts, device), key
        return self._learner


def _with_gradients(config: Config, facts: Facts, device: str) -> tuple[Learner, Batch]:
    node = config["model"]
    with _reporting("objective", "objective cannot be built", build.objective_node(config)):
        offered = build.offered_by(config, facts)
        objective = build.make_objective(config, offered)
        as_records(objective.measures)
    with _reporting("model", "model cannot be built", node):
        net = build.make_net(config, offered)
    if not isinstance(net, nn.Module):
        raise ValueError(f"model._target_={node['_target_']} must make a torch.nn.Module, got {kind_of(net)}")
    if lazy := [name for name, one in net.named_parameters() if is_lazy(one)]:
        raise ValueError(
            f"model._target_={node['_target_']} must know the shapes of its parameters, and {lazy[0]} is of a lazy "
            "module that was not called: call it in the constructor, with zeros in the shape of a batch"
        )
    with _reporting("model", "model.normalisation must be the means and deviations of the channels", node):
        data = _few(config, facts, getattr(net, "normalisation", None), device)
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError(f"model._target_={node['_target_']} must have a parameter that requires a gradient")
    net = build.on_device(net, device, channels_last=closure_of(config["optimizer"]) != "required")
    if isinstance(data, ImageBatches):
        inputs, targets = data.normalise(_augmented(data)), data.train.labels
    else:
        with _reporting("data", "no batch can be made of the data"):
            inputs, targets = next(data.train_batches(0))
    named = {"images": inputs} if isinstance(data, ImageBatches) else leaves(inputs)
    shapes = ", ".join(_described(name, tensor) for name, tensor in named.items())
    # Not used: the optimizer is rehearsed separately.
    unused = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    learner = Learner(net, unused, data, objective, 0, bf16=config["precision"] == "bf16")
    net.train()
    with _reporting("model", f"model cannot be trained on {shapes}", node):
        if mix := build.make_mixing(config, offered):
            inputs, targets = mix(inputs, targets, 0, 0)
        loss, _ = objective.training(_outputs(learner, inputs, targets, node), targets)
        loss.backward()
    with _reporting("model", f"model cannot be evaluated on {shapes}", node), torch.no_grad():
        net.eval()
        for given, wanted in data.part_batches("val"):
            _outputs(learner, given, wanted, node)
        evaluate(learner, "val")
    net.train()
    return learner, (inputs, targets)


def _few(config: Config, facts: Facts, normalisation: Any, device: str) -> Batches:
    """A few samples of the data set as one batch: the first ones, or random images in its shape."""
    count = min(SAMPLES, config["batch_size"])
    if isinstance(facts, SampleFacts):
        source = nodes.loader(config)()
        return datasets.load_samples(source, facts, config, device, build.target_form(config)).few(count)
    facts = build.normalised(facts, normalisation)
    images = torch.randint(0, 256, (count, facts.in_channels, facts.height, facts.width), dtype=torch.uint8)
    numbers = torch.arange(count)
    part = Split(images.to(device), (numbers % facts.num_classes).to(device), numbers.to(device))
    data = replace(ImageBatches(part, part, None, facts, count), **transforms(config, facts))
    data.normalise(data.train.images)
    return data


def _described(name: str, given: Any) -> str:
    """An input of the net with its shape, and a hint if it is whole numbers that were perhaps not meant as tokens."""
    if not isinstance(given, Tensor):
        return f"{name}, {kind_of(given)}"
    whole = "" if given.is_floating_point() else " of whole numbers, which are tokens (save others as float32)"
    return f"{name} of shape {tuple(given.shape)}{whole}"


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
    return nodes.policy(config, schema.max_lr(config), schema.steps_per_epoch(config, facts.train))(0)


def _outputs(learner: Learner, inputs: Any, targets: Any, node: Config) -> Any:
    """The outputs of the net for a batch; raises ValueError where the objective cannot take them."""
    outputs = learner.outputs(inputs)
    try:
        learner.objective.check(outputs, targets, learner.data.offered)
    except ValueError as error:
        raise ValueError(f"model._target_={node['_target_']} {error}") from None
    return outputs


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
