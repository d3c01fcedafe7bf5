"""From the cache to tensors: the parts of a prepared split, mapped, or decoded anew where no pixels were kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onecycle_sweeps.dataset import cache
from onecycle_sweeps.dataset.batches import Dataset, Split
from onecycle_sweeps.dataset.facts import Facts, positions
from onecycle_sweeps.dataset.source import Source, Undecoded

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def load(folder: Path, facts: Facts, device: torch.device | str, read: Callable[[], Source] | None = None) -> Dataset:
    """Map the cached arrays of a prepared split; on a CPU nothing is copied, and processes share the pages.

    `read` gives the source again where the cache keeps no pixels. Raises ValueError, with the file and what to do, for
    an array that is missing or damaged, and for a source that is not what the cache was made from.
    """
    source = None
    if not cache.keeps_pixels(folder):
        if read is None:
            raise ValueError(f"{folder} keeps no pixels: the source's loader is needed to decode them")
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
        return Dataset(own, _split(folder, "val", index, facts, device, source), test, facts)
    if not facts.val_fraction:
        return Dataset(own, other, None, facts)
    val = Split(own.images, own.labels, _tensor(held_out, device), own.undecoded)
    return Dataset(own, val, test, facts)


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
    """The images of a part as they lie, if the cache was made from them and does not keep them."""
    found = getattr(source, f"{part}_images")
    if not isinstance(found, Undecoded) or found.kept:
        raise ValueError(f"{folder} keeps no pixels of images that may be kept: delete it, the next run decodes them")
    same = np.array_equal(getattr(source, f"{part}_labels"), labels)
    if not same or found.shape != cache.shape(folder, f"{part}_images"):
        raise ValueError(f"the {part} images are not those that {folder} was made from: start the command again")
    return found


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    import torch

    return torch.from_numpy(array).to(device)
