"""The tensors of a split: normalised, and drawn in batches that follow from (seed, epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import tee
from typing import TYPE_CHECKING

from onecycle_sweeps.dataset.augmentation import Draws, Transform
from onecycle_sweeps.dataset.facts import Facts
from onecycle_sweeps.dataset.source import Undecoded

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One part of a data set: the samples of `images` and `labels` at the positions `index`.

    `images` is uint8 (N, C, H, W) and may be shared with another part, `labels` int64 (N,) in 0..num_classes-1 (-1 for
    a class that was left out), `index` int64 (len(self),). Where `undecoded` is set, `images` holds none of them, and
    each batch is decoded when its turn comes.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    undecoded: Undecoded | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Dataset:
    """The parts of one data set on one device; `test` is None where none is left beside `val`.

    `augment` is done to the images of each training batch, `evaluation` to those of an evaluation. `check` raises
    ValueError if images that are decoded in every epoch are no more what they were.
    """

    train: Split
    val: Split
    test: Split | None
    facts: Facts
    augment: tuple[Transform, ...] = ()
    evaluation: tuple[Callable[[Tensor], Tensor], ...] = ()
    check: Callable[[], None] = lambda: None

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 in channels_last, less the training mean, by the training deviation."""
        import torch

        whole = (1, *images.shape[1:])
        mean, std = (
            moment.expand(whole).contiguous(memory_format=torch.channels_last)
            for moment in self._moments.to(images.device)
        )
        scaled = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
        # On a CPU a copy of each plane is twice as fast as one copy that puts pixels for planes.
        for plane, given in zip(scaled.unbind(1), images.unbind(1), strict=True):
            plane.copy_(given)
        return scaled.sub_(mean).div_(std)

    @cached_property
    def _moments(self) -> Tensor:
        import torch

        moments = torch.tensor([self.facts.mean, self.facts.std], dtype=torch.float32, device=self.train.images.device)
        return moments.view(2, 1, -1, 1, 1)


def batches(
    split: Split, batch_size: int, seed: int, start: int = 0, augment: Sequence[Transform] = ()
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled batches (uint8 images, int64 labels) of `batch_size`, from step `start` on.

    The order of an epoch follows from `seed` and the epoch's number alone, and what `augment` does to an image from
    its position in the stored set besides, so the batch of a step is the same wherever the stream begins. The last
    short batch of an epoch is dropped: an epoch has len(split) // batch_size steps. Raises ValueError for a batch size
    outside 1..len(split) or a negative start.
    """
    if not 1 <= batch_size <= len(split):
        raise ValueError(f"batch_size must lie in 1..{len(split)}, the number of training samples, got {batch_size}")
    if start < 0:
        raise ValueError(f"start must be a step from 0 on, got {start}")
    return _shuffled(split, batch_size, seed, start, augment)


def evaluation_batches(
    split: Split, batch_size: int, transforms: Sequence[Callable[[Tensor], Tensor]] = ()
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every sample of the split once, in order, as (uint8 images, int64 labels); the last batch may be short.

    The images of each batch go through `transforms` in turn. Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return _in_order(split, batch_size, transforms)


def _in_order(
    split: Split, batch_size: int, transforms: Sequence[Callable[[Tensor], Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    parts = split.index.split(batch_size)
    for images, samples in zip(_images(split, parts), parts, strict=True):
        for transform in transforms:
            images = transform(images)
        yield images, split.labels.index_select(0, samples)


def _shuffled(
    split: Split, batch_size: int, seed: int, start: int, augment: Sequence[Transform]
) -> Iterator[tuple[Tensor, Tensor]]:
    drawn, ahead = tee(_order(split, batch_size, seed, start))
    pictures = _images(split, (samples for _, samples, _ in ahead))
    for images, (epoch, samples, labels) in zip(pictures, drawn, strict=True):
        for place, transform in enumerate(augment):
            images = transform(images, Draws(seed, epoch, place, samples))
        yield images, labels


def _order(split: Split, batch_size: int, seed: int, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The epoch, the positions and the labels of each batch from step `start` on, without an end."""
    epoch, first = divmod(start, len(split) // batch_size)
    while True:
        order = split.index.index_select(0, _permutation(len(split), seed, epoch).to(split.index.device))
        labels = split.labels.index_select(0, order)
        for step in range(first, len(split) // batch_size):
            here = slice(step * batch_size, (step + 1) * batch_size)
            yield epoch, order[here], labels[here]
        epoch, first = epoch + 1, 0


def _images(split: Split, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The images at each batch of positions, decoded one batch ahead where they are not in memory."""
    import torch

    if split.undecoded is None:
        yield from (split.images.index_select(0, samples) for samples in batches)
        return
    device = split.index.device
    # On a CPU a trial takes no more of the machine for decoding than it has threads for training.
    processes = torch.get_num_threads() if device.type == "cpu" else None
    for images in split.undecoded.read((samples.cpu().numpy() for samples in batches), processes):
        decoded = torch.from_numpy(images)
        # From pinned memory a copy to a GPU is made beside its work; from any other, both wait for each other.
        yield decoded if device.type == "cpu" else decoded.pin_memory().to(device, non_blocking=True)


def _permutation(size: int, seed: int, epoch: int) -> Tensor:
    import torch

    digest = hashlib.sha256(f"{seed},{epoch}".encode()).digest()
    # Drawn on the CPU whatever the device, so that every device sees the same order.
    return torch.randperm(size, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7])))
