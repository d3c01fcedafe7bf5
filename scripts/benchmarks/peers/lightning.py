"""Lightning: a LightningModule without logger, with MLFlowLogger, its Tuner, and a sweep of it under Hydra.

The sweep: python -m benchmarks.peers.lightning policy=constant,onecycle seed=0,1,2 -m
"""

import contextlib
import io
import logging
import warnings
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
from benchmarks.timing import Cost, stopwatch
from onecycle_sweeps.models.simple_cnn import SimpleCNN

# A sweep of Lightning's need not load the program.
if TYPE_CHECKING:
    from benchmarks.work import Points, Work
    from onecycle_sweeps.range_test import Ramp

LOGGED = ("lr-SGD", "lr-SGD-momentum", "train_loss")
TRAINER = {"enable_checkpointing": False, "enable_progress_bar": False, "log_every_n_steps": 1, "accelerator": "cpu"}
# What a sweep varies, and what it does not; a limit of 1.0 takes all batches.
CONFIG = {"policy": "onecycle", "seed": 0, "max_lr": 0.1, "epochs": 2, "batch_size": 128, "data": "data", "limit": 1.0}
NORMALISED = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))])
ConfigStore.instance().store(name="lightning_sweep", node=CONFIG)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
# It advises more worker processes, which only cost time where tensors are in memory.
warnings.filterwarnings("ignore", module="lightning")


class Classifier(lightning.LightningModule):
    """A net under SGD with Nesterov and one of torch's schedulers; it logs only where there is a logger."""

    def __init__(self, net: nn.Module, max_lr: float, policy: str = "onecycle") -> None:
        super().__init__()
        self.net, self.lr, self.policy = net, max_lr, policy

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        if self.trainer.loggers:
            self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        scores = self.net(images)
        accuracy = (scores.argmax(1) == labels).float().mean()
        if self.trainer.loggers:
            self.log_dict({"val_loss": cross_entropy(scores, labels), "val_acc": accuracy})

    def configure_optimizers(self) -> Any:
        steps, optimizer = int(self.trainer.estimated_stepping_batches), SGD(self.parameters(), self.lr, **SGD_SETTINGS)
        schedulers = {
            "constant": lambda: ConstantLR(optimizer, factor=1.0),
            "step": lambda: MultiStepLR(optimizer, [steps // 2, steps * 3 // 4], gamma=0.1),
            "clr": lambda: CyclicLR(optimizer, self.lr / 4, self.lr, step_size_up=steps // 4),
            "onecycle": lambda: OneCycleLR(optimizer, self.lr, total_steps=steps),
        }
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedulers[self.policy](), "interval": "step"}}


def train(work: "Work", **settings: Any) -> "tuple[Cost, Points]":
    """Train with no logger, checkpoints, progress bar or summary but those that `settings` name."""
    _trainer(work, **settings).fit(Classifier(work.net(), work.config["max_lr"]), *work.loaders())
    return stopwatch.read(work.steps), {}


def train_with_mlflow(work: "Work") -> "tuple[Cost, Points]":
    """The same with MLFlowLogger, and LearningRateMonitor at every step."""
    from benchmarks import journals

    uri = journals.fresh_store(work.runs_dir)
    logger = MLFlowLogger("benchmark", tracking_uri=uri)
    cost, _ = train(work, logger=logger, callbacks=[LearningRateMonitor("step", log_momentum=True)])
    assert logger.run_id
    return cost, journals.logged(uri, logger.run_id, LOGGED)


def range_test(work: "Work", ramp: "Ramp") -> "tuple[Cost, Points]":
    """The Tuner's lr_find, which saves the trainer's state and restores it."""
    net, trainer = Classifier(work.net(), ramp.start_lr), _trainer(work)
    trainer.fit_loop.max_epochs = None
    ends = {"min_lr": ramp.start_lr, "max_lr": ramp.end_lr, "num_training": ramp.total_steps}
    losses: list[float] = []

    def search() -> None:
        found = Tuner(trainer).lr_find(net, work.loaders()[0], **ends)
        losses.extend(found.results["loss"] if found else ())

    with contextlib.redirect_stderr(io.StringIO()):
        cost = stopwatch.whole(search, work.steps)
    return cost, {"loss": range(len(losses))}


def _trainer(work: "Work", **settings: Any) -> lightning.Trainer:
    settings = {"logger": False, "max_epochs": 1, "default_root_dir": work.runs_dir.parent} | settings
    return lightning.Trainer(**TRAINER, enable_model_summary=False, num_sanity_val_steps=0, **settings)


@hydra.main(version_base="1.3", config_path=None, config_name="lightning_sweep")
def main(config: Any) -> None:
    """One trial of a sweep, with Lightning's defaults wherever they cost little."""
    lightning.seed_everything(config.seed)
    train, val = (FashionMNIST(config.data, train=part, transform=NORMALISED) for part in (True, False))
    name = f"{config.policy} seed={config.seed}"
    logger = MLFlowLogger("template", run_name=name, tracking_uri="sqlite:///mlflow.db")
    logger.log_hyperparams(dict(config))  # pyright: ignore[reportCallIssue, reportArgumentType]
    limits = {"limit_train_batches": config.limit, "limit_val_batches": config.limit}
    monitor = LearningRateMonitor("step", log_momentum=True)
    trainer = lightning.Trainer(**TRAINER, **limits, max_epochs=config.epochs, logger=logger, callbacks=[monitor])
    loaders = DataLoader(train, config.batch_size, shuffle=True, drop_last=True), DataLoader(val, config.batch_size)
    trainer.fit(Classifier(SimpleCNN(in_channels=1, num_classes=10), config.max_lr, config.policy), *loaders)


if __name__ == "__main__":
    main()
