"""Mixup and CutMix: batches whose samples are mixed in pairs, with the classes' shares as targets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from onecycle_sweeps import seeding
from onecycle_sweeps.validation import number, require


@dataclass(frozen=True)
class Mixing:
    """Mixes each sample of a batch with another one of it (arXiv:1710.09412, arXiv:1905.04899).

    `mixup` and `cutmix` are the alphas of the Beta distribution that the share of a batch is drawn from; 0 leaves one
    out, and where both are given each batch takes one at random. A batch's draws follow from (seed, step).
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        require("mixup", self.mixup, number(at_least=0))
        require("cutmix", self.cutmix, number(at_least=0))

    def __call__(self, inputs: Any, targets: Tensor, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Mixed inputs, and the share of each class, float32 (N, num_classes), of class numbers int64 (N,).

        Raises ValueError for inputs that are not one tensor of floats, of images (N, C, H, W) for CutMix.
        """
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise ValueError("mixup and cutmix need inputs that are one tensor of floating-point numbers")
        drawn = np.random.Generator(np.random.PCG64(seeding.number(f"mixing,{seed},{step}")))
        cut = bool(self.cutmix) and (not self.mixup or drawn.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share = drawn.beta(alpha, alpha)
        others = torch.from_numpy(drawn.permutation(len(inputs))).to(inputs.device)
        shares = one_hot(targets, self.num_classes).to(torch.float32)
        if cut:
            inputs, share = _cut(inputs, others, share, drawn)
        else:
            inputs = inputs.lerp(inputs[others], 1 - share)
        return inputs, shares.lerp(shares[others], 1 - share)


def _cut(inputs: Tensor, others: Tensor, share: float, drawn: np.random.Generator) -> tuple[Tensor, float]:
    """The images with a rectangle of 1 - share of the area from others, cut off at the border; and the real share."""
    if inputs.ndim != 4:
        raise ValueError(f"cutmix needs images of shape (N, C, H, W), got {tuple(inputs.shape)}")
    height, width = inputs.shape[2:]
    sides = [round(side * (1 - share) ** 0.5) for side in (height, width)]
    begins = [int(drawn.integers(side + 1)) - cut // 2 for side, cut in zip((height, width), sides, strict=True)]
    top, left = (max(0, begin) for begin in begins)
    bottom, right = (min(s, b + c) for s, b, c in zip((height, width), begins, sides, strict=True))
    mixed = inputs.clone()
    mixed[:, :, top:bottom, left:right] = inputs[others, :, top:bottom, left:right]
    return mixed, 1 - max(0, bottom - top) * max(0, right - left) / (height * width)
