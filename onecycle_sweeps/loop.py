"""The training loop, a generator of steps, and the evaluation.

The loop does not depend on the task: `Batches` are the data, and `Objective` is what a step minimises and an
evaluation measures. A new task needs a new objective and new batches.
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

# Sums over the samples of a batch by name, on the device; always with `count`, the number of samples.
Sums = Mapping[str, Tensor | int]
# The statistics of batch norms are recalibrated over at most this many training batches.
BATCHES_FOR_STATISTICS = 100


class Batches(Protocol):
    """The data of a trial on its device, in batches of (inputs, targets) for the net and the objective.

    `unit` is the plural of what a sample is ("images"), `warnings` are doubts about the data, and `offered` are facts
    that a net's constructor may have as parameters (in_channels, num_classes).
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
        """Endless training batches from step `start` on; a step's batch depends only on (seed, step)."""
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
    """What a step minimises and an evaluation measures, computed on the device without waiting for it.

    Measures are computed from sums over all batches, so that each sample counts exactly once.
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
        """Each measure by its name, and `loss` if its sum is there, from sums over many batches."""
        ...

    def chance(self, targets: Any) -> float | None:
        """The headline measure of the best constant prediction; None if unknown."""
        ...

    def check(self, outputs: Any, targets: Any, offered: Mapping[str, Any]) -> None:
        """Raise ValueError for outputs that do not suit the objective; its message continues "the model"."""
        ...


@dataclass(frozen=True)
class Learner:
    """A net, its optimizer, data and objective, and the settings of a step; with `bf16` it runs under autocast."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: Batches
    objective: Objective
    seed: int
    bf16: bool = False
    clip_norm: float | None = None

    def outputs(self, inputs: Any) -> Any:
        """The net's outputs for the inputs of a batch."""
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(inputs)


@dataclass(frozen=True)
class StepTaken:
    """One optimizer update: its 0-based index, the rate and momentum that the optimizer used, and its batch's results.

    `loss` is the mean over the batch and `sums` are those of its measures, on the device, from before the update.
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
                # A copy in float64, because a sum in float32 would lose the small losses of a large part.
                self.sums[name] = value.to(torch.float64 if value.is_floating_point() else value.dtype, copy=True)
            else:
                self.sums[name] = value

    def read(self) -> dict[str, Any]:
        """The sums as numbers, or as lists if they have dimensions."""
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in self.sums.items()}


def steps(learner: Learner, policy: Policy, start: int = 0) -> Iterator[StepTaken]:
    """Train from step `start` to the policy's end: each step that is drawn is one update."""
    model, optimizer, objective = learner.model, learner.optimizer, learner.objective
    parameters = [p for p in model.parameters() if p.requires_grad]
    stream = learner.data.train_batches(learner.seed, start)
    model.train()
    for index in range(start, policy.total_steps):
        apply(optimizer, policy(index))
        inputs, targets = next(stream)
        loss, sums = objective.training(learner.outputs(inputs), targets)
        # So that the inputs are freed with the graph, and the next batch reuses their memory.
        del inputs
        optimizer.zero_grad()
        loss.backward()
        if learner.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, learner.clip_norm)
        optimizer.step()
        yield StepTaken(index, used(optimizer), loss.detach(), sums)


@torch.no_grad()
def evaluate(learner: Learner, part: str) -> dict[str, float]:
    """Mean loss and measures over a part, by name, in evaluation mode; the net's mode is restored.

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
    """The net's batch norms that update running statistics; those of a frozen body do not."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]


@contextmanager
def recalibrated(learner: Learner) -> Iterator[None]:
    """A context in which batch norms have their mean statistics over the first training batches, for evaluating.

    Running averages lag behind weights that change fast. The statistics are restored afterwards, so that the training
    is not affected (torch.optim.swa_utils.update_bn, but over fewer batches and undone).
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
    """Average over batches with only the norms in training mode, so that dropout draws nothing."""
    learner.model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    count = min(BATCHES_FOR_STATISTICS, learner.data.sizes["train"] // learner.data.batch_size)
    for inputs, _ in islice(learner.data.train_batches(learner.seed), count):
        learner.outputs(inputs)
    learner.model.train()
