"""The loop that people write in plain torch, on photographs in folders with torchvision."""

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.peers.torch_loop import Loop, accuracy
from onecycle_sweeps.models.resnet import ResNet
from onecycle_sweeps.models.timm_nets import efficientnet_lite0


class InBf16(nn.Module):
    """A net in channels_last under bf16 autocast."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(images.contiguous(memory_format=torch.channels_last)).float()


def train(
    data: str, path: Path, scratch: Path, epochs: int, seed: int, max_lr: float, batch_size: int
) -> tuple[float, float]:
    """The last val accuracy and the seconds of a training on image folders in bf16; unpacking is not counted."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    augment, evaluate, val_name, make_net = PHOTOGRAPHS[data]
    if path.is_file():
        shutil.unpack_archive(path, scratch / "images", filter="data")
        path = next(found.parent for found in (scratch / "images").rglob("train"))
    train = ImageFolder(str(path / "train"), transforms.Compose(augment))
    val = ImageFolder(str(path / val_name), transforms.Compose(evaluate))
    batches, val_batches = DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(val, 256)
    loop = Loop(InBf16(make_net()), max_lr, epochs * len(batches))
    began, val_accuracy = time.monotonic(), 0.0
    for _ in range(epochs):
        loop.train(batches)
        val_accuracy = accuracy(loop.net, val_batches)
    return val_accuracy, time.monotonic() - began


_crop, _flip = transforms.RandomCrop(32, padding=4, padding_mode="reflect"), transforms.RandomHorizontalFlip()
_cifar = [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
_lite = [transforms.ToTensor(), transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3)]
_whole = [transforms.Resize(256), transforms.CenterCrop(224), *_lite]
_resnet20 = partial(ResNet, depth=20, in_channels=3, num_classes=10)
_lite0 = partial(efficientnet_lite0, in_channels=3, num_classes=2, pretrained=True)
# For each data set: the transforms of training and of evaluation, the folder of the evaluation, and the net.
PHOTOGRAPHS: dict[str, tuple[list[Any], list[Any], str, Callable[[], nn.Module]]] = {
    "cifar10_jpeg": ([_crop, _flip, *_cifar], _cifar, "test", _resnet20),
    "ants_bees": ([transforms.RandomResizedCrop(224), _flip, *_lite], _whole, "val", _lite0),
}
