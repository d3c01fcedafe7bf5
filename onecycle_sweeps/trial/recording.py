"""From steps to the journal: losses stay on the device until a block of them is read and written."""

import math
import time
from dataclasses import dataclass

import torch

from onecycle_sweeps import journal
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.training import Step

BLOCK_SECONDS = 1.0
BLOCK_STEPS = 1000
# A whole epoch at a mean loss above this many times the untrained net's has diverged.
DIVERGED_FACTOR = 3.0


@dataclass
class Watch:
    """Decides whether a training has diverged, from each step in turn; its fields go into the checkpoint.

    `correct` and `counted` are the steps' samples that were named right, and all, since the last evaluation.
    """

    steps_per_epoch: int
    batch_size: int
    seen: int = 0
    untrained: float = math.nan
    epoch_total: float = 0.0
    correct: int = 0
    counted: int = 0

    def accuracy(self) -> float:
        """The train accuracy over the steps since this was asked last."""
        accuracy, self.correct, self.counted = self.correct / self.counted, 0, 0
        return accuracy

    def see(self, loss: float, correct: int) -> str | None:
        """Why the training has diverged at this loss, None if it has not."""
        if not math.isfinite(loss):
            return f"the loss is {loss} at step {self.seen}"
        if self.seen == 0:
            self.untrained = loss
        self.seen += 1
        self.epoch_total += loss
        self.correct += correct
        self.counted += self.batch_size
        if self.seen % self.steps_per_epoch:
            return None
        mean, self.epoch_total = self.epoch_total / self.steps_per_epoch, 0.0
        if mean > DIVERGED_FACTOR * self.untrained:
            epoch = self.seen // self.steps_per_epoch
            return f"the mean loss of epoch {epoch} is {mean:.4g}, above {DIVERGED_FACTOR:g}x the untrained net's"
        return None


class Recorder:
    """Collects steps and writes them to the journal in blocks."""

    def __init__(self, book: Journal) -> None:
        self._book = book
        self._steps: list[Step] = []
        self._began = time.monotonic()

    def add(self, step: Step) -> bool:
        """Take a step in; true when a block is due."""
        self._steps.append(step)
        return len(self._steps) >= BLOCK_STEPS or time.monotonic() - self._began >= BLOCK_SECONDS

    def flush(self, watch: Watch) -> str | None:
        """Write what was collected, up to the step that diverged if one did; returns why it did."""
        if not self._steps:
            return None
        losses: list[float] = torch.stack([step.loss for step in self._steps]).tolist()
        correct: list[int] = torch.stack([step.correct for step in self._steps]).tolist()
        count, cause = 0, None
        while cause is None and count < len(losses):
            cause = watch.see(losses[count], correct[count])
            count += 1
        self._book.append(self._steps[0].index, columns(self._steps[:count], losses[:count]))
        self._steps, self._began = [], time.monotonic()
        return cause


def columns(steps: list[Step], losses: list[float]) -> dict[str, list[float]]:
    """The journal's columns for steps in a row; an optimizer without momentum has no such column."""
    momenta = [step.hyper.momentum for step in steps if step.hyper.momentum is not None]
    rates = {journal.LR: [step.hyper.lr for step in steps]}
    return rates | ({journal.MOMENTUM: momenta} if momenta else {}) | {journal.TRAIN_LOSS: losses}
