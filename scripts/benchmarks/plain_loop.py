"""The loop that people write today, beside which the program's accuracies and times are read.

torchvision's ImageFolder and transforms, a DataLoader, torch's own schedulers stepped by hand, one evaluation an epoch.
The net and its first weights are the program's, so that what differs is the loop. Prints a line of JSON.
"""

import argparse
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from onecycle_sweeps.models.resnet import ResNet
from onecycle_sweeps.models.timm_nets import efficientnet_lite0

CIFAR = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
LITE = transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3)


def main() -> None:
    """Train once and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=["cifar10_jpeg", "ants_bees"])
    parser.add_argument("path", type=Path, help="the .tar or folder that holds train/CLASS/* beside test/ or val/")
    parser.add_argument("--policy", choices=["onecycle", "step"], default="onecycle")
    parser.add_argument("--max-lr", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        train, val, net = parts(options.data, unpacked(options.path, Path(scratch)), options.batch_size)
        net = net().to(memory_format=torch.channels_last)
        began, accuracies = time.monotonic(), list(training(net, train, val, options))
    seconds = time.monotonic() - began
    print(json.dumps(vars(options) | {"path": None, "val_accuracy": accuracies, "seconds": seconds}))


def unpacked(path: Path, scratch: Path) -> Path:
    """The folder of images; an archive is unpacked first, which is not counted."""
    if path.is_dir():
        return path
    with tarfile.open(path) as archive:
        archive.extractall(scratch, filter="data")
    return next(folder.parent for folder in scratch.rglob("train") if folder.is_dir())


def parts(data: str, folder: Path, batch_size: int) -> tuple[DataLoader, DataLoader, Callable[[], nn.Module]]:
    """The loaders of both parts and the net's constructor."""
    if data == "cifar10_jpeg":
        ending = [transforms.ToTensor(), CIFAR]
        crop = transforms.RandomCrop(32, padding=4, padding_mode="reflect")
        training = [crop, transforms.RandomHorizontalFlip(), *ending]
        evaluating, held_out = ending, "test"
        net = lambda: ResNet(depth=20, in_channels=3, num_classes=10)  # noqa: E731
    else:
        ending = [transforms.ToTensor(), LITE]
        training = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *ending]
        evaluating, held_out = [transforms.Resize(256), transforms.CenterCrop(224), *ending], "val"
        net = lambda: efficientnet_lite0(in_channels=3, num_classes=2, pretrained=True)  # noqa: E731
    train = ImageFolder(str(folder / "train"), transforms.Compose(training))
    val = ImageFolder(str(folder / held_out), transforms.Compose(evaluating))
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(val, 256), net


def training(net: nn.Module, train: DataLoader, val: DataLoader, options: argparse.Namespace) -> Iterator[float]:
    """Train; yields the val accuracy after each epoch."""
    momentum = {"momentum": 0.9, "nesterov": True, "weight_decay": options.weight_decay}
    optimizer = torch.optim.SGD(net.parameters(), lr=options.max_lr, **momentum)
    schedule: LRScheduler
    if options.policy == "onecycle":
        schedule = OneCycleLR(optimizer, options.max_lr, total_steps=options.epochs * len(train))
    else:
        schedule = StepLR(optimizer, step_size=7 * len(train), gamma=0.1)
    for _ in range(options.epochs):
        net.train()
        for images, labels in train:
            loss = cross_entropy(scores(net, images, options.bf16), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            correct = sum(int((scores(net, x, options.bf16).argmax(1) == y).sum()) for x, y in val)
        yield correct / len(val.dataset)  # pyright: ignore[reportArgumentType]


def scores(net: nn.Module, images: Tensor, bf16: bool) -> Tensor:
    """The net's class scores in fp32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return net(images.contiguous(memory_format=torch.channels_last)).float()


if __name__ == "__main__":
    main()
