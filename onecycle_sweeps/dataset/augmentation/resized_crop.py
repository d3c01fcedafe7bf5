"""Crops of random area and shape, resized to one size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onecycle_sweeps.dataset.augmentation.draws import below, fractions
from onecycle_sweeps.dataset.augmentation.transform import check_pixels

if TYPE_CHECKING:
    from torch import Tensor

    from onecycle_sweeps.dataset.augmentation.draws import Draws

ATTEMPTS = 10
# Places between pixels are rounded to this part of one: see _sampled.
PARTS = 256


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts a part of each image out and resizes it to `size` x `size`, bilinear without antialiasing.

    The part has a share of the area drawn from `scale` and a width / height drawn log-uniformly from `ratio`; after 10
    attempts that do not fit, it is the middle. The rule is that of torchvision's RandomResizedCrop (arXiv:1409.4842).
    """

    size: int
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_pixels("size", self.size)
        _check_range("scale", self.scale, 1.0)
        _check_range("ratio", self.ratio, math.inf)

    def output(self, height: int, width: int) -> tuple[int, int]:
        return self.size, self.size

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _sampled(images, *self.boxes(draws, images.shape[2], images.shape[3]), self.size)

    def boxes(self, draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of each image's part, int64 (N,)."""
        words = draws.words(2 * ATTEMPTS + 2)
        share, shape = fractions(words[:ATTEMPTS]), fractions(words[ATTEMPTS:-2])
        area = height * width * (self.scale[0] + share * (self.scale[1] - self.scale[0]))
        narrowest, widest = (math.log(bound) for bound in self.ratio)
        ratio = (narrowest + shape * (widest - narrowest)).exp_()
        widths, heights = (area * ratio).sqrt_().round_().long(), (area / ratio).sqrt_().round_().long()
        fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
        first, middle = fits.byte().argmax(0, keepdim=True), self._middle(height, width)
        high, wide = (
            sides.gather(0, first)[0].where(fits.any(0), side)
            for sides, side in zip((heights, widths), middle, strict=True)
        )
        top = below(words[-2], height - high + 1).where(fits.any(0), (height - middle[0]) // 2)
        left = below(words[-1], width - wide + 1).where(fits.any(0), (width - middle[1]) // 2)
        return top, left, high, wide

    def _middle(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the largest part with a ratio in bounds."""
        if width / height < self.ratio[0]:
            return max(1, round(width / self.ratio[0])), width
        return height, max(1, min(width, round(height * self.ratio[1])))


def _sampled(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """The boxes resized: uint8 (N, C, size, size), halves rounded up.

    Exact, so the same on every device: the places are multiples of 1/256, of which float32 holds every weight and sum
    without rounding; and images padded to 2**n + 1 pixels give grid_sample coordinates that it scales without rounding.
    """
    import torch
    from torch.nn.functional import grid_sample, pad

    rows, columns = images.shape[2:]
    side = 1 << (max(rows, columns, 2) - 1).bit_length()
    y, x = _places(top, height, size) / side, _places(left, width, size) / side
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1) * (2 / PARTS) - 1
    padded = pad(images.float(), (0, side + 1 - columns, 0, side + 1 - rows))
    return grid_sample(padded, grid, align_corners=True, padding_mode="border").add_(0.5).to(images.dtype)


def _places(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where in the image the centres of `size` pixels lie, in 256ths of a pixel within the box: int64 (N, size)."""
    import torch

    centres = torch.arange(size, device=start.device) * 2 + 1
    places = (centres * length[:, None] * PARTS + size) // (2 * size) - PARTS // 2
    return places.clamp(min=0).minimum((length[:, None] - 1) * PARTS) + start[:, None] * PARTS


def _check_range(name: str, value: Any, most: float) -> None:
    numbers = isinstance(value, Sequence) and len(value) == 2 and all(type(bound) in (int, float) for bound in value)
    if not numbers or not 0 < value[0] <= value[1] <= most or not math.isfinite(value[1]):
        bound = f" and at most {most:g}" if math.isfinite(most) else ""
        raise ValueError(f"{name} must be two numbers, the lower first, above 0{bound}, got {value!r}")
