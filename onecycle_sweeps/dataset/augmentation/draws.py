"""Random numbers that follow from (seed, epoch, sample, place in the list of transforms) and from nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# How many words of its own a sample has for one transform in one epoch.
WORDS = 64
# The constants of splitmix64, as torch's signed integers.
GAMMA, FIRST, SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch for one transform; `samples` (N,) int64 are positions in the stored set.

    The generator is splitmix64 (Steele, Lea and Flood, OOPSLA 2014) at a counter made from the sample: plain integer
    arithmetic, so the same bits on every device, in a batch of any size and order, and after any resume.
    """

    seed: int
    epoch: int
    place: int
    samples: Tensor

    def words(self, count: int) -> Tensor:
        """`count` words for each sample: int64 (count, N), all 2**64 values equally likely.

        Raises ValueError for more than 64: the next sample's words begin there.
        """
        import torch

        if not 1 <= count <= WORDS:
            raise ValueError(f"a transform may draw 1..{WORDS} words for a sample, got {count}")
        digest = hashlib.sha256(f"{self.seed},{self.epoch},{self.place}".encode()).digest()
        numbers = torch.arange(count, device=self.samples.device)
        return splitmix64(int.from_bytes(digest[:8], signed=True), self.samples * WORDS + numbers[:, None])


def splitmix64(key: int, counters: Tensor) -> Tensor:
    """The outputs, counted from 0, that the generator seeded with `key` has at these counters; all are int64."""
    words = (counters + 1).mul_(GAMMA).add_(key)
    words = (words ^ _shifted(words, 30)).mul_(FIRST)
    words = (words ^ _shifted(words, 27)).mul_(SECOND)
    return words ^ _shifted(words, 31)


def below(words: Tensor, bound: int | Tensor) -> Tensor:
    """Words as whole numbers in [0, bound), int64; `bound` from 1 to 2**31, one for all or one for each word."""
    return _shifted(words, 32) * bound >> 32


def fractions(words: Tensor) -> Tensor:
    """Words as float64 in [0, 1), by their upper 53 bits."""
    return _shifted(words, 11).double().mul_(2**-53)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shifted to the right with zeros moving in, where torch repeats the sign."""
    return (words >> bits).bitwise_and_(2 ** (64 - bits) - 1)
