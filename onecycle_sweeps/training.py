"""The one loop: a generator of steps; and the evaluation beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onecycle_sweeps.images import Dataset, Split, batches, evaluation_batches
from onecycle_sweeps.policies import Hyper, Policy
from onecycle_sweeps.scheduler import apply, used

# What a batch of an evaluation makes is to stay in a CPU's caches: photographs by the dozen take a third of the time. A
# GPU is to be filled: 222 photographs of 224x224.
EVALUATION_BATCH, EVALUATION_VALUES, GPU_EVALUATION_VALUES = 1024, 2**21, 2**25


@dataclass(frozen=True)
class Learner:
    """A net, its optimizer and its data, with the settings of a step; `bf16` computes under autocast."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: Dataset
    batch_size: int
    seed: int
    bf16: bool = False
    label_smoothing: float = 0.0
    clip_norm: float | None = None

    def scores(self, images: Tensor) -> Tensor:
        """The net's class scores (N, classes) for uint8 images (N, C, H, W)."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(self.data.normalise(images))


@dataclass(frozen=True)
class Step:
    """One optimizer update: its 0-based index, what the optimizer used, and on the device what the batch came to.

    `loss` is the mean over the batch, `correct` how many of it the net named right before the update.
    """

    index: int
    hyper: Hyper
    loss: Tensor
    correct: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy over each sample of a split, each counted once."""

    loss: float
    accuracy: float


def steps(learner: Learner, policy: Policy, start: int = 0) -> Iterator[Step]:
    """Train from step `start` to the policy's end, one update for each step drawn; leaving the loop stops it."""
    model, optimizer = learner.model, learner.optimizer
    parameters = [p for p in model.parameters() if p.requires_grad]
    stream = batches(learner.data.train, learner.batch_size, learner.seed, start, learner.data.augment)
    model.train()
    for index, (images, labels) in zip(range(start, policy.total_steps), stream, strict=False):
        apply(optimizer, policy(index))
        scores = learner.scores(images).float()
        loss = cross_entropy(scores, labels, label_smoothing=learner.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if learner.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, learner.clip_norm)
        optimizer.step()
        yield Step(index, used(optimizer), loss.detach(), (scores.detach().argmax(1) == labels).sum())


@torch.no_grad()
def evaluate(learner: Learner, split: Split) -> Evaluation:
    """A clean pass over a split in evaluation mode; raises RuntimeError if it did not see each sample once."""
    model, device = learner.model, learner.data.train.images.device
    loss, correct = (torch.zeros((), dtype=kind, device=device) for kind in (torch.float64, torch.int64))
    seen = 0
    training = model.training
    model.eval()
    facts = learner.data.facts
    most = EVALUATION_VALUES if device.type == "cpu" else GPU_EVALUATION_VALUES
    fitting = max(1, most // (facts.in_channels * facts.height * facts.width))
    for images, labels in evaluation_batches(split, min(EVALUATION_BATCH, fitting), learner.data.evaluation):
        scores = learner.scores(images).float()
        loss += cross_entropy(scores, labels, reduction="sum")
        correct += (scores.argmax(1) == labels).sum()
        seen += len(labels)
    model.train(training)
    if seen != len(split):
        raise RuntimeError(f"an evaluation must see each of {len(split)} samples once, and saw {seen}")
    return Evaluation(loss.item() / seen, correct.item() / seen)
