"""What a training step of other tasks than images costs: this program beside the loop that people write in torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.utils.data import DataLoader, Subset

from benchmarks.page import Requirement, Result
from benchmarks.peers import torch_loop
from benchmarks.timing import Cost, stopwatch
from benchmarks.training import BARE, OURS, tables_of_steps, train
from benchmarks.work import SEED, STEP_METRICS, Options, Points, Side, Work, compared
from onecycle_sweeps.samples.items import ItemBatches
from onecycle_sweeps.samples.windows import WindowBatches

# A step may take this many times the bare loop's, or so many seconds more, whichever is larger.
MOST_RATIO, MOST_ADDED = 1.05, 30e-6


def tasks(options: Options) -> Result:
    """Steps of each task, timed by the net."""
    trained = works(options)
    rounds = compared(trained, SIDES, options)
    required = [
        Requirement(
            f"{name}: wall time of a step beside the bare loop's",
            taken.ratio(OURS, BARE),
            max(MOST_RATIO, 1 + MOST_ADDED / taken.wall(BARE)),
        )
        for name, taken in rounds.items()
    ]
    return Result(tables_of_steps(trained, rounds, SIDES, options), required, (), rounds)


@dataclass(frozen=True)
class TaskWork(Work):
    """A training of one task, and its loss in plain torch."""

    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy


def works(options: Options) -> dict[str, Work]:
    """The training of each task, on data that is made here or ships with Python."""
    count, batch, images = (400, 32, 100) if options.quick else (32_000, 128, 1600)
    context, depth, width, texts = (16, 1, 32, 512) if options.quick else (64, 2, 64, 16)
    shared = ("max_lr=0.01", "policy=onecycle", f"seed={SEED}", "threads=1", "precision=fp32", "device=cpu")
    rows = (*shared, "epochs=4", f"batch_size={batch}", "model=mlp", "model._target_=benchmarks.timing.TimedMLP")
    gpt = ("model._target_=benchmarks.timing.TimedGPT", f"model.depth={depth}", f"model.width={width}")
    sized = (f"data.context={context}", "epochs=1", f"batch_size={texts}")
    unet = ("model=unet", "model._target_=benchmarks.timing.TimedUNet", "model.width=8", "model.depth=2")
    generator = np.random.default_rng(0)
    features = generator.normal(size=(count, 16)).astype(np.float32)
    numbers = features @ generator.normal(size=16) + generator.normal(size=count)
    labels = (features @ generator.normal(size=(16, 8)) > 0).astype(int)
    pictures = generator.normal(size=(images, 1, 32, 32)).astype(np.float32)
    arrays = {
        "numbers": {"x": features, "y": numbers},
        "labels": {"x": features, "y": labels},
        "masks": {"x": pictures, "y": (pictures[:, 0] > 0).astype(int)},
    }
    for name, content in arrays.items():
        np.savez(options.scratch / f"{name}.npz", **content)
    of = {name: ("data=arrays", f"data.path={options.scratch / name}.npz") for name in arrays}
    dataset = f"data.dataset={{_target_: benchmarks.tasks.sines, count: {count}}}"
    trained = {
        "numbers of a table, mlp": ((*of["numbers"], *rows), _squared),
        "labels of a table, mlp": ((*of["labels"], *rows), binary_cross_entropy_with_logits),
        "a torch Dataset, mlp": (("data=torch_dataset", dataset, *rows), _squared),
        "a text, gpt": (("data=python_docs", *shared, *gpt, *sized), _of_tokens),
        "masks, unet": ((*of["masks"], *shared, *unet, "epochs=4", "batch_size=16"), cross_entropy),
    }
    return {name: TaskWork(options.scratch / "runs", words, loss) for name, (words, loss) in trained.items()}


def sines(count: int) -> list[tuple[Tensor, float]]:
    """A dataset in memory: sines and their frequencies."""
    frequencies = torch.linspace(1, 4, count)[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    inputs = torch.sin(frequencies[:, None] * torch.linspace(0, 6.28, 64))
    return list(zip(inputs, frequencies.tolist(), strict=True))


def train_bare(work: Work) -> tuple[Cost, Points]:
    """The bare loop on the program's tensors, or on a DataLoader over its Dataset, evaluated after each epoch."""
    assert isinstance(work, TaskWork)
    net, epochs = work.net(), work.config["epochs"]
    loop = torch_loop.Loop(net, work.config["policy"]["max_lr"], work.steps, work.loss)
    for _ in range(epochs):
        loop.train(_epoch(work.data))
        net.eval()
        with torch.no_grad():
            sum(work.loss(net(inputs), targets).item() for inputs, targets in work.data.part_batches("val"))
    return stopwatch.read(work.steps), {}


def _epoch(data: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's batches, as people make them."""
    if isinstance(data, ItemBatches):
        part = Subset(data.source.train, data.index["train"][1].tolist())
        for inputs, targets in DataLoader(part, data.batch_size, shuffle=True, drop_last=True):
            yield inputs, targets.float()
    elif isinstance(data, WindowBatches):
        within = torch.arange(data.context)
        for at in data.starts[torch.randint(len(data.starts), (data.facts.train,))].split(data.batch_size):
            if len(at) == data.batch_size:
                positions = at[:, None] + within
                yield data.tokens[positions], data.tokens[positions + 1]
    else:
        inputs, targets = data.parts["train"]
        for at in torch.randperm(len(targets)).split(data.batch_size):
            if len(at) == data.batch_size:
                yield inputs[at], targets[at]


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return mse_loss(outputs[:, 0], targets)


def _of_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs.flatten(0, 1), targets.flatten())


SIDES = (Side(BARE, train_bare), Side(OURS, train, STEP_METRICS))
