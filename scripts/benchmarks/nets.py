"""The program's nets by the names of conf/model, and a step of one on images that nothing is learned from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.trials import composed
from onecycle_sweeps import settings

# Channels and side of the images that a net is timed on: Fashion-MNIST's or CIFAR's.
IMAGES = {"simple_cnn": (1, 28), "lenet": (1, 28), "resnet20": (3, 32), "resnet9": (3, 32)}


def net(name: str, in_channels: int) -> nn.Module:
    """A fresh net of 10 classes in channels_last."""
    torch.manual_seed(0)
    node = settings.plain(composed(f"model={name}"))["model"]
    return settings.build("model", node, in_channels=in_channels, num_classes=10).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Setting:
    """How a step is computed; `update` is torch's way to run an optimizer: fused, foreach or for-loop."""

    bf16: bool = False
    channels_last: bool = True
    optimizer: str = "SGD"
    update: str = "foreach"
    compiled: bool = False

    @property
    def numbers(self) -> str:
        """Precision and memory format."""
        return f"{'bf16' if self.bf16 else 'fp32'}, {'channels_last' if self.channels_last else 'contiguous'}"


def stepper(name: str, setting: Setting, batch: int) -> Callable[[], None]:
    """One training step of a net on the same images again and again."""
    channels, side = IMAGES[name]
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    model = net(name, channels).to(memory_format=layout)
    ways = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}
    own: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if setting.optimizer == "SGD" else {}
    optimizer = getattr(torch.optim, setting.optimizer)(model.parameters(), lr=1e-3, **own, **ways[setting.update])
    images = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (batch,))
    forward = torch.compile(model) if setting.compiled else model

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
            scores = forward(images)
        loss = cross_entropy(scores.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
