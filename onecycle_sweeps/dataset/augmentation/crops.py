"""Crops that keep the pixels as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onecycle_sweeps.dataset.augmentation.draws import below
from onecycle_sweeps.dataset.augmentation.transform import check_pixels

if TYPE_CHECKING:
    from torch import Tensor

    from onecycle_sweeps.dataset.augmentation.draws import Draws


@dataclass(frozen=True)
class PadCrop:
    """Pads each side by `padding` pixels, which mirror the image or are 0, and cuts the old size out at any place."""

    padding: int = 4
    mode: str = "reflect"

    def __post_init__(self) -> None:
        check_pixels("padding", self.padding)
        if self.mode not in ("reflect", "zero"):
            raise ValueError(f"mode must be reflect or zero, got {self.mode!r}")

    def output(self, height: int, width: int) -> tuple[int, int]:
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"padding must be below the smaller side of {height}x{width} images to mirror them, got {self.padding}"
            )
        return height, width

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        down, right = below(draws.words(2), 2 * self.padding + 1)
        return windows(self._padded(images), down, right, images.shape[2], images.shape[3])

    def _padded(self, images: Tensor) -> Tensor:
        from torch.nn.functional import pad

        padded = pad(images, (self.padding,) * 4)
        if self.mode == "reflect":
            for axis in (2, 3):
                _mirror_into_margins(padded, axis, self.padding)
        return padded


@dataclass(frozen=True)
class CenterCrop:
    """Cuts the middle square of `size` pixels out, where torchvision's CenterCrop does; also for evaluations."""

    size: int

    def __post_init__(self) -> None:
        check_pixels("size", self.size)

    def output(self, height: int, width: int) -> tuple[int, int]:
        if self.size > min(height, width):
            raise ValueError(f"size must be at most the smaller side of {height}x{width} images, got {self.size}")
        return self.size, self.size

    def __call__(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        top, left = (round((side - self.size) / 2) for side in images.shape[2:])
        return images[:, :, top : top + self.size, left : left + self.size]


def windows(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Out of each image of (N, C, H, W) the window (C, height, width) that begins at `top`, `left`, int64 (N,) each."""
    import torch

    images = images.contiguous()
    count, channels, rows, columns = images.shape
    image, plane = channels * rows * columns, rows * columns
    # Every window of the batch that there is, numbered by the place of its first pixel: one indexed copy per image.
    last = images.numel() - image + plane - (height - 1) * columns - width
    every = images.as_strided((last + 1, channels, height, width), (1, plane, columns, 1))
    return every.index_select(0, torch.arange(count, device=images.device) * image + top * columns + left)


def _mirror_into_margins(padded: Tensor, axis: int, padding: int) -> None:
    """Fill the margins at both ends of an axis with the image in reverse, its outermost pixels not repeated."""
    last = padded.shape[axis] - padding
    padded.narrow(axis, 0, padding).copy_(padded.narrow(axis, padding + 1, padding).flip(axis))
    padded.narrow(axis, last, padding).copy_(padded.narrow(axis, last - 1 - padding, padding).flip(axis))
