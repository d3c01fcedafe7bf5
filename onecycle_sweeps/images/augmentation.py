"""Transforms of a batch of uint8 images on their device: crops, flips and holes, all samples at once.

conf/data names the transforms by `_target_`. torch is imported only when a transform is called, so that a config can
be checked without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from onecycle_sweeps import seeding
from onecycle_sweeps.validation import require, whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PIXELS = whole(1).described("a whole number of pixels above 0")
# RandomResizedCrop tries this many areas and shapes before it takes the middle.
ATTEMPTS = 10
# RandomResizedCrop samples at multiples of 1/256 of a pixel: see _sampled.
PARTS = 256


@runtime_checkable
class Transform(Protocol):
    """A function of uint8 images (N, C, H, W) on any device that returns N images; all randomness is from `draws`.

    A transform for evaluations must work without `draws`.
    """

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result for images of this size; raises ValueError if they do not suit."""
        ...

    def __call__(self, images: Tensor, draws: Draws) -> Tensor: ...


class EpochWords:
    """The random words of all `size` stored samples in one epoch, for the transform at index `place` of the list.

    They depend only on (seed, epoch, place), so a sample's words do not depend on its batch, the order of batches, the
    step a training resumes from, or the device: they are drawn on the CPU and moved.
    """

    def __init__(self, seed: int, epoch: int, place: int, size: int, device: torch.device | str = "cpu") -> None:
        self._seed, self._size, self._device = seeding.number(f"{seed},{epoch},{place}"), size, device
        self._words: Tensor | None = None

    def first(self, count: int) -> Tensor:
        """The first `count` words of every sample: int64 (count, size), all 2**64 values equally likely."""
        import torch

        if self._words is None or len(self._words) < count:
            generator = torch.Generator().manual_seed(self._seed)
            # Words are drawn row by row, so the first rows are the same for any count.
            words = torch.empty(count, self._size, dtype=torch.int64).random_(-(2**63), None, generator=generator)
            self._words = words.to(self._device)
        return self._words[:count]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch for one transform; `samples`, int64 (N,), are positions in the stored set."""

    words_of_epoch: EpochWords
    samples: Tensor

    def words(self, count: int) -> Tensor:
        """`count` words for each sample of the batch: int64 (count, N), all 2**64 values equally likely."""
        if count < 1:
            raise ValueError(f"a transform must draw at least 1 word for each sample, got {count}")
        return self.words_of_epoch.first(count).index_select(1, self.samples)


def below(words: Tensor, bound: int | Tensor) -> Tensor:
    """Words as int64 in [0, bound), where `bound` is from 1 to 2**31, for all words or for each."""
    return _shifted(words, 32) * bound >> 32


def fractions(words: Tensor) -> Tensor:
    """Words as float64 in [0, 1), from their upper 53 bits."""
    return _shifted(words, 11).double().mul_(2**-53)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """The words shifted to the right, filled with zeros; torch's own shift repeats the sign."""
    return (words >> bits).bitwise_and_(2 ** (64 - bits) - 1)


@dataclass(frozen=True)
class Flip:
    """Mirrors half of the images, chosen at random, from left to right."""

    def output(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        mirrored = draws.words(1)[0] < 0
        chosen = mirrored.to(images.dtype).mul_(255).view(-1, 1, 1, 1)
        # Bitwise selection is 4 times as fast as torch.where, and allocates only the result.
        return images.flip(-1).bitwise_xor_(images).bitwise_and_(chosen).bitwise_xor_(images)


@dataclass(frozen=True)
class PadCrop:
    """Pads each side by `padding` pixels and crops to the original size at a random place.

    The padding mirrors the image (`mode` reflect) or is 0 (`mode` zero).
    """

    padding: int = 4
    mode: str = "reflect"

    def __post_init__(self) -> None:
        require("padding", self.padding, PIXELS)
        if self.mode not in ("reflect", "zero"):
            raise ValueError(f"mode must be reflect or zero, got {self.mode!r}")

    def output(self, height: int, width: int) -> tuple[int, int]:
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"padding must be smaller than both sides of {height}x{width} images to mirror them, got {self.padding}"
            )
        return height, width

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        down, right = below(draws.words(2), 2 * self.padding + 1)
        return _windows(self._padded(images), down, right, images.shape[2], images.shape[3])

    def _padded(self, images: Tensor) -> Tensor:
        from torch.nn.functional import pad

        padded = pad(images, (self.padding,) * 4)
        if self.mode == "reflect":
            for axis in (2, 3):
                _mirror_into_margins(padded, axis, self.padding)
        return padded


@dataclass(frozen=True)
class CenterCrop:
    """Crops to the middle square of `size` pixels, like torchvision's CenterCrop; also for evaluations."""

    size: int

    def __post_init__(self) -> None:
        require("size", self.size, PIXELS)

    def output(self, height: int, width: int) -> tuple[int, int]:
        if self.size > min(height, width):
            raise ValueError(f"size must be at most the smaller side of {height}x{width} images, got {self.size}")
        return self.size, self.size

    def __call__(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        top, left = (round((side - self.size) / 2) for side in images.shape[2:])
        return images[:, :, top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class Cutout:
    """Covers a square of `size` pixels in each image; its centre is at a random pixel, its edges may lie outside.

    With `inside` the whole square is in the image (github.com/davidcpage/cifar10-fast). Its colour is `mean`, in the
    units of the uint8 images: a trial passes the mean that images are normalised with, so that the net sees zeros, as
    in arXiv:1708.04552.
    """

    size: int
    mean: Sequence[float] = (0.0,)
    inside: bool = False

    def __post_init__(self) -> None:
        require("size", self.size, PIXELS)
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
        """Which of `length` pixels the square covers, along one axis: bool (N, length)."""
        import torch

        start = below(words, length - self.size + 1) if self.inside else below(words, length) - self.size // 2
        pixels = torch.arange(length, device=words.device)
        return (pixels >= start[:, None]) & (pixels < start[:, None] + self.size)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Crops each image at random and resizes the part to `size` x `size`, bilinear without antialiasing.

    The part's share of the area is drawn from `scale`, and its width / height log-uniformly from `ratio`; after 10
    draws that do not fit, it is the middle. This is the rule of torchvision's RandomResizedCrop (arXiv:1409.4842).
    """

    size: int
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        require("size", self.size, PIXELS)
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


@lru_cache
def _colour(mean: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A value for each channel, (1, C, 1, 1); cached, because each copy to a GPU would wait for it."""
    import torch

    return torch.tensor(mean, dtype=dtype, device=device).view(1, -1, 1, 1)


def _windows(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """The window (C, height, width) of each of N images that begins at its `top`, `left`, int64 (N,)."""
    import torch

    images = images.contiguous()
    count, channels, rows, columns = images.shape
    image, plane = channels * rows * columns, rows * columns
    # A view of every window in the batch, indexed by its first pixel, needs one indexed copy per image.
    last = images.numel() - image + plane - (height - 1) * columns - width
    every = images.as_strided((last + 1, channels, height, width), (1, plane, columns, 1))
    return every.index_select(0, torch.arange(count, device=images.device) * image + top * columns + left)


def _mirror_into_margins(padded: Tensor, axis: int, padding: int) -> None:
    """Fill the margins of an axis with the mirrored image, without repeating its outermost pixels."""
    last = padded.shape[axis] - padding
    padded.narrow(axis, 0, padding).copy_(padded.narrow(axis, padding + 1, padding).flip(axis))
    padded.narrow(axis, last, padding).copy_(padded.narrow(axis, last - 1 - padding, padding).flip(axis))


def _sampled(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """The boxes resized: uint8 (N, C, size, size), halves rounded up.

    The result is the same on every device, because nothing is rounded before the end: float32 holds all weights and
    sums of places that are multiples of 1/256, and grid_sample scales coordinates in images padded to 2**n + 1 pixels
    exactly.
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
    """The places in the image of the centres of `size` pixels across a box, in 256ths of a pixel: int64 (N, size)."""
    import torch

    centres = torch.arange(size, device=start.device) * 2 + 1
    places = (centres * length[:, None] * PARTS + size) // (2 * size) - PARTS // 2
    return places.clamp(min=0).minimum((length[:, None] - 1) * PARTS) + start[:, None] * PARTS


def _check_range(name: str, value: Any, most: float) -> None:
    numbers = isinstance(value, Sequence) and len(value) == 2 and all(type(bound) in (int, float) for bound in value)
    if not numbers or not 0 < value[0] <= value[1] <= most or not math.isfinite(value[1]):
        bound = f" and at most {most:g}" if math.isfinite(most) else ""
        raise ValueError(f"{name} must be two numbers in ascending order, above 0{bound}, got {value!r}")
