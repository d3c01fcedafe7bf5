"""A training that every side of a comparison does: the same first weights, images, batch order and schedule."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.page import not_installed
from benchmarks.timing import Cost, Rounds, interleaved, stopwatch
from onecycle_sweeps import command_line, composing, datasets, images
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.images import Source, Split
from onecycle_sweeps.journal import LR, MOMENTUM, TRAIN_LOSS
from onecycle_sweeps.planning import Planner, Request, Trial
from onecycle_sweeps.sources import digits, idx
from onecycle_sweeps.trial import build
from onecycle_sweeps.trial_folder import TrialFolder

# The metrics that the program logs at every step.
STEP_METRICS = (LR, MOMENTUM, TRAIN_LOSS)
VALIDATION, SEED = 128, 0
# The steps at which each metric was logged.
Points = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Options:
    """The options of the command; `scratch` is a folder that is removed at the end of the part, `out` stays.

    `pairs` are parts of the names of the pairs that the part verdict measures, all if there are none.
    """

    scratch: Path
    rounds: int = 5
    quick: bool = False
    trials: int | None = None
    out: Path = Path("benchmark")
    pairs: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        return "digits" if self.quick else "fashion_mnist"

    @property
    def warm(self) -> int:
        """How many rounds are run first and not counted."""
        return 0 if self.quick else 1

    @property
    def turns(self) -> str:
        return f"Medians of {self.rounds} rounds in which all rows take turns."


class Incomplete(Exception):
    """A side did not log every point that it claims to log."""


def check_steps(name: str, points: Points, metrics: Sequence[str], steps: int) -> None:
    """Raise Incomplete unless each metric has each step exactly once."""
    for metric in metrics:
        found = points.get(metric, ())
        if list(found) != list(range(steps)):
            raise Incomplete(f"{name} has {metric} of {len(set(found))} steps, and must have each of {steps} once")


def request(runs_dir: Path, *overrides: str) -> Request:
    """The request that the program composes from some overrides."""
    with initialize_config_dir(str(command_line.CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    content = composing.plain(config) | {"runs_dir": str(runs_dir)}
    return Request(content, overrides, dict(config.hydra.runtime.choices))


def planned(runs_dir: Path, *overrides: str) -> Trial:
    """The trial of some overrides."""
    return Planner(runs_dir).plan(request(runs_dir, *overrides))


def excerpt(train: int, test: int, **files: Any) -> Source:
    """The first images of Fashion-MNIST, or without `files` of the digits."""
    whole: Any = idx.load(**files) if files else digits.load()
    train_part = whole.train_images[:train], whole.train_labels[:train]
    return Source(*train_part, whole.test_images[:test], whole.test_labels[:test], whole.class_names)


@dataclass(frozen=True)
class Work:
    """A training or a range test; of image data, an index tensor gets a training batch."""

    runs_dir: Path
    overrides: tuple[str, ...]

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        train = self.data.train
        return self.data.normalise(train.images.index_select(0, index)), train.labels.index_select(0, index)

    @cached_property
    def trial(self) -> Trial:
        return planned(self.runs_dir, *self.overrides)

    @property
    def config(self) -> dict[str, Any]:
        return self.trial.config

    @property
    def steps(self) -> int:
        if self.config["task"] == "range_test":
            return self.config["range_test"]["steps"]
        return self.config["epochs"] * (self.data.sizes["train"] // self.config["batch_size"])

    @cached_property
    def data(self) -> Any:
        cache = self.runs_dir / "data" / self.config["needs"]["data"]
        facts = datasets.prepare(nodes.loader(self.config), cache, **schema.split(self.config))
        folder = TrialFolder(self.runs_dir / self.trial.signature)
        return build.load_data(folder, self.config, facts, {"device": self.config["device"]})

    @cached_property
    def order(self) -> list[Tensor]:
        """The indices of each batch's images, in the order in which the program draws them."""
        size = len(self.data.train)
        positions = Split(torch.empty(size, 0), torch.arange(size), torch.arange(size))
        drawn = images.batches(positions, self.config["batch_size"], SEED)
        return [batch.to(self.config["device"]) for _, batch in islice(drawn, self.steps)]

    def net(self) -> nn.Module:
        """The net with the program's first weights."""
        net = build.make_net(self.config, self.data.offered, SEED)
        return net.to(self.config["device"], memory_format=torch.channels_last)

    def validation(self) -> tuple[Tensor, Tensor]:
        """The one batch of images that every side evaluates at its end."""
        return self.data.normalise(self.data.val.images), self.data.val.labels

    def loaders(self) -> tuple[DataLoader, DataLoader]:
        """The fastest loaders that peers take, of whole batches from tensors in memory: training and evaluation."""
        train: Any = self
        evaluated: Any = [self.validation()]
        return DataLoader(train, sampler=self.order, batch_size=None), DataLoader(evaluated, batch_size=None)

    def folder(self) -> TrialFolder:
        """The folder of the program's trial, before anything has run."""
        made = TrialFolder(self.runs_dir / self.trial.signature)
        shutil.rmtree(made.path, ignore_errors=True)
        made.create(self.config)
        return made


@dataclass(frozen=True)
class Side:
    """One way to train; `logs` are the metrics that it claims to log at every step, `needs` a peer's package."""

    name: str
    train: Callable[[Work], tuple[Cost, Points]]
    logs: Sequence[str] = ()
    needs: str = ""

    def run(self, work: Work) -> Cost:
        """The cost of a step; raises Incomplete unless every metric in `logs` has each step exactly once."""
        stopwatch.passes = 0
        cost, points = self.train(work)
        check_steps(self.name, points, self.logs, stopwatch.passes or work.steps)
        return cost


def installed(sides: Sequence[Side]) -> tuple[list[Side], list[str]]:
    """The sides whose packages are installed, and why the others are left out."""
    reasons = {side: not_installed(side.needs, side.name) for side in sides}
    return [side for side in sides if not reasons[side]], [reason for reason in reasons.values() if reason]


def compared(works: Mapping[str, Work], sides: Sequence[Side], options: Options) -> dict[str, Rounds]:
    """The costs of each work on one thread."""
    torch.set_num_threads(1)
    taken = {}
    for name, work in works.items():
        taken[name] = interleaved({side.name: partial(side.run, work) for side in sides}, options.rounds, options.warm)
    return taken


def works(options: Options, *overrides: str) -> dict[str, Work]:
    """Trainings of a real net and of a single layer, on Fashion-MNIST, or in quick mode on digits."""
    batch, count, pixels = (32, 10, 64) if options.quick else (128, 468, 784)
    # The config of a net without keys serves any net without keys.
    nets = {
        "simple_cnn": ("model=simple_cnn", "model._target_=benchmarks.timing.TimedCNN"),
        "one layer": ("model=lenet", "model._target_=benchmarks.timing.TimedLinear", f"+model.pixels={pixels}"),
    }
    shared = (
        *(f"data={options.data}", "data._target_=benchmarks.work.excerpt", "max_lr=0.1", "policy=onecycle"),
        *(f"+data.train={count * batch}", f"+data.test={VALIDATION}", f"batch_size={batch}", "epochs=1"),
        *(f"seed={SEED}", "threads=1", "precision=fp32", "device=cpu", *overrides),
    )
    return {name: Work(options.scratch / "runs", (*node, *shared)) for name, node in nets.items()}
