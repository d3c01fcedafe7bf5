"""What a step of each kind of task costs beyond the net's own work: the program with all its logging, a bare loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks import costs, program
from benchmarks.costs import Cost
from benchmarks.page import Requirement, Result
from benchmarks.peers import SGD_SETTINGS
from benchmarks.work import SEED, Options, Work
from onecycle_sweeps import datasets, trial
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.trial import build

BARE, OURS = "bare loop", "this program, journal on disk"
CAPTION = """{steps} steps in {epochs} epochs, batch {batch}, fp32, one thread, SGD with Nesterov, 1cycle. Both sides \
have the same first weights, tensors and batches, evaluate after each epoch, and take turns in one process for \
{rounds} rounds after one that is not counted. Timed is a whole training, with what the program reads and writes at \
its start and end, divided by its steps: medians; the last columns are medians within a round."""
# A step may take this many times the bare loop's, or so many seconds more, whichever is larger.
MOST_RATIO, MOST_ADDED = 1.05, 30e-6


@dataclass(frozen=True)
class Task:
    """One kind of task: the overrides of its trial, and the loss that a bare loop minimises."""

    overrides: tuple[str, ...]
    loss: Callable[[Tensor, Tensor], Tensor]


class Series(torch.utils.data.Dataset[Any]):
    """Sines in memory and their frequencies."""

    def __init__(self, count: int) -> None:
        frequencies = torch.linspace(1, 4, count)[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
        self.inputs = torch.sin(frequencies[:, None] * torch.linspace(0, 6.28, 64))
        self.targets = frequencies.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[Tensor, float]:
        return self.inputs[place], self.targets[place]


def run(options: Options) -> Result:
    """A table for each task."""
    torch.set_num_threads(1)
    tables, required, rounds = [], [], {}
    for name, task in tasks(options).items():
        runs_dir = options.scratch / "runs"
        config = program.planned(runs_dir, *task.overrides).config
        facts = datasets.prepare(
            nodes.loader(config), runs_dir / "data" / config["needs"]["data"], **schema.split(config)
        )
        steps = config["epochs"] * schema.steps_per_epoch(config, facts.train)
        work = Work(runs_dir, task.overrides, steps, config["batch_size"])
        sides = {BARE: partial(bare, config, facts, task.loss), OURS: partial(ours, work)}
        rounds[name] = taken = costs.interleaved(sides, options.rounds)
        sizes = {"steps": steps, "epochs": config["epochs"], "batch": config["batch_size"], "rounds": options.rounds}
        tables.append(taken.table(f"A step of {name}", CAPTION.format(**sizes), "way to train", "ms/step"))
        bound = max(MOST_RATIO, 1 + MOST_ADDED / taken.wall(BARE))
        what = f"{name}: wall time of a step beside the bare loop's"
        required.append(Requirement(what, taken.ratio(OURS, BARE), bound))
    return Result(tables, required, (), rounds)


def tasks(options: Options) -> dict[str, Task]:
    """The tasks, on data that is made here or ships with Python."""
    count, batch = (400, 32) if options.quick else (16_000, 128)
    table = options.scratch / "table.npz"
    generator = np.random.default_rng(0)
    features = generator.normal(size=(count, 16)).astype(np.float32)
    np.savez(table, x=features, y=features @ generator.normal(size=16) + generator.normal(size=count))
    shared = ("max_lr=0.01", "policy=onecycle", "epochs=4", f"seed={SEED}", "threads=1", "precision=fp32", "device=cpu")
    sized = (*shared, f"batch_size={batch}")
    context = "data.context=16" if options.quick else "data.context=64"
    depth = ("model.depth=1", "model.width=32") if options.quick else ("model.depth=4", "model.width=128")
    tokens = (*shared[:2], "epochs=1", *shared[3:], "batch_size=" + ("512" if options.quick else "32"), context, *depth)
    dataset = f"data.dataset={{_target_: benchmarks.tasks.Series, count: {count}}}"
    return {
        "a table, mlp": Task(("data=arrays", f"data.path={table}", *sized), _of_numbers),
        "a text, gpt": Task(("data=python_docs", *tokens), _of_tokens),
        "a torch Dataset, mlp": Task(("data=torch_dataset", dataset, *sized), _of_numbers),
    }


def ours(work: Work) -> Cost:
    """The program's trial, from its folder to its result: what it builds and reads at its start is counted."""
    return costs.timed(partial(trial.run, work.folder())).per(work.steps)


def bare(config: Mapping[str, Any], facts: Any, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Cost:
    """The loop that people write, on the same tensors."""
    form = build.target_form(dict(config))
    data = datasets.load_samples(nodes.loader(dict(config))(), facts, dict(config), "cpu", form)
    net = build.make_net(dict(config), data.offered, SEED)
    steps_per_epoch = facts.train // config["batch_size"]
    total = config["epochs"] * steps_per_epoch
    return costs.timed(partial(_train, net, data, loss_of, config["policy"]["max_lr"], steps_per_epoch, total)).per(
        total
    )


def _train(
    net: nn.Module, data: Any, loss_of: Callable[[Tensor, Tensor], Tensor], max_lr: float, per_epoch: int, total: int
) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=max_lr, **SGD_SETTINGS)
    schedule = OneCycleLR(optimizer, max_lr, total_steps=total)
    net.train()
    for step, (inputs, targets) in zip(range(1, total + 1), data.train_batches(SEED), strict=False):
        loss = loss_of(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % per_epoch == 0:
            net.eval()
            with torch.no_grad():
                sum(loss_of(net(inputs), targets).item() for inputs, targets in data.part_batches("val"))
            net.train()


def _of_numbers(outputs: Tensor, targets: Tensor) -> Tensor:
    return mse_loss(outputs[:, 0], targets)


def _of_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs.flatten(0, 1), targets.flatten())
