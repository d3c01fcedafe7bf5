"""A small convolutional net that halves the image at every layer."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class SimpleCNN(nn.Module):
    """3x3 convolutions of stride 2, each with batch norm (`bn`) and ReLU, then global average pooling.

    (N, in_channels, H, W) -> scores (N, num_classes), for any H and W.
    `head="linear"` ends in a linear layer, `head="conv"` in one more convolution with num_classes channels and ReLU,
    without batch norm, whose pooled output are the scores. With `head="conv"`, `channels=(16, 16)` and `bn=False` this
    is fastai's simple_cnn((3, 16, 16, 2)) for 3 channels and 2 classes (fastai 1.0.61, layers.py).
    Raises ValueError for no channels or another head.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64),
        bn: bool = True,
        head: str = "linear",
    ) -> None:
        super().__init__()
        if not isinstance(channels, Sequence) or not channels or not all(type(c) is int and c > 0 for c in channels):
            raise ValueError(f"channels must be a list of at least one whole number above 0, got {channels}")
        if head not in ("linear", "conv"):
            raise ValueError(f"head must be linear or conv, got {head!r}")
        widths = [in_channels, *channels]
        layers = [_layer(a, b, bn) for a, b in pairwise(widths)]
        if head == "conv":
            layers.append(_layer(widths[-1], num_classes, bn=False))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_classes) if head == "linear" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        # Not `mean`, whose gradient would be contiguous while activations are in channels_last: a tenth of a step.
        return self.head(F.avg_pool2d(x, x.shape[2:]).flatten(1))


def _layer(in_channels: int, out_channels: int, bn: bool) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=not bn)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    norm = [nn.BatchNorm2d(out_channels)] if bn else []
    return nn.Sequential(conv, *norm, nn.ReLU(inplace=True))
