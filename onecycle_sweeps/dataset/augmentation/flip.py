"""Horizontal flips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from onecycle_sweeps.dataset.augmentation.draws import Draws


@dataclass(frozen=True)
class Flip:
    """Mirrors every second image, on average, from left to right."""

    def output(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        mirrored = draws.words(1)[0] < 0
        chosen = mirrored.to(images.dtype).mul_(255).view(-1, 1, 1, 1)
        # The bits of one or the other: 4 times as fast as torch.where, and nothing but the result is allocated.
        return images.flip(-1).bitwise_xor_(images).bitwise_and_(chosen).bitwise_xor_(images)
