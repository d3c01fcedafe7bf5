"""Hugging Face's Trainer under a policy or as a trial: a callback, and a training function for the node `loop`."""

from collections.abc import Callable
from math import ceil
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers.trainer import Trainer
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import has_length

from onecycle_sweeps.policies import Policy, checked
from onecycle_sweeps.scheduler import apply, check_groups, used
from onecycle_sweeps.trainer_steps import TrainerSteps, is_run

# Ends of the names under which a trainer reports times, which are no measures.
TIMES = ("_runtime", "_per_second", "_time")
# The number of epochs of TrainingArguments that were not given one.
USUAL_EPOCHS = 3


class Schedule(TrainerCallback):
    """Sets the rate and momentum of each step by a policy; with a run it makes `Trainer.train` a trial.

    A policy is called with `state.global_step`, so it has no state to be saved. `Schedule(run, trainer)` is made
    when the trainer is: the run's steps, losses and evaluations are recorded, its own number of steps is trained, and a
    range test ends where its loss diverges. Evaluations are those of the trainer, under their names without `eval_`.
    Raises ValueError for a trainer with another seed or other epochs than the run's, and for one without a length.
    """

    def __init__(self, by: Policy | Any, trainer: Trainer | None = None) -> None:
        # The trainer divides each loss by the number of batches in its step.
        self._steps = TrainerSteps(by, torch.sum) if is_run(by) else None
        self._policy: Any = by
        self._rate = 0.0
        # What the evaluations of a step have found so far, and how many of them there are.
        self._found: list[dict[str, float]] = []
        self._evaluations = 1
        if self._steps is not None:
            if trainer is None:
                raise ValueError("Schedule(run, trainer) needs the trainer, whose losses it records")
            self._take_over(by, trainer, self._steps)

    def _take_over(self, run: Any, trainer: Trainer, steps: TrainerSteps) -> None:
        args, train_batch = trainer.args, trainer.training_step
        if args.seed != run.seed:
            raise ValueError(f"TrainingArguments must have seed=run.seed, {run.seed} in this trial, got {args.seed}")

        def training_step(*arguments: Any, **options: Any) -> torch.Tensor:
            loss = train_batch(*arguments, **options)
            steps.add(loss)
            return loss

        trainer.training_step = training_step  # type: ignore[method-assign]
        # The trainer evaluates each of several data sets by itself.
        self._evaluations = len(trainer.eval_dataset) if isinstance(trainer.eval_dataset, dict) else 1
        trainer.create_optimizer()
        trainer.lr_scheduler = Unchanged(trainer.optimizer)  # type: ignore[arg-type]
        asked, loader = args.max_steps, trainer.get_train_dataloader()
        in_epoch = ceil(len(loader) / args.gradient_accumulation_steps) if has_length(loader) else None
        if asked <= 0 and in_epoch is None:
            raise ValueError("TrainingArguments must have max_steps, since the training data have no length")
        if asked <= 0 and args.num_train_epochs not in (USUAL_EPOCHS, run.epochs):
            raise ValueError(
                f"TrainingArguments must have num_train_epochs=run.epochs, {run.epochs} in this trial, or max_steps, "
                f"got num_train_epochs={args.num_train_epochs:g}"
            )
        args.max_steps = steps.start(trainer.optimizer, asked if asked > 0 else run.epochs * (in_epoch or 1), in_epoch)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """See transformers."""
        if self._steps is None:
            check_groups(given["optimizer"], checked(self._policy, 0).momentum is not None)
        else:
            control.should_training_stop = not self._steps.begin()

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """See transformers."""
        if self._steps is None:
            apply(given["optimizer"], checked(self._policy, state.global_step))
            self._rate = used(given["optimizer"]).lr
        elif self._steps.awaits_evaluation:
            # There was no evaluation; the run reports that as a mistake.
            self._steps.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """See transformers."""
        if self._steps is None:
            return
        control.should_evaluate = self._steps.after_update()
        if not control.should_evaluate and not self._steps.begin():
            control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any) -> None:
        """See transformers."""
        if self._steps is None or not self._steps.awaits_evaluation:
            return
        self._found.append({name: value for name, value in (metrics or {}).items() if not name.endswith(TIMES)})
        if len(self._found) < self._evaluations:
            return
        found = {name: value for one in self._found for name, value in one.items()}
        self._found = []
        if not self._steps.evaluated(found):
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """See transformers; the trainer's own scheduler would report its rate."""
        for entry in (logs or {}, *state.log_history[-1:]):
            if self._steps is None and "learning_rate" in entry:
                entry["learning_rate"] = self._rate


class Unchanged(LRScheduler):
    """A scheduler that leaves the rates as they are, in place of the one that a trainer would make."""

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rates of the param groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """The rates that the last step had, which the trainer logs; a run sets those of the next one after it."""
        return self.get_lr()


def train(run: Any, trainer: Callable[[Any], Trainer]) -> None:
    """Train as a trial with the trainer that a function of the user's makes for the run."""
    made = trainer(run)
    made.add_callback(Schedule(run, made))
    made.train()
