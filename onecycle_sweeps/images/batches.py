"""The tensors of a split: mapped from the cache, normalised, and shuffled into batches by seed and epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps import seeding
from onecycle_sweeps.images import cache
from onecycle_sweeps.images.arrays import Source, Undecoded
from onecycle_sweeps.images.augmentation import Draws, EpochWords, Transform
from onecycle_sweeps.images.facts import Facts, positions

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# This many bytes of images are made into batches at once on a GPU.
BYTES_AT_ONCE, ALIGNED = 2**25, 16
# The most images and values of an evaluation batch. Activations should fit a CPU's caches: with a dozen photographs
# each takes a third of the time. A GPU needs larger batches: 222 photographs of 224x224.
EVALUATION_BATCH = {"cpu": (1024, 2**21), "cuda": (4096, 2**25)}


@dataclass(frozen=True)
class Split:
    """One part of a data set: the samples of `images` and `labels` at the positions `index`.

    `images` is uint8 (N, C, H, W) and may be shared with another part, `labels` int64 (N,) in 0..num_classes-1 (-1 for
    a class that is not used), `index` int64 (len(self),). If `undecoded` is set, `images` is empty and batches are
    decoded as they are drawn.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    undecoded: Undecoded | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class ImageBatches:
    """The parts of a data set of images on one device, in batches; `test` is None if the official test part is `val`.

    Training batches have `batch_size` images and go through `augment`, those of evaluations through `evaluation`.
    `check` raises ValueError if images that are decoded in every epoch have changed.
    """

    train: Split
    val: Split
    test: Split | None
    facts: Facts
    batch_size: int
    augment: tuple[Transform, ...] = ()
    evaluation: tuple[Callable[[Tensor], Tensor], ...] = ()
    check: Callable[[], None] = lambda: None

    @property
    def unit(self) -> str:
        return "images"

    @property
    def device(self) -> torch.device:
        return self.train.index.device

    @property
    def in_memory(self) -> bool:
        return not any(split.undecoded for split in self._splits.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.facts.doubts

    @property
    def offered(self) -> Mapping[str, Any]:
        return self.facts.offered

    @property
    def sizes(self) -> Mapping[str, int]:
        return {part: len(split) for part, split in self._splits.items()}

    def train_batches(self, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches of normalised images and labels from step `start` on: see `batches`."""
        return batches(self.train, self.batch_size, seed, start, self.augment, self.normalise)

    def part_batches(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Every sample of a part once, in order: normalised images and labels."""
        most, values = EVALUATION_BATCH["cpu" if self.device.type == "cpu" else "cuda"]
        size = min(most, max(1, values // (self.facts.in_channels * self.facts.height * self.facts.width)))
        for images, labels in evaluation_batches(self._splits[part], size, self.evaluation):
            yield self.normalise(images), labels

    def targets(self, part: str) -> Tensor:
        """The labels of a part."""
        split = self._splits[part]
        return split.labels.index_select(0, split.index)

    @property
    def _splits(self) -> dict[str, Split]:
        return {"train": self.train, "val": self.val} | ({"test": self.test} if self.test else {})

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 in channels_last, less the training mean, divided by the deviation."""
        import torch

        if images.device.type != "cpu":
            scaled = images.to(torch.float32, memory_format=torch.channels_last)
            return scaled.sub_(self._moments[0]).div_(self._moments[1])
        whole = (1, *images.shape[1:])
        mean, std = (
            moment.expand(whole).contiguous(memory_format=torch.channels_last)
            for moment in self._moments.to(images.device)
        )
        scaled = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
        # On a CPU a copy of each plane is twice as fast as one NCHW to NHWC copy.
        for plane, given in zip(scaled.unbind(1), images.unbind(1), strict=True):
            plane.copy_(given)
        return scaled.sub_(mean).div_(std)

    @cached_property
    def _moments(self) -> Tensor:
        import torch

        moments = torch.tensor([self.facts.mean, self.facts.std], dtype=torch.float32, device=self.train.images.device)
        return moments.view(2, 1, -1, 1, 1)


def batches(
    split: Split,
    batch_size: int,
    seed: int,
    start: int = 0,
    augment: Sequence[Transform] = (),
    finish: Callable[[Tensor], Tensor] = lambda images: images,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled batches (uint8 images, int64 labels) of `batch_size`, from step `start` on.

    The order of an epoch depends only on `seed` and the epoch, and what `augment` does to an image also on its position
    in the stored set, so a step has the same batch for any `start`. The last short batch of an epoch is dropped: an
    epoch has len(split) // batch_size steps. Raises ValueError for a batch size outside 1..len(split) or a negative
    start.
    """
    if not 1 <= batch_size <= len(split):
        raise ValueError(f"batch_size must lie in 1..{len(split)}, the number of training samples, got {batch_size}")
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    return _shuffled(split, batch_size, seed, start, augment, finish)


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
    split: Split,
    batch_size: int,
    seed: int,
    start: int,
    augment: Sequence[Transform],
    finish: Callable[[Tensor], Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    drawn, ahead = tee(_order(split, batch_size, seed, start, _together(split, batch_size, augment)))
    pictures = _images(split, (samples for _, samples, _ in ahead))
    words_of: tuple[int, list[EpochWords]] = (-1, [])
    for images, (epoch, samples, labels) in zip(pictures, drawn, strict=True):
        if epoch != words_of[0]:
            size, device = len(split.labels), samples.device
            words_of = epoch, [EpochWords(seed, epoch, place, size, device) for place in range(len(augment))]
        for transform, words in zip(augment, words_of[1], strict=True):
            images = transform(images, Draws(words, samples))
        yield from zip(finish(images).split(batch_size), labels.split(batch_size), strict=True)


def _together(split: Split, batch_size: int, augment: Sequence[Transform]) -> int:
    """How many batches are made at once: on a GPU as many as fit in BYTES_AT_ONCE, on a CPU one.

    Starting a GPU's kernels takes longer than the work on one batch. It is also one batch with a user's transforms,
    which may mix the images of a batch, and where a batch would begin at an address that is not a multiple of ALIGNED,
    because kernels could round differently there.
    """
    own = all(type(transform).__module__ == Draws.__module__ for transform in augment)
    alone = split.images.device.type == "cpu" or split.undecoded or not own
    if alone or batch_size * split.images[0].numel() % ALIGNED:
        return 1
    return max(1, BYTES_AT_ONCE // (batch_size * split.images[0].numel()))


def _order(split: Split, batch_size: int, seed: int, start: int, together: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The epoch, the positions and the labels of up to `together` batches at a time, from step `start` on."""
    steps = len(split) // batch_size
    epoch, first = divmod(start, steps)
    while True:
        order = split.index.index_select(0, seeding.order(len(split), seed, epoch).to(split.index.device))
        labels = split.labels.index_select(0, order)
        for step in range(first, steps, together):
            here = slice(step * batch_size, min(step + together, steps) * batch_size)
            yield epoch, order[here], labels[here]
        epoch, first = epoch + 1, 0


def _images(split: Split, index: Iterable[Tensor]) -> Iterator[Tensor]:
    """The images at each batch of positions, decoded one batch ahead if they are not in memory."""
    import torch

    if split.undecoded is None:
        yield from (split.images.index_select(0, samples) for samples in index)
        return
    device = split.index.device
    # On a CPU a trial decodes in as many processes as it has threads.
    processes = torch.get_num_threads() if device.type == "cpu" else None
    for images in split.undecoded.read((samples.cpu().numpy() for samples in index), processes):
        decoded = torch.from_numpy(images)
        # Only a copy from pinned memory overlaps with the GPU's work.
        yield decoded if device.type == "cpu" else decoded.pin_memory().to(device, non_blocking=True)


def load(
    folder: Path, facts: Facts, batch_size: int, device: torch.device | str, read: Callable[[], Source] | None = None
) -> ImageBatches:
    """Map the cached arrays of a prepared split; on a CPU nothing is copied, and processes share the pages.

    `read` returns the source again if the cache keeps no pixels. Raises ValueError, with the file and what to do, for
    an array that is missing or damaged, and for a source that is not what the cache was made from.
    """
    source = None
    if not cache.keeps_pixels(folder):
        if read is None:
            raise ValueError(f"{folder} keeps no pixels: `read` must return the source that decodes the images")
        source = read()
    train, held_out = positions(
        cache.mapped(folder, "train_labels"), facts.val_fraction, facts.split_seed, facts.classes
    )
    official, _ = positions(cache.mapped(folder, "test_labels"), 0.0, facts.split_seed, facts.classes)
    own = _split(folder, "train", train, facts, device, source)
    other = _split(folder, "test", official, facts, device, source)
    test = other if facts.test else None
    if cache.has_val(folder):
        index, _ = positions(cache.mapped(folder, "val_labels"), 0.0, facts.split_seed, facts.classes)
        return ImageBatches(own, _split(folder, "val", index, facts, device, source), test, facts, batch_size)
    if not facts.val_fraction:
        return ImageBatches(own, other, None, facts, batch_size)
    val = Split(own.images, own.labels, _tensor(held_out, device), own.undecoded)
    return ImageBatches(own, val, test, facts, batch_size)


def _split(
    folder: Path, part: str, index: np.ndarray, facts: Facts, device: torch.device | str, source: Source | None
) -> Split:
    labels = cache.mapped(folder, f"{part}_labels")
    if source:
        undecoded = _undecoded(folder, part, labels, source)
        images = np.empty((0, *undecoded.shape[1:]), np.uint8)
    else:
        undecoded, images = None, cache.mapped(folder, f"{part}_images")
    if facts.classes is not None:
        numbers = np.full(1 + max(labels.max(initial=0), *facts.classes), -1)
        numbers[list(facts.classes)] = np.arange(len(facts.classes))
        labels = numbers[labels]
    return Split(_tensor(images, device), _tensor(labels, device), _tensor(index, device), undecoded)


def _undecoded(folder: Path, part: str, labels: np.ndarray, source: Source) -> Undecoded:
    """The encoded images of a part; raises ValueError unless the cache was made from them, without their pixels."""
    found = getattr(source, f"{part}_images")
    if not isinstance(found, Undecoded) or found.kept:
        raise ValueError(
            f"{folder} lacks the pixels of images that it should keep: delete it, and they are decoded again"
        )
    same = np.array_equal(getattr(source, f"{part}_labels"), labels)
    if not same or found.shape != cache.shape(folder, f"{part}_images"):
        raise ValueError(f"{folder} was made from other {part} images: start the command again")
    return found


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    import torch

    if isinstance(array, np.memmap) and array.filename and torch.device(device).type != "cpu":
        return _uploaded(str(array.filename), os.stat(array.filename).st_mtime_ns, str(device))
    return torch.from_numpy(array).to(device)


@lru_cache(maxsize=8)
def _uploaded(path: str, changed: int, device: str) -> Tensor:
    """An array of the cache on a GPU, where it stays for the next trials of this process; nothing may write to it."""
    import torch

    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)).to(device)
