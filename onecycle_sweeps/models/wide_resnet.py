"""The wide residual nets of Zagoruyko and Komodakis 2016 (arXiv:1605.07146), and fast.ai's variant of them."""

import torch.nn.functional as F
from torch import Tensor, nn


class WideResNet(nn.Module):
    """6n+4 layers: a 3x3 convolution, three stages of n blocks at 16, 32, 64 times `width` channels, a linear layer.

    (N, in_channels, H, W) -> scores (N, num_classes). Weights are drawn as in He et al. (arXiv:1502.01852).
    A block's residual is multiplied by `residual_scale`. With `activated_shortcut` each shortcut begins after batch
    norm and ReLU; in the paper only those that change the shape do. fast.ai's net (fastai 1.0.61,
    vision/models/wrn.py) has 0.2 and activated shortcuts. Raises ValueError for a depth that is not 6n+4 or a
    width below 1.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depth: int,
        width: int,
        residual_scale: float = 1.0,
        activated_shortcut: bool = False,
    ) -> None:
        super().__init__()
        if type(depth) is not int or depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n+4 for n of at least 1 (10, 16, 22, 28, 40), got {depth!r}")
        if type(width) is not int or width < 1:
            raise ValueError(f"width must be a whole number of at least 1, got {width!r}")
        blocks, channels = depth // 6, 16
        self.stem = _conv(in_channels, channels)
        stages: list[nn.Module] = []
        for stage in range(3):
            for i in range(blocks):
                wider = 16 * width * 2**stage
                stages.append(
                    WideBlock(channels, wider, 2 if stage and not i else 1, residual_scale, activated_shortcut)
                )
                channels = wider
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.scores = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stages(self.stem(images))), inplace=True)
        # Not `mean`, whose gradient would be contiguous while activations are in channels_last.
        return self.scores(F.avg_pool2d(x, x.shape[2:]).flatten(1))


class WideBlock(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, twice; the shortcut is a 1x1 convolution if the shape changes."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, residual_scale: float, activated_shortcut: bool
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, out_channels, stride=stride)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels)
        changes = stride > 1 or in_channels != out_channels
        self.shortcut = _conv(in_channels, out_channels, size=1, stride=stride) if changes else nn.Identity()
        self.activated_shortcut = activated_shortcut or changes

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x), inplace=True)
        residual = self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True))
        shortcut = self.shortcut(active if self.activated_shortcut else x)
        return shortcut + (residual if self.residual_scale == 1 else residual * self.residual_scale)


def _conv(in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv
