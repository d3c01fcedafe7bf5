"""Each side of a comparison trains the same work: the program, a bare loop, fastai, Lightning.

A side returns what a step cost it, and the steps at which it has each value that it claims to log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from benchmarks import stores
from benchmarks.costs import Cost
from benchmarks.timed_nets import stopwatch
from benchmarks.work import Work
from onecycle_sweeps import journal, trial

SGD_SETTINGS = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
Points = Mapping[str, Sequence[int]]
Log = Callable[[int, Mapping[str, float]], object]


class Incomplete(Exception):
    """A side did not log each point that it claims to."""


@dataclass(frozen=True)
class Side:
    """One way to train a work; `logs` are the names of what it claims to log at every step."""

    name: str
    train: Callable[[Work], tuple[Cost, Points]]
    logs: tuple[str, ...] = ()

    def run(self, work: Work) -> Cost:
        """What a step costs; raises Incomplete unless every claimed value is there for every step."""
        stopwatch.reset()
        cost, points = self.train(work)
        for name in self.logs:
            if list(points.get(name, ())) != list(range(work.steps)):
                have = len(set(points.get(name, ())))
                raise Incomplete(f"{self.name} has {name} of {have} steps, and must have each of {work.steps} once")
        return cost


class Whole(Dataset):
    """Whole batches of a work, drawn by the positions of their images."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.work.batch(index)


def loader(work: Work) -> DataLoader:
    """The fastest loader that fastai and Lightning take: a batch at a time from tensors in memory."""
    return DataLoader(Whole(work), sampler=work.order, batch_size=None)


def validation_loader(work: Work) -> DataLoader:
    """The evaluation's one batch."""
    return DataLoader(list(work.validation()), batch_size=None)  # pyright: ignore[reportArgumentType]


def evaluate(model: torch.nn.Module, work: Work) -> float:
    """The accuracy on the few validation images."""
    model.eval()
    with torch.no_grad():
        right = [(model(images).argmax(1) == labels).float().mean() for images, labels in work.validation()]
    model.train()
    return right[0].item()


def bare(work: Work, log: Log | None = None) -> tuple[Cost, Points]:
    """What a person writes: tensors in memory, torch's OneCycleLR, one evaluation at the end."""
    model = work.net()
    optimizer = SGD(model.parameters(), lr=work.max_lr, **SGD_SETTINGS)
    schedule = OneCycleLR(optimizer, work.max_lr, total_steps=work.steps)
    model.train()
    for step, index in enumerate(work.order):
        images, labels = work.batch(index)
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if log:
            group = optimizer.param_groups[0]
            log(step, {"lr": group["lr"], "momentum": group["momentum"], "loss": loss.item()})
        optimizer.step()
        if step < work.steps - 1:
            schedule.step()
    evaluate(model, work)
    return stopwatch.read(work.steps), {}


def journalled(work: Work) -> tuple[Cost, Points]:
    """The program's own trial, from its folder to its result, with its journal on disk."""
    folder = work.folder()
    trial.run(folder)
    cost, record = stopwatch.read(work.steps), journal.read(folder.journal)
    return cost, {name: record.series(name)[0] for name in stores.OURS}


def lightning(work: Work) -> tuple[Cost, Points]:
    """Lightning without a logger, checkpoints, progress bar or summary."""
    from benchmarks import lightning_net

    lightning_net.fit(work, False, [])
    return stopwatch.read(work.steps), {}


def fastai(work: Work) -> tuple[Cost, Points]:
    """fastai's fit_one_cycle without a progress bar; its Recorder keeps rates, momenta and losses in memory."""
    from benchmarks import fastai_learner

    learner = fastai_learner.learner(work)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, work.max_lr, moms=(0.95, 0.85, 0.95))
    cost, recorder = stopwatch.read(work.steps), learner.recorder
    return cost, {"losses": range(len(recorder.losses)), "lr": range(len(recorder.hps["lr"]))}
