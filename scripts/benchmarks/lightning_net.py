"""A work as a LightningModule."""

import logging
import warnings
from typing import Any

import lightning
import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.loops import SGD_SETTINGS, loader, validation_loader
from benchmarks.work import Work

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Net(lightning.LightningModule):
    """The work's net; it logs its loss where there is a logger."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.net, self.work, self.lr = work.net(), work, work.max_lr

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        if self.trainer.loggers:
            self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return (self.net(images).argmax(1) == labels).float().mean()

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr, **SGD_SETTINGS)
        schedule = OneCycleLR(optimizer, self.lr, total_steps=self.work.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer(work: Work, logger: Any = False, callbacks: Any = ()) -> lightning.Trainer:
    """A trainer of one epoch that draws, saves and summarises nothing."""
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        callbacks=list(callbacks),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=work.runs_dir.parent,
    )


def fit(work: Work, logger: Any, callbacks: Any) -> None:
    """Train the work."""
    with warnings.catch_warnings():
        # Advice on more worker processes, which would only lose for tensors in memory.
        warnings.simplefilter("ignore")
        trainer(work, logger, callbacks).fit(Net(work), loader(work), validation_loader(work))
