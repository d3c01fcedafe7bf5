"""A small U-Net, for segmentation and other images that become images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onecycle_sweeps.validation import require, whole


class UNet(nn.Module):
    """Ronneberger et al. 2015 with batch norms and padded convolutions: `depth` halvings from `width` channels on.

    (N, in_channels, H, W) -> scores (N, num_classes, H, W), for any H and W.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        require("width", width, whole(1))
        require("depth", depth, whole(1))
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip([in_channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(_twice(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x, passed = images, []
        for level, layers in enumerate(self.down):
            # A side of one pixel cannot be halved.
            x = layers(F.max_pool2d(x, 2, ceil_mode=True) if level else x)
            passed.append(x)
        passed.pop()
        for layers in self.up:
            beside = passed.pop()
            # Not interpolate, whose gradient on a GPU differs from run to run.
            doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : beside.shape[2], : beside.shape[3]]
            x = layers(torch.cat([doubled, beside], 1))
        return self.head(x)


def _twice(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)
