"""The one loop: a generator of steps, and the evaluation beside it.

The loop knows no task: `Batches` is what it trains on and is evaluated on, `Objective` is what a step minimises and
an evaluation measures. A new task is a new objective and a new source of batches.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onecycle_sweeps.measures import Measure
from onecycle_sweeps.policies import Hyper, Policy
from onecycle_sweeps.scheduler import apply, used

# Sums over the samples of a batch by their names, on the device; `count`, the number of samples, is always among them.
Sums = Mapping[str, Tensor | int]
# Running statistics of batch norms are measured anew over at most so many training batches.
BATCHES_FOR_STATISTICS = 100


class Batches(Protocol):
    """The data of a trial on its device, in batches of (inputs, targets) that a net and an objective take as they are.

    `unit` is what a sample is called ("images"), `warnings` are doubts about the data, and `offered` are facts that a
    net's constructor may ask for by name (in_channels, num_classes).
    """

    @property
    def unit(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def offered(self) -> Mapping[str, Any]: ...
    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of samples of each part: `train`, `val`, and `test` where there is one."""
        ...

    def train_batches(self, seed: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Training batches from step `start` on, without an end; a step's batch follows from (seed, step) alone."""
        ...

    def part_batches(self, part: str) -> Iterator[tuple[Any, Any]]:
        """Every sample of a part once, in order."""
        ...

    def targets(self, part: str) -> Any:
        """The targets of all samples of a part."""
        ...

    def check(self) -> None:
        """Raise ValueError if files that are read again in every epoch have changed."""
        ...


class Objective(Protocol):
    """What a step minimises and an evaluation measures, on the device and without waiting for it.

    Measures are computed from sums that are added up over batches, so that they are exact over each sample once.
    """

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What an evaluation measures; the first is the headline, by which trials are compared, and may be the loss."""
        ...

    def training(self, outputs: Any, targets: Any) -> tuple[Tensor, Sums]:
        """The mean loss of a training batch, and the sums of its measures."""
        ...

    def evaluation(self, outputs: Any, targets: Any) -> Sums:
        """The sums of a batch's measures and of its loss."""
        ...

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Each measure by its name, and `loss` where its sum is there, from sums over many batches."""
        ...

    def chance(self, targets: Any) -> float | None:
        """The headline measure of the best constant prediction; None if unknown."""
        ...

    def check(self, outputs: Any, targets: Any, offered: Mapping[str, Any]) -> None:
        """Raise ValueError if the objective cannot take these outputs; its message continues "the model"."""
        ...


@dataclass(frozen=True)
class Learner:
    """A net, its optimizer, its data and its objective, with the settings of a step; `bf16` computes under autocast."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: Batches
    objective: Objective
    seed: int
    bf16: bool = False
    clip_norm: float | None = None

    def outputs(self, inputs: Any) -> Any:
        """What the net gives for the inputs of a batch."""
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(inputs)


@dataclass(frozen=True)
class StepTaken:
    """One optimizer update: its 0-based index, what the optimizer used, and on the device what the batch came to.

    `loss` is the mean over the batch, `sums` are those of its measures, both from right before the update.
    """

    index: int
    hyper: Hyper
    loss: Tensor
    sums: Sums


@dataclass
class Totals:
    """Sums added up over batches; tensors stay on their device until `read`."""

    sums: dict[str, Tensor | int] = field(default_factory=dict)

    def add(self, sums: Sums) -> None:
        for name, value in sums.items():
            if name in self.sums:
                self.sums[name] += value
            elif isinstance(value, Tensor):
                # A copy to add to, and in float64: a sum in float32 would lose the small losses of a large part.
                self.sums[name] = value.to(torch.float64 if value.is_floating_point() else value.dtype, copy=True)
            else:
                self.sums[name] = value

    def read(self) -> dict[str, Any]:
        """The sums as numbers, or as lists where they have dimensions."""
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in self.sums.items()}


def steps(learner: Learner, policy: Policy, start: int = 0) -> Iterator[StepTaken]:
    """Train from step `start` to the policy's end, one update for each step drawn; leaving the loop stops it."""
    model, optimizer, objective = learner.model, learner.optimizer, learner.objective
    parameters = [p for p in model.parameters() if p.requires_grad]
    stream = learner.data.train_batches(learner.seed, start)
    model.train()
    for index in range(start, policy.total_steps):
        apply(optimizer, policy(index))
        inputs, targets = next(stream)
        loss, sums = objective.training(learner.outputs(inputs), targets)
        # Freed with the graph, so that the next batch is made in the same memory.
        del inputs
        optimizer.zero_grad()
        loss.backward()
        if learner.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, learner.clip_norm)
        optimizer.step()
        yield StepTaken(index, used(optimizer), loss.detach(), sums)


@torch.no_grad()
def evaluate(learner: Learner, part: str) -> dict[str, float]:
    """Mean loss and measures over a part, by name, in evaluation mode; the net's mode is afterwards as before.

    Raises RuntimeError if a sample was missed or counted twice.
    """
    model, totals = learner.model, Totals()
    training = model.training
    model.eval()
    for inputs, targets in learner.data.part_batches(part):
        totals.add(learner.objective.evaluation(learner.outputs(inputs), targets))
    model.train(training)
    found = totals.read()
    if (seen := found.get("count", 0)) != (size := learner.data.sizes[part]):
        raise RuntimeError(f"an evaluation must count each of {size} samples once, and counted {seen}")
    return learner.objective.values(found)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The net's batch norms that keep running statistics and are trained; those of a frozen body are not."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]


@contextmanager
def recalibrated(learner: Learner) -> Iterator[None]:
    """Within it each batch norm has its mean statistics over the first training batches: evaluate and save there.

    Running averages lag behind weights that move fast. Afterwards the statistics are as before, and the training goes
    on as if nothing had been measured (torch.optim.swa_utils.update_bn, but bounded and undone).
    """
    norms = batch_norms(learner.model)
    before = [(norm, norm.momentum, {k: v.clone() for k, v in norm.named_buffers()}) for norm in norms]
    if norms:
        _measure_statistics(learner, norms)
    try:
        yield
    finally:
        for norm, momentum, buffers in before:
            norm.momentum = momentum
            norm.load_state_dict(buffers, strict=False)


@torch.no_grad()
def _measure_statistics(learner: Learner, norms: list[_BatchNorm]) -> None:
    """Average over batches with the norms alone in training mode, so that dropout draws nothing."""
    learner.model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    count = min(BATCHES_FOR_STATISTICS, learner.data.sizes["train"] // learner.data.batch_size)
    for inputs, _ in islice(learner.data.train_batches(learner.seed), count):
        learner.outputs(inputs)
    learner.model.train()
