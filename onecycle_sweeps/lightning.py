"""Lightning's Trainer under a policy or as a trial: a callback, and a training function for the node `loop`."""

import signal
import threading
from math import ceil
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from onecycle_sweeps.policies import Policy, checked
from onecycle_sweeps.scheduler import apply, check_groups, used
from onecycle_sweeps.trainer_steps import TrainerSteps, is_run


class Schedule(Callback):
    """Sets the rate and momentum of each step by a policy; with a run it makes `Trainer.fit` a trial.

    A policy is called with `trainer.global_step`, so it has no state to be saved. A run's steps, losses and evaluations
    are recorded, its own number of steps is trained, and a range test ends where its loss diverges. Its evaluations are
    those of the validation loop, under the names that the module logs without `val_`. The module has one optimizer and
    no scheduler.
    """

    def __init__(self, by: Policy | Any) -> None:
        self._steps = TrainerSteps(by) if is_run(by) else None
        self._policy: Any = by
        self._global_step = 0
        self._accumulate = 1
        self._on_sigterm: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See Lightning."""
        del trainer, pl_module, stage
        self._on_sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See Lightning."""
        if len(trainer.optimizers) != 1:
            name, count = type(pl_module).__name__, len(trainer.optimizers)
            raise ValueError(f"{name}.configure_optimizers must return one optimizer for a Schedule, got {count}")
        optimizer, self._global_step = trainer.optimizers[0], trainer.global_step
        self._accumulate = trainer.accumulate_grad_batches
        if self._steps is None:
            check_groups(optimizer, checked(self._policy, 0).momentum is not None)
            return
        if self._on_sigterm and threading.current_thread() is threading.main_thread():
            # On SIGTERM a trial saves and stops; Lightning's own handler would make it fail.
            signal.signal(signal.SIGTERM, self._on_sigterm)
        asked = trainer.estimated_stepping_batches
        if asked == float("inf"):
            raise ValueError("a Trainer that is a trial must have max_epochs or max_steps, got neither")
        if asked < 0:
            raise ValueError("a Trainer that is a trial must have max_steps if its training data have no length")
        if not trainer.enable_validation:
            raise ValueError(
                "a Trainer that is a trial must validate: it needs a validation_step, a validation loader, and a "
                f"limit_val_batches above 0, got {trainer.limit_val_batches}"
            )
        batches = trainer.num_training_batches
        in_epoch = None if batches == float("inf") else ceil(batches / trainer.accumulate_grad_batches)
        total = self._steps.start(optimizer, int(asked), in_epoch)
        # The run says after which steps there is a validation.
        trainer.check_val_every_n_epoch = 1
        # The loader is repeated until the last step, also where a range test has more of them.
        trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = -1, total
        trainer.should_stop = not self._steps.begin()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """See Lightning."""
        if self._steps is None:
            apply(trainer.optimizers[0], checked(self._policy, trainer.global_step))
            if trainer.logger:
                hyper = used(trainer.optimizers[0])
                values = {"schedule/lr": hyper.lr, "schedule/momentum": hyper.momentum}
                trainer.logger.log_metrics({k: v for k, v in values.items() if v is not None}, trainer.global_step)
        elif self._steps.awaits_evaluation:
            # No validation loop has run; the run reports that as a mistake.
            self._steps.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        if self._steps is None:
            return
        if trainer.accumulate_grad_batches != self._accumulate:
            raise ValueError(
                f"accumulate_grad_batches must stay {self._accumulate} in a trial, whose length follows from it, got "
                f"{trainer.accumulate_grad_batches}: give it to the Trainer in place of a callback"
            )
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            # Lightning has divided it, also in a last step of an epoch that has fewer batches.
            self._steps.add(loss * trainer.accumulate_grad_batches)
        if trainer.global_step == self._global_step:
            if not pl_module.automatic_optimization:
                raise ValueError(
                    f"{type(pl_module).__name__} must step its optimizer in each batch, since a trial counts its "
                    f"steps by batches, but did not in batch {batch_idx}: take larger batches in place of "
                    "accumulating gradients"
                )
            return
        self._global_step = trainer.global_step
        due = self._steps.after_update()
        trainer.val_check_batch = batch_idx + 1 if due else float("inf")
        if not due:
            trainer.should_stop = not self._steps.begin()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See Lightning."""
        if self._steps is not None and self._steps.awaits_evaluation and not trainer.sanity_checking:
            trainer.should_stop = not self._steps.evaluated(trainer.callback_metrics)


def train(
    run: Any,
    module: LightningModule,
    data: LightningDataModule,
    trainer: dict[str, Any] | None = None,
) -> None:
    """Train a module on a data module as a trial; `trainer` has further arguments of the Trainer."""
    on_cpu, own = run.device.type == "cpu", dict(trainer or {})
    length = {} if own.keys() & {"max_epochs", "max_steps", "max_time"} else {"max_epochs": run.epochs}
    settings = {
        **length,
        "accelerator": "cpu" if on_cpu else "gpu",
        "devices": 1 if on_cpu else [run.device.index or 0],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": run.folder,
    }
    callbacks = [Schedule(run), *own.pop("callbacks", [])]
    Trainer(**settings | own, callbacks=callbacks).fit(module, datamodule=data)
