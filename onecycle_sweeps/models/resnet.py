"""The residual nets for CIFAR of He et al. 2015 (arXiv:1512.03385, section 4.2)."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResNet(nn.Module):
    """6n+2 layers: a 3x3 convolution, three stages of n blocks at 16, 32 and 64 channels, pooling, a linear layer.

    (N, in_channels, H, W) -> scores (N, num_classes). A shortcut that changes shape drops every second pixel and pads
    channels with zeros (option A), so it has no parameters. Weights are drawn as in He et al. (arXiv:1502.01852).
    Raises ValueError for a depth that is not 6n+2.
    """

    def __init__(self, in_channels: int, num_classes: int, depth: int) -> None:
        super().__init__()
        if type(depth) is not int or depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n+2 for n of at least 1 (8, 14, 20, 32, 44, 56, 110), got {depth!r}")
        blocks = depth // 6
        self.stem = _conv(in_channels, 16, stride=1)
        self.norm = nn.BatchNorm2d(16)
        self.stages = nn.Sequential(
            *(ResidualBlock(16, 16) for _ in range(blocks)),
            *(ResidualBlock(16 if i == 0 else 32, 32) for i in range(blocks)),
            *(ResidualBlock(32 if i == 0 else 64, 64) for i in range(blocks)),
        )
        self.scores = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(images)), inplace=True)
        x = self.stages(x)
        # Not `mean`, whose gradient would be contiguous while activations are in channels_last.
        return self.scores(F.avg_pool2d(x, x.shape[2:]).flatten(1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input; the image is halved if the channels increase."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.added = out_channels - in_channels
        self.conv1 = _conv(in_channels, out_channels, stride=2 if self.added else 1)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, stride=1)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True)))
        if self.added:
            # Drops every second pixel; unlike a slice's, the gradient of this pooling stays in channels_last.
            x = F.pad(F.avg_pool2d(x, 1, stride=2), (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return F.relu(residual.add_(x), inplace=True)


def _conv(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv
