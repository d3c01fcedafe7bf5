"""What all sides are given: the same first weights, images, batch order and schedule."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.trials import planned
from onecycle_sweeps import images, settings
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.images import Dataset, Source, Split
from onecycle_sweeps.plan import Trial
from onecycle_sweeps.sources import digits, idx

VALIDATION = 128
SEED = 0


@dataclass(frozen=True)
class Options:
    """What the command asked for; `scratch` is a folder that goes when its part has ended."""

    scratch: Path
    rounds: int = 5
    quick: bool = False
    trials: int = 24

    @property
    def data(self) -> str:
        """The data set that fits the sizes asked for."""
        return "digits" if self.quick else "fashion_mnist"


def excerpt(train: int, test: int, **of_set: Any) -> Source:
    """The first images of Fashion-MNIST, or of the digits, as a data set of their own."""
    whole = idx.load(**of_set) if of_set else digits.load()
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
        return planned(self.runs_dir, *self.overrides)

    @cached_property
    def data(self) -> Dataset:
        """The images as the program maps them."""
        config = self.trial.config
        cache = self.runs_dir / "data" / config["needs"]["data"]
        facts = images.prepare(settings.loader(config), cache, **settings.split(config))
        return images.load(cache, facts, self.device)

    @cached_property
    def order(self) -> list[Tensor]:
        """The positions of each batch's images, as the program draws them, epoch after epoch."""
        size = len(self.data.train)
        positions = Split(torch.empty(size, 0), torch.arange(size), torch.arange(size))
        drawn = images.batches(positions, self.batch_size, SEED)
        return [batch.to(self.device) for _, (_, batch) in zip(range(self.steps), drawn, strict=False)]

    def net(self) -> nn.Module:
        """A net with the first weights of the program's."""
        torch.manual_seed(SEED)
        facts = self.data.facts
        model = settings.build(
            "model", self.trial.config["model"], in_channels=facts.in_channels, num_classes=facts.num_classes
        )
        return model.to(self.device, memory_format=torch.channels_last)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised images and the labels at some positions of the training set."""
        train = self.data.train
        return self.data.normalise(train.images.index_select(0, index)), train.labels.index_select(0, index)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The few images that every side evaluates at its end."""
        yield self.data.normalise(self.data.val.images), self.data.val.labels

    def folder(self) -> TrialFolder:
        """The program's trial, as a command makes it before anything runs."""
        made = TrialFolder(self.runs_dir / self.trial.signature)
        shutil.rmtree(made.path, ignore_errors=True)
        made.create(self.trial.config)
        return made


def works(options: Options, task: str = "train") -> dict[str, Work]:
    """The two nets, the real one and the one-layer one, on Fashion-MNIST, or in quick mode on digits."""
    batch = 32 if options.quick else 128
    steps = 10 if options.quick else 468
    pixels = 64 if options.quick else 784
    # A config whose constructor takes no keys serves any net that takes none.
    nets = {
        "simple_cnn": ("model=simple_cnn", "model._target_=benchmarks.timed_nets.TimedCNN"),
        "one layer": ("model=lenet", "model._target_=benchmarks.timed_nets.TimedLinear", f"+model.pixels={pixels}"),
    }
    return {
        name: Work(
            options.scratch / "runs",
            (
                *(*net, f"data={options.data}", "data._target_=benchmarks.work.excerpt", f"task={task}", "max_lr=0.1"),
                *(f"+data.train={steps * batch}", f"+data.test={VALIDATION}", f"batch_size={batch}"),
                *("policy=onecycle", "epochs=1", f"seed={SEED}", "threads=1", "precision=fp32", "device=cpu"),
            ),
            steps,
            batch,
        )
        for name, net in nets.items()
    }
