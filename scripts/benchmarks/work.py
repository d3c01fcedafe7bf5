"""A training that every side of a comparison does: the same first weights, images, batch order and schedule."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import program
from benchmarks.costs import Cost
from benchmarks.program import Points
from benchmarks.stopwatch import stopwatch
from onecycle_sweeps import images
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.images import Source, Split
from onecycle_sweeps.planning import Trial
from onecycle_sweeps.sources import digits, idx
from onecycle_sweeps.trial_folder import TrialFolder

VALIDATION = 128
SEED = 0


@dataclass(frozen=True)
class Options:
    """The options of the command; `scratch` is a folder that is removed at the end of the part."""

    scratch: Path
    rounds: int = 5
    quick: bool = False
    trials: int = 24

    @property
    def data(self) -> str:
        return "digits" if self.quick else "fashion_mnist"


def excerpt(train: int, test: int, **files: Any) -> Source:
    """The first images of Fashion-MNIST, or without `files` of the digits."""
    whole = idx.load(**files) if files else digits.load()
    return Source(
        whole.train_images[:train],  # pyright: ignore[reportIndexIssue]
        whole.train_labels[:train],
        whole.test_images[:test],  # pyright: ignore[reportIndexIssue]
        whole.test_labels[:test],
        whole.class_names,
    )


@dataclass(frozen=True)
class Work:
    """One net's training on an excerpt of a data set: `steps` batches of `batch_size`, one thread, fp32."""

    runs_dir: Path
    overrides: tuple[str, ...]
    steps: int
    batch_size: int
    max_lr: float = 0.1
    device: str = "cpu"

    @cached_property
    def trial(self) -> Trial:
        """The program's trial of this work."""
        return program.planned(self.runs_dir, *self.overrides)

    @cached_property
    def data(self) -> images.ImageBatches:
        """The images as the program maps them."""
        config = self.trial.config
        cache = self.runs_dir / "data" / config["needs"]["data"]
        facts = images.prepare(nodes.loader(config), cache, **schema.split(config))
        return images.load(cache, facts, self.batch_size, self.device)

    @cached_property
    def order(self) -> list[Tensor]:
        """The indices of each batch's images, in the order in which the program draws them."""
        size = len(self.data.train)
        positions = Split(torch.empty(size, 0), torch.arange(size), torch.arange(size))
        drawn = images.batches(positions, self.batch_size, SEED)
        return [batch.to(self.device) for _, (_, batch) in zip(range(self.steps), drawn, strict=False)]

    def net(self) -> nn.Module:
        """The net with the program's first weights."""
        facts = self.data.facts
        return program.net(self.trial.config["model"], facts.in_channels, facts.num_classes).to(self.device)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised training images and their labels."""
        train = self.data.train
        return self.data.normalise(train.images.index_select(0, index)), train.labels.index_select(0, index)

    def validation(self) -> tuple[Tensor, Tensor]:
        """The one batch that every side evaluates at its end."""
        return self.data.normalise(self.data.val.images), self.data.val.labels

    def loader(self) -> DataLoader:
        """The fastest loader that fastai and Lightning take: whole batches from tensors in memory."""
        return DataLoader(_WholeBatches(self), sampler=self.order, batch_size=None)  # pyright: ignore

    def validation_loader(self) -> DataLoader:
        """The loader of the evaluation's batch."""
        return DataLoader([self.validation()], batch_size=None)  # pyright: ignore[reportArgumentType]

    def folder(self) -> TrialFolder:
        """The folder of the program's trial, before anything has run."""
        made = TrialFolder(self.runs_dir / self.trial.signature)
        shutil.rmtree(made.path, ignore_errors=True)
        made.create(self.trial.config)
        return made


@dataclass(frozen=True)
class _WholeBatches:
    work: Work

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.work.batch(index)


@dataclass(frozen=True)
class Side:
    """One way to train a work; `logs` are the metrics that it claims to log at every step."""

    name: str
    train: Callable[[Work], tuple[Cost, Points]]
    logs: Sequence[str] = ()

    def run(self, work: Work) -> Cost:
        """The cost of a step; raises Incomplete unless every metric in `logs` has each step exactly once."""
        stopwatch.passes = 0
        cost, points = self.train(work)
        program.check_steps(self.name, points, self.logs, work.steps)
        return cost


def works(options: Options, task: str = "train") -> dict[str, Work]:
    """A real net and one of a single layer, on Fashion-MNIST, or in quick mode on digits."""
    batch, steps, pixels = (32, 10, 64) if options.quick else (128, 468, 784)
    # The config of a net without keys serves any net without keys.
    nets = {
        "simple_cnn": ("model=simple_cnn", "model._target_=benchmarks.stopwatch.TimedCNN"),
        "one layer": ("model=lenet", "model._target_=benchmarks.stopwatch.TimedLinear", f"+model.pixels={pixels}"),
    }
    shared = (
        *(f"data={options.data}", "data._target_=benchmarks.work.excerpt", f"task={task}", "max_lr=0.1"),
        *(f"+data.train={steps * batch}", f"+data.test={VALIDATION}", f"batch_size={batch}"),
        *("policy=onecycle", "epochs=1", f"seed={SEED}", "threads=1", "precision=fp32", "device=cpu"),
    )
    return {name: Work(options.scratch / "runs", (*node, *shared), steps, batch) for name, node in nets.items()}
