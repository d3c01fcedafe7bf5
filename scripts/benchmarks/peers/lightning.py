"""Lightning: a LightningModule without logger, with MLFlowLogger, its Tuner, and a sweep of it under Hydra.

The sweep: python -m benchmarks.peers.lightning policy=constant,onecycle seed=0,1,2 -m
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import lightning
from hydra.core.config_store import ConfigStore
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from benchmarks.peers import SGD_SETTINGS
from benchmarks.stopwatch import stopwatch
from onecycle_sweeps.models.simple_cnn import SimpleCNN

# A sweep of Lightning's need not load the program.
if TYPE_CHECKING:
    from benchmarks.costs import Cost
    from benchmarks.work import Points, Work
    from onecycle_sweeps.range_test import Ramp

LOGGED = ("lr-SGD", "lr-SGD-momentum", "train_loss")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(lightning.LightningModule):
    """A net under SGD with Nesterov and one of torch's schedulers; it logs only where there is a logger."""

    def __init__(self, net: nn.Module, max_lr: float, steps: int | None = None, policy: str = "onecycle") -> None:
        super().__init__()
        self.net, self.lr, self.steps, self.policy = net, max_lr, steps, policy

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        if self.trainer.loggers:
            self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        scores = self.net(images)
        accuracy = (scores.argmax(1) == labels).float().mean()
        if self.trainer.loggers:
            self.log("val_loss", cross_entropy(scores, labels))
            self.log("val_acc", accuracy)
        return accuracy

    def configure_optimizers(self) -> Any:
        steps = self.steps or int(self.trainer.estimated_stepping_batches)
        optimizer = SGD(self.parameters(), lr=self.lr, **SGD_SETTINGS)
        schedulers = {
            "constant": lambda: ConstantLR(optimizer, factor=1.0),
            "step": lambda: MultiStepLR(optimizer, [steps // 2, steps * 3 // 4], gamma=0.1),
            "clr": lambda: CyclicLR(optimizer, self.lr / 4, self.lr, step_size_up=steps // 4),
            "onecycle": lambda: OneCycleLR(optimizer, self.lr, total_steps=steps),
        }
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedulers[self.policy](), "interval": "step"}}


def train(work: "Work") -> "tuple[Cost, Points]":
    """Train without a logger, checkpoints, progress bar or summary."""
    return _fit(work, False, [])


def train_with_mlflow(work: "Work", store: Path) -> "Cost":
    """The same with MLFlowLogger, and LearningRateMonitor at every step."""
    return _fit(work, MLFlowLogger("benchmark", tracking_uri=f"sqlite:///{store}"), [_monitor()])[0]


def range_test(work: "Work", ramp: "Ramp") -> Callable[[], int]:
    """The Tuner's lr_find, which saves the trainer's state and restores it."""
    net, trainer, loader = Classifier(work.net(), work.max_lr, work.steps), _trainer(work, False, []), work.loader()
    trainer.fit_loop.max_epochs = None

    def search() -> int:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            ends = {"min_lr": ramp.start_lr, "max_lr": ramp.end_lr, "num_training": ramp.total_steps}
            found = Tuner(trainer).lr_find(net, loader, **ends)
        return len(found.results["loss"]) if found else 0

    return search


def _fit(work: "Work", logger: Any, callbacks: Sequence[Any]) -> "tuple[Cost, Points]":
    with warnings.catch_warnings():
        # It advises more worker processes, which only cost time where tensors are in memory.
        warnings.simplefilter("ignore")
        net = Classifier(work.net(), work.max_lr, work.steps)
        _trainer(work, logger, callbacks).fit(net, work.loader(), work.validation_loader())
    return stopwatch.read(work.steps), {}


def _trainer(work: "Work", logger: Any, callbacks: Sequence[Any]) -> lightning.Trainer:
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


def _monitor() -> LearningRateMonitor:
    return LearningRateMonitor(logging_interval="step", log_momentum=True)


@dataclass
class Config:
    """What a sweep varies, and what it does not; a limit of 1.0 takes all batches."""

    policy: str = "onecycle"
    seed: int = 0
    max_lr: float = 0.1
    epochs: int = 2
    batch_size: int = 128
    data: str = os.environ.get("ONECYCLE_DATA", "data")
    store: str = "sqlite:///mlflow.db"
    limit: Any = 1.0


ConfigStore.instance().store(name="lightning_sweep", node=Config)


@hydra.main(version_base="1.3", config_path=None, config_name="lightning_sweep")
def main(config: Config) -> None:
    """One trial of a sweep, with Lightning's defaults wherever they cost little."""
    warnings.simplefilter("ignore")
    lightning.seed_everything(config.seed)
    normalised = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))])
    train = FashionMNIST(config.data, train=True, transform=normalised)
    val = FashionMNIST(config.data, train=False, transform=normalised)
    logger = MLFlowLogger("template", run_name=f"{config.policy} seed={config.seed}", tracking_uri=config.store)
    logger.log_hyperparams(dict(config))  # pyright: ignore[reportCallIssue, reportArgumentType]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=config.epochs,
        logger=logger,
        callbacks=[_monitor()],
        log_every_n_steps=1,
        limit_train_batches=config.limit,
        limit_val_batches=config.limit,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    loaders = DataLoader(train, config.batch_size, shuffle=True, drop_last=True), DataLoader(val, config.batch_size)
    net = Classifier(SimpleCNN(in_channels=1, num_classes=10), config.max_lr, policy=config.policy)
    trainer.fit(net, *loaders)


if __name__ == "__main__":
    main()
