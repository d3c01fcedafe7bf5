"""The loop that people write in plain torch: on tensors in memory, and on photographs with torchvision."""

import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import program
from benchmarks.costs import Cost
from benchmarks.peers import SGD_SETTINGS
from benchmarks.program import Points
from benchmarks.stopwatch import stopwatch
from benchmarks.work import Work
from onecycle_sweeps.models.resnet import ResNet
from onecycle_sweeps.models.timm_nets import efficientnet_lite0

Forward = Callable[[Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
Log = Callable[[int, Mapping[str, float]], object]
LOGGED = ("lr", "momentum", "loss")


class Loop:
    """A net, SGD with Nesterov and torch's OneCycleLR."""

    def __init__(self, net: nn.Module, max_lr: float, steps: int, forward: Forward | None = None) -> None:
        self.net, self.forward = net, forward or net
        self.optimizer = SGD(net.parameters(), lr=max_lr, **SGD_SETTINGS)
        self.schedule = OneCycleLR(self.optimizer, max_lr, total_steps=steps)

    def train(self, batches: Batches, log: Log | None = None) -> None:
        """One epoch."""
        self.net.train()
        for step, (images, labels) in enumerate(batches):
            loss = cross_entropy(self.forward(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            if log:
                group = self.optimizer.param_groups[0]
                log(step, {"lr": group["lr"], "momentum": group["momentum"], "loss": loss.item()})
            self.optimizer.step()
            self.schedule.step()


def accuracy(net: nn.Module, batches: Batches, forward: Forward | None = None) -> float:
    """The share of images that a net classifies correctly."""
    net.eval()
    with torch.no_grad():
        correct = [((forward or net)(images).argmax(1) == labels) for images, labels in batches]
    return torch.cat(correct).float().mean().item()


def train(work: Work, log: Log | None = None) -> tuple[Cost, Points]:
    """Train a work from tensors in memory."""
    loop = Loop(work.net(), work.max_lr, work.steps)
    loop.train(map(work.batch, work.order), log)
    accuracy(loop.net, [work.validation()])
    return stopwatch.read(work.steps), {}


def train_with_mlflow(work: Work) -> tuple[Cost, Points]:
    """The same with three calls of mlflow.log_metric at each step."""
    import mlflow

    store = program.fresh_store(work.runs_dir)
    mlflow.set_tracking_uri(f"sqlite:///{store}")
    mlflow.set_experiment("benchmark")
    with mlflow.start_run():
        cost, _ = train(work, lambda step, values: [mlflow.log_metric(*one, step=step) for one in values.items()])
    return cost, program.only_run(store, LOGGED)


def train_photographs(
    data: str, path: Path, scratch: Path, epochs: int, seed: int, max_lr: float, batch_size: int
) -> tuple[float, float]:
    """Train on ImageFolders in bf16, with one evaluation an epoch; returns the last val accuracy and the seconds.

    The net and its first weights are the program's. An archive is unpacked first, which is not counted.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    augmented, fixed, val_name, make_net = PHOTOGRAPHS[data]
    folder = path if path.is_dir() else _unpacked(path, scratch)
    train = ImageFolder(str(folder / "train"), transforms.Compose(augmented))
    val = DataLoader(ImageFolder(str(folder / val_name), transforms.Compose(fixed)), 256)
    train = DataLoader(train, batch_size, shuffle=True, drop_last=True)
    net = make_net().to(memory_format=torch.channels_last)
    loop = Loop(net, max_lr, epochs * len(train), partial(_scores_in_bf16, net))
    began, val_accuracy = time.monotonic(), 0.0
    for _ in range(epochs):
        loop.train(train)
        val_accuracy = accuracy(net, val, loop.forward)
    return val_accuracy, time.monotonic() - began


def _scores_in_bf16(net: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net(images.contiguous(memory_format=torch.channels_last)).float()


def _unpacked(path: Path, scratch: Path) -> Path:
    with tarfile.open(path) as archive:
        archive.extractall(scratch, filter="data")
    return next(folder.parent for folder in scratch.rglob("train") if folder.is_dir())


_cifar = [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
_lite = [transforms.ToTensor(), transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3)]
# For each data set: the transforms of training and of evaluation, the folder of the evaluation, and the net.
PHOTOGRAPHS: dict[str, tuple[list, list, str, Callable[[], nn.Module]]] = {
    "cifar10_jpeg": (
        [transforms.RandomCrop(32, padding=4, padding_mode="reflect"), transforms.RandomHorizontalFlip(), *_cifar],
        _cifar,
        "test",
        partial(ResNet, depth=20, in_channels=3, num_classes=10),
    ),
    "ants_bees": (
        [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *_lite],
        [transforms.Resize(256), transforms.CenterCrop(224), *_lite],
        "val",
        partial(efficientnet_lite0, in_channels=3, num_classes=2, pretrained=True),
    ),
}
