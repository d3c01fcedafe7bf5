"""A sweep as it is written today: Hydra's basic launcher over a Lightning module, with every step in MLflow.

python -m benchmarks.template policy=constant,onecycle seed=0,1,2 -m
"""

import os
import warnings
from dataclasses import dataclass
from typing import Any

import hydra
import lightning
import torch
from hydra.core.config_store import ConfigStore
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from onecycle_sweeps.models.simple_cnn import SimpleCNN


@dataclass
class Config:
    """What is swept, and what is not; a limit of 1.0 takes all batches."""

    policy: str = "onecycle"
    seed: int = 0
    max_lr: float = 0.1
    epochs: int = 2
    batch_size: int = 128
    data: str = os.environ.get("ONECYCLE_DATA", "data")
    store: str = "sqlite:///mlflow.db"
    limit: Any = 1.0


ConfigStore.instance().store(name="template", node=Config)


class Classifier(lightning.LightningModule):
    """The program's simple_cnn under SGD with Nesterov and one of torch's schedulers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = SimpleCNN(in_channels=1, num_classes=10)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        scores = self.net(images)
        self.log("val_loss", cross_entropy(scores, labels))
        self.log("val_acc", (scores.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        rate, steps = self.config.max_lr, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.SGD(self.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
        schedulers = {
            "constant": lambda: ConstantLR(optimizer, factor=1.0),
            "step": lambda: MultiStepLR(optimizer, [steps // 2, steps * 3 // 4], gamma=0.1),
            "clr": lambda: CyclicLR(optimizer, rate / 4, rate, step_size_up=steps // 4),
            "onecycle": lambda: OneCycleLR(optimizer, rate, total_steps=steps),
        }
        scheduler = schedulers[self.config.policy]()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@hydra.main(version_base="1.3", config_path=None, config_name="template")
def main(config: Config) -> None:
    """One trial."""
    warnings.simplefilter("ignore")
    lightning.seed_everything(config.seed)
    whitened = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))])
    train = FashionMNIST(config.data, train=True, transform=whitened)
    val = FashionMNIST(config.data, train=False, transform=whitened)
    logger = MLFlowLogger("template", run_name=f"{config.policy} seed={config.seed}", tracking_uri=config.store)
    logger.log_hyperparams(dict(config))  # pyright: ignore[reportCallIssue, reportArgumentType]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=config.epochs,
        logger=logger,
        callbacks=[LearningRateMonitor(logging_interval="step", log_momentum=True)],
        log_every_n_steps=1,
        limit_train_batches=config.limit,
        limit_val_batches=config.limit,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    loaders = DataLoader(train, config.batch_size, shuffle=True, drop_last=True), DataLoader(val, config.batch_size)
    trainer.fit(Classifier(config), *loaders)


if __name__ == "__main__":
    main()
