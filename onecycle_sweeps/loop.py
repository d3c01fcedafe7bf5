"""The training loop, a generator of steps, and the evaluation.

The loop does not depend on the task: `Batches` are the data, and `Objective` is what a step minimises and an
evaluation measures. A new task needs a new objective and new batches.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from onecycle_sweeps.measures import Measure
from onecycle_sweeps.mixing import Mixing
from onecycle_sweeps.policies import Hyper, Policy
from onecycle_sweeps.samples.nested import changed
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
    def in_memory(self) -> bool:
        """Whether no sample is read or decoded anew in each epoch."""
        ...

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
    """A net, its optimizer, its data and its objective, with the settings of a step.

    `bf16` computes under autocast. The gradient of a step is the mean over `accumulate` equal pieces of a batch.
    `mix` mixes the samples of a batch, and `averaged` has the running mean of the weights, which is then what is
    evaluated and saved. `closure` says how the optimizer is stepped: "required" with a closure that computes all
    gradients (LBFGS), "again" with one that computes them a second time (SAM), "none" without a closure. `compiled` is
    the net compiled by torch.compile, which is used for training batches.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: Batches
    objective: Objective
    seed: int
    bf16: bool = False
    clip_norm: float | None = None
    accumulate: int = 1
    mix: Mixing | None = None
    averaged: AveragedModel | None = None
    closure: Literal["none", "required", "again"] = "none"
    compiled: Callable[..., Any] | None = None

    def train(self) -> None:
        """Set the nets to training mode, and an optimizer that tells training from evaluation (schedule-free)."""
        self.model.train()
        if self.averaged is not None:
            # Its modes are those of the net, of which a part may be frozen.
            self.averaged.train()
        if train := getattr(self.optimizer, "train", None):
            train()

    def batch(self, stream: Iterator[tuple[Any, Any]], step: int) -> list[tuple[Any, Any]]:
        """The pieces of the next batch, each with its inputs and targets."""
        inputs, targets = next(stream)
        if self.mix:
            inputs, targets = self.mix(inputs, targets, self.seed, step)
        if self.accumulate == 1:
            return [(inputs, targets)]
        size = self.data.batch_size // self.accumulate
        pieces = range(0, self.data.batch_size, size)
        return [(changed(inputs, lambda t, at=at: t[at : at + size]), targets[at : at + size]) for at in pieces]

    def gradients(self, pieces: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Sums]:
        """Compute the gradients of a batch; returns its mean loss and the sums of its measures."""
        self.optimizer.zero_grad()
        losses, totals = [], Totals()
        for inputs, targets in pieces:
            loss, sums = self.objective.training(self.outputs(inputs), targets)
            if len(pieces) == 1:
                loss.backward()
                self._clip()
                return loss.detach(), sums
            (loss / len(pieces)).backward()
            losses.append(loss.detach())
            totals.add(sums)
        self._clip()
        return torch.stack(losses).mean(), totals.sums

    def _clip(self) -> None:
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], self.clip_norm)

    def outputs(self, inputs: Any) -> Any:
        """The net's outputs for the inputs of a batch; the logits if it is a net of the library transformers."""
        net = self.compiled if self.compiled and self.model.training and torch.is_grad_enabled() else self.model
        with torch.autocast(self.data.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            if isinstance(inputs, dict):
                given = net(**inputs)
            else:
                given = net(*inputs) if isinstance(inputs, tuple) else net(inputs)
        return getattr(given, "logits", given)

    def sums_over(self, part: str, meters: Mapping[str, Any]) -> Mapping[str, Any]:
        """The sums of the objective's measures over a part as numbers; `meters` are updated with its predictions."""
        totals = Totals()
        for inputs, targets in self.data.part_batches(part):
            outputs = self.outputs(inputs)
            totals.add(self.objective.evaluation(outputs, targets))
            for meter in meters.values():
                meter.update(*self.objective.predictions(outputs, targets))  # type: ignore[attr-defined]
        return totals.read()


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

    def state(self) -> dict[str, Tensor | int]:
        """The sums, as a checkpoint keeps them."""
        return self.sums

    def clear(self) -> None:
        """Begin anew."""
        self.sums.clear()

    def read(self) -> dict[str, Any]:
        """The sums as numbers, or as lists if they have dimensions."""
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in self.state().items()}


def steps(learner: Learner, policy: Policy, start: int = 0) -> Generator[StepTaken, None, None]:
    """Train from step `start` to the policy's end; drawing a step from the generator makes one update."""
    optimizer = learner.optimizer
    stream = learner.data.train_batches(learner.seed, start)
    learner.train()
    for index in range(start, policy.total_steps):
        apply(optimizer, policy(index))
        taken = take_step(learner, learner.batch(stream, index))
        if taken is None:
            raise ValueError(f"{type(optimizer).__name__} did not call its closure, which computes the gradients")
        if learner.averaged is not None:
            learner.averaged.update_parameters(learner.model)
        yield StepTaken(index, used(optimizer), *taken)


def take_step(
    learner: Learner, pieces: list[tuple[Any, Any]], *, has_gradients: bool = False
) -> tuple[Tensor, Sums] | None:
    """One optimizer update by a batch; returns the batch's mean loss and the sums of its measures before the update.

    `has_gradients`: the net already has the batch's gradients. Returns None if no closure computes them again.
    """
    taken: list[tuple[Tensor, Sums]] = []

    def closure() -> Tensor:
        taken.append(learner.gradients(pieces))
        return taken[-1][0]

    if learner.closure != "required" and not has_gradients:
        closure()
    if learner.closure == "none":
        # Freed before the optimizer's step, so that the next batch is made in the same memory.
        pieces.clear()
        learner.optimizer.step()
    else:
        learner.optimizer.step(closure)  # type: ignore[arg-type]
    return taken[0] if taken else None


@contextmanager
def evaluated(learner: Learner, *, recalibrate: bool = False) -> Iterator[Learner]:
    """A context that yields the learner to evaluate and to save in place of the one that is trained.

    Its net has the running mean of the weights if there is one, and the weights for evaluation if the optimizer has two
    kinds (schedule-free). With `recalibrate` its batch-norm statistics are measured anew.
    """
    shown = learner if learner.averaged is None else replace(learner, model=learner.averaged.module)
    of_optimizer = getattr(learner.optimizer, "eval", None)
    if of_optimizer:
        of_optimizer()
    try:
        with recalibrated(shown) if recalibrate else nullcontext():
            yield shown
    finally:
        if of_optimizer:
            learner.train()


@torch.no_grad()
def evaluate(learner: Learner, part: str) -> dict[str, float]:
    """Mean loss and measures over a part, by name, in evaluation mode; the net's mode is restored.

    Raises RuntimeError if a sample was missed or counted twice.
    """
    model, objective = learner.model, learner.objective
    training = model.training
    meters: dict[str, Any] = getattr(objective, "meters", lambda _: {})(learner.data.device)
    model.eval()
    found = learner.sums_over(part, meters)
    model.train(training)
    if (seen := found.get("count", 0)) != (size := learner.data.sizes[part]):
        raise RuntimeError(f"an evaluation must count each of {size} samples once, and counted {seen}")
    return objective.values(found) | {name: meter.compute() for name, meter in meters.items()}


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
