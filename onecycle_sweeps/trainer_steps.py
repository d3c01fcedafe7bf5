"""The steps of a run or a policy for a trainer of another library, which has the loop and calls back."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# How trainers begin the names of what they measure in an evaluation.
OF_EVALUATION = re.compile(r"^(val|valid|validation|eval)[_/]")


def is_run(by: Any) -> bool:
    """Whether this is a trial's run, and not a policy."""
    return hasattr(by, "steps")


class TrainerSteps:
    """A run's steps, taken one by one: `begin` the next, then `log` its loss and maybe `evaluated` what was found.

    `reduce` makes the loss of a step of those of its batches.
    """

    def __init__(self, run: Any, reduce: Callable[[Tensor], Tensor] = torch.mean) -> None:
        self.run, self._reduce = run, reduce
        # Whether the evaluation after the current step is awaited, before the next one begins.
        self.awaits_evaluation = False
        self._steps: Iterator[Any] = iter(())
        self._losses: list[Tensor] = []

    def start(self, optimizer: Any, total_steps: int, steps_per_epoch: int | None) -> int:
        """Give the run its optimizer; returns the number of steps to take, which a range test sets itself.

        `steps_per_epoch` is None for a loader without a length.
        """
        self._steps = self.run.steps(optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        return self.run.total_steps

    def begin(self) -> bool:
        """Record the last step and begin the next one; returns False if there is none."""
        self.awaits_evaluation = False
        return next(self._steps, None) is not None

    def add(self, loss: Tensor) -> None:
        """Add the loss of a batch."""
        self._losses.append(loss.detach())

    def after_update(self) -> bool:
        """Log the step's loss after its update; returns whether to evaluate. Raises ValueError if there is no loss."""
        if not self._losses:
            raise ValueError("training_step must return the loss, and returned none in a whole step")
        self.run.log(self._reduce(torch.stack(self._losses)))
        self._losses = []
        self.awaits_evaluation = self.run.evaluation_due
        return self.awaits_evaluation

    def evaluated(self, found: Mapping[str, Any]) -> bool:
        """Record the values of an evaluation, without the prefix of their names, and begin the next step as `begin`.

        Lightning gives names such as `val_loss/dataloader_idx_1` to the values of several loaders.
        """
        names = {name: OF_EVALUATION.sub("", name).replace("/", "_") for name in found if OF_EVALUATION.match(name)}
        self.run.evaluated(**{short: found[name] for name, short in names.items()})
        return self.begin()
