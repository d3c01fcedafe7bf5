"""David Page's ResNet-9 for CIFAR-10 (github.com/davidcpage/cifar10-fast, dawn.py)."""

import torch.nn.functional as F
from torch import Tensor, nn

SCORE_SCALE = 0.125


class ResNet9(nn.Module):
    """Four 3x3 convolutions of 64, 128, 256 and 512 channels, two residual pairs, max pooling, a linear layer.

    (N, in_channels, H, W) -> scores (N, num_classes), for images of at least 8x8 pixels; the last pooling takes the
    maximum of each map, which at 32x32 is Page's 4x4 pool. The scores are those of the linear layer, which has no bias,
    times 0.125. Weights are torch's defaults, as in Page's code.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.prep = _conv(in_channels, 64)
        self.layer1 = nn.Sequential(_conv(64, 128), nn.MaxPool2d(2), Residual(128))
        self.layer2 = nn.Sequential(_conv(128, 256), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(_conv(256, 512), nn.MaxPool2d(2), Residual(512))
        self.linear = nn.Linear(512, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.prep(images))))
        return SCORE_SCALE * self.linear(F.max_pool2d(x, x.shape[2:]).flatten(1))


class Residual(nn.Module):
    """Two convolutions, each with batch norm and ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.res1 = _conv(channels, channels)
        self.res2 = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res2(self.res1(x))


def _conv(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
