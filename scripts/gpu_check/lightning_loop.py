"""What people write today: a DataLoader, torchvision's transforms on PIL images, Lightning, MLFlowLogger."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import MLFlowLogger
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gpu_check.plain import Recipe

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
CIFAR = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class Pictures(Dataset):
    """Images in memory, as torchvision.datasets.CIFAR10 holds them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *steps: Any) -> None:
        self.images, self.labels, self.transform = images, labels, transforms.Compose([*steps])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class Net(lightning.LightningModule):
    """The net, with Page's schedule; it notes when each epoch has ended."""

    def __init__(self, net: nn.Module, recipe: Recipe, steps: int) -> None:
        super().__init__()
        self.net, self.recipe, self.steps = net, recipe, steps
        self.ends: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.net(images.contiguous(memory_format=torch.channels_last)), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.log("val_acc", (self.net(images).argmax(1) == labels).float().mean())

    def on_train_epoch_end(self) -> None:
        self.ends.append(time.perf_counter())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4)
        total = self.steps * self.recipe.epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.recipe.rate(step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def epochs(
    net: nn.Module, parts: tuple[np.ndarray, ...], recipe: Recipe, workers: int, folder: Path, accelerator: str
) -> list[float]:
    """The seconds of each epoch but the first; `parts` are train images (N, H, W, C) and labels, and those of val."""
    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("high")
    augmented = [transforms.RandomCrop(parts[0].shape[1], 4, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
    ending = [transforms.ToTensor(), CIFAR]
    feeding: Any = {"num_workers": workers, "pin_memory": accelerator != "cpu", "persistent_workers": workers > 0}
    train = DataLoader(
        Pictures(parts[0], parts[1], *augmented, *ending), recipe.batch_size, shuffle=True, drop_last=True, **feeding
    )
    val = DataLoader(Pictures(parts[2], parts[3], *ending), 1000, **feeding)
    module = Net(net.to(memory_format=torch.channels_last), recipe, len(train))
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=1,
        precision="bf16-mixed",
        max_epochs=recipe.epochs,
        logger=MLFlowLogger("gpu-check", tracking_uri=f"sqlite:///{folder}/mlflow.db"),
        callbacks=[LearningRateMonitor("step")],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module, train, val)
    return [end - start for start, end in zip(module.ends, module.ends[1:], strict=False)]
