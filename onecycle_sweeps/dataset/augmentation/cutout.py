"""Holes in images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from onecycle_sweeps.dataset.augmentation.draws import below
from onecycle_sweeps.dataset.augmentation.transform import check_pixels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from onecycle_sweeps.dataset.augmentation.draws import Draws


@dataclass(frozen=True)
class Cutout:
    """Covers one square of `size` pixels in each image, its centre at any pixel, cut off at the image's edges.

    With `inside` the square lies wholly inside the image, equally often at each place (github.com/davidcpage/
    cifar10-fast). It has the colour `mean`, in the units of the uint8 images: a trial gives it the mean that images are
    normalised with, so that the net sees zeros, as in arXiv:1708.04552.
    """

    size: int
    mean: Sequence[float] = (0.0,)
    inside: bool = False

    def __post_init__(self) -> None:
        check_pixels("size", self.size)
        if type(self.inside) is not bool:
            raise ValueError(f"inside must be true or false, got {self.inside!r}")
        if not self.mean or not all(0 <= value <= 255 for value in self.mean):
            raise ValueError(f"mean must be a value in [0, 255] for each channel, got {self.mean!r}")

    def output(self, height: int, width: int) -> tuple[int, int]:
        if self.size > min(height, width):
            raise ValueError(f"size must be at most the smaller side of {height}x{width} images, got {self.size}")
        return height, width

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        top, left = draws.words(2)
        rows, columns = self._covered(top, images.shape[2]), self._covered(left, images.shape[3])
        colour = _colour(tuple(round(value) for value in self.mean), images.dtype, images.device)
        return colour.where(rows[:, None, :, None] & columns[:, None, None, :], images)

    def _covered(self, words: Tensor, length: int) -> Tensor:
        """Which of `length` pixels the square covers: bool (N, length)."""
        import torch

        start = below(words, length - self.size + 1) if self.inside else below(words, length) - self.size // 2
        pixels = torch.arange(length, device=words.device)
        return (pixels >= start[:, None]) & (pixels < start[:, None] + self.size)


@lru_cache
def _colour(mean: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A value for each channel (1, C, 1, 1): copied to a GPU once, since each copy would wait for the GPU."""
    import torch

    return torch.tensor(mean, dtype=dtype, device=device).view(1, -1, 1, 1)
