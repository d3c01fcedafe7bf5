"""The tensors of a split: mapped from the cache, normalised, and drawn in batches that follow from (seed, epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onecycle_sweeps.dataset import cache
from onecycle_sweeps.dataset.facts import Facts, positions

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One part of a data set: the samples of `images` and `labels` at the positions `index`.

    `images` is uint8 (N, C, H, W) and may be shared with another part, `labels` int64 (N,) in 0..num_classes-1 (-1 for
    a class that was left out), `index` int64 (len(self),).
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Dataset:
    """The parts of one data set on one device; `test` is None where the official test part serves as `val`."""

    train: Split
    val: Split
    test: Split | None
    facts: Facts

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 in channels_last, less the training mean, by the training deviation."""
        import torch

        mean, std = self._moments.to(images.device)
        return images.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(std)

    @cached_property
    def _moments(self) -> Tensor:
        import torch

        moments = torch.tensor([self.facts.mean, self.facts.std], dtype=torch.float32, device=self.train.images.device)
        return moments.view(2, 1, -1, 1, 1)


def load(folder: Path, facts: Facts, device: torch.device | str) -> Dataset:
    """Map the cached arrays of a prepared split; on a CPU nothing is copied, and processes share the pages.

    Raises ValueError, with the file and what to do, for an array that is missing or damaged.
    """
    labels = cache.mapped(folder, "train_labels")
    train, held_out = positions(labels, facts.val_fraction, facts.split_seed, facts.classes)
    test_labels = cache.mapped(folder, "test_labels")
    official, _ = positions(test_labels, 0.0, facts.split_seed, facts.classes)
    own = _split(cache.mapped(folder, "train_images"), labels, train, facts, device)
    other = _split(cache.mapped(folder, "test_images"), test_labels, official, facts, device)
    if not facts.val_fraction:
        return Dataset(own, other, None, facts)
    return Dataset(own, Split(own.images, own.labels, _tensor(held_out, device)), other, facts)


def batches(split: Split, batch_size: int, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled batches (uint8 images, int64 labels) of `batch_size`, from step `start` on.

    The order of an epoch follows from `seed` and the epoch's number alone, so the batch of a step is the same wherever
    the stream begins. The last short batch of an epoch is dropped: an epoch has len(split) // batch_size steps.
    Raises ValueError for a batch size outside 1..len(split) or a negative start.
    """
    if not 1 <= batch_size <= len(split):
        raise ValueError(f"batch_size must lie in 1..{len(split)}, the number of training samples, got {batch_size}")
    if start < 0:
        raise ValueError(f"start must be a step from 0 on, got {start}")
    return _shuffled(split, batch_size, seed, start)


def evaluation_batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every sample of the split once, in order, as (uint8 images, int64 labels); the last batch may be short.

    Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return ((split.images.index_select(0, i), split.labels.index_select(0, i)) for i in split.index.split(batch_size))


def _shuffled(split: Split, batch_size: int, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    epoch, first = divmod(start, len(split) // batch_size)
    while True:
        order = split.index.index_select(0, _permutation(len(split), seed, epoch).to(split.index.device))
        labels = split.labels.index_select(0, order)
        for step in range(first, len(split) // batch_size):
            here = slice(step * batch_size, (step + 1) * batch_size)
            yield split.images.index_select(0, order[here]), labels[here]
        epoch, first = epoch + 1, 0


def _permutation(size: int, seed: int, epoch: int) -> Tensor:
    import torch

    digest = hashlib.sha256(f"{seed},{epoch}".encode()).digest()
    # Drawn on the CPU whatever the device, so that every device sees the same order.
    return torch.randperm(size, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7])))


def _split(
    images: np.ndarray, labels: np.ndarray, index: np.ndarray, facts: Facts, device: torch.device | str
) -> Split:
    if facts.classes is not None:
        numbers = np.full(1 + max(labels.max(), *facts.classes), -1)
        numbers[list(facts.classes)] = np.arange(len(facts.classes))
        labels = numbers[labels]
    return Split(_tensor(images, device), _tensor(labels, device), _tensor(index, device))


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    import torch

    return torch.from_numpy(array).to(device)
