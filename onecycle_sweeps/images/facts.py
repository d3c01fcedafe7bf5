"""One split of a cached source: which samples belong to which part, and the facts that a model and a trial need."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from onecycle_sweeps import files, seeding
from onecycle_sweeps.config import schema
from onecycle_sweeps.images import cache
from onecycle_sweeps.images.arrays import Source
from onecycle_sweeps.terminal import first_few

# Images are summed in chunks of about this many bytes.
CHUNK_BYTES = 2**23
# Images are nearly black if the mean plus three deviations, and so nearly all values, stay below this of 255.
DARK = 24


@dataclass(frozen=True)
class Facts:
    """The sizes, shape and statistics of one split, and how it was made.

    `train`, `val` and `test` count samples (`test` is 0 if there is no such part). `mean` and `std` (of the population)
    are per channel, in the units of the uint8 images, over the training part. `doubts` has a warning for each
    reason to distrust results on this split and for files that were skipped; `skipped` counts those.
    """

    train: int
    val: int
    test: int
    num_classes: int
    in_channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_fraction: float
    split_seed: int
    classes: tuple[int, ...] | None
    class_counts: tuple[int, ...] = ()
    doubts: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def offered(self) -> dict[str, Any]:
        """The values that a net's constructor may have as parameters."""
        return {
            "in_channels": self.in_channels,
            "in_features": self.in_channels * self.height * self.width,
            "num_classes": self.num_classes,
            "out_features": self.num_classes,
            "class_counts": self.class_counts,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Facts:
        """The facts from the JSON of their `dataclasses.asdict`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**values)


def prepare(
    load: Callable[[], Source],
    folder: Path,
    *,
    val_fraction: float,
    split_seed: int,
    classes: Sequence[int] | None,
    check: Callable[[], None] = lambda: None,
    afresh: bool = False,
) -> Facts:
    """Decode a source into its cache folder unless that has been done, and describe one split of it.

    `val_fraction` 0: the official test part is `val`, and there is no `test`, unless the source has both parts. Above
    0: `split_seed` decides which samples of that share of the training part are `val`, and the official test part is
    `test`. `classes` keeps some classes, renumbered in the order given. However many processes call this, a source is
    decoded once and a split described once. `check` is called after decoding, and raises if the source's files changed
    meanwhile. `afresh` decodes again.
    Raises ValueError for a value outside its range, an empty part, a `val_fraction` of 0 without an official test part
    or above 0 with a validation part, and what `load` and `check` raise.
    """

    def read() -> Source:
        source = load()
        _check_official(len(source.test_labels), "val" in source.parts, float(val_fraction))
        return source

    schema.check_split(val_fraction=val_fraction, split_seed=split_seed, classes=classes)
    kept = None if classes is None else tuple(map(int, classes))
    if kept is not None and (len(kept) < 2 or len(set(kept)) < len(kept)):
        raise ValueError(f"classes must name at least two different classes, each once, got {list(kept)}")
    rule = [float(val_fraction), int(split_seed), kept]
    key = hashlib.sha256(json.dumps([[field.name for field in fields(Facts)], rule]).encode()).hexdigest()[:12]
    path = folder / f"split-{key}.json"
    if afresh or not path.exists() or not cache.is_current(path):
        with cache.locked(folder):
            cache.ensure(read, folder, check, afresh=afresh)
            if not path.exists() or not cache.is_current(path):
                files.write_json(path, asdict(_describe(folder, float(val_fraction), int(split_seed), kept)))
    return Facts.from_json(cache.read_json(path))


def positions(
    labels: np.ndarray, val_fraction: float, split_seed: int, classes: tuple[int, ...] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the samples of `classes` that are kept and held out, each in ascending order."""
    kept = np.arange(len(labels)) if classes is None else np.flatnonzero(np.isin(labels, classes))
    stay, out = seeding.held_out(len(kept), val_fraction, split_seed)
    return kept[stay], kept[out]


def _check_official(test: int, own_val: bool, val_fraction: float) -> None:
    if own_val and val_fraction:
        raise ValueError(
            f"val_fraction must be 0 for a data set with a val part, got {val_fraction}"
            + (": set it to 0, or set data.test_part=test to ignore that part" if test else "")
        )
    if not test and not own_val and not val_fraction:
        raise ValueError("val_fraction must be above 0 for a data set without a test part, got 0: try 0.1")


def _describe(folder: Path, val_fraction: float, split_seed: int, classes: tuple[int, ...] | None) -> Facts:
    class_names = cache.read_json(folder / "source.json")["class_names"]
    missing = [number for number in classes or () if not 0 <= number < len(class_names)]
    if missing:
        raise ValueError(f"classes must lie in 0..{len(class_names) - 1}, got {missing[0]}")
    train, held_out = positions(cache.mapped(folder, "train_labels"), val_fraction, split_seed, classes)
    labels = cache.mapped(folder, "train_labels")[train]
    test_labels = cache.mapped(folder, "test_labels")
    own_val = cache.has_val(folder)
    _check_official(len(test_labels), own_val, val_fraction)
    official, _ = positions(test_labels, 0.0, split_seed, classes)
    test = SplitPart("test", official)
    parts = {"train": SplitPart("train", train), "val": SplitPart("train", held_out) if val_fraction else test}
    if own_val:
        parts["val"] = SplitPart("val", positions(cache.mapped(folder, "val_labels"), 0.0, split_seed, classes)[0])
    if (val_fraction or own_val) and len(test_labels):
        parts["test"] = test
    for name, part in parts.items():
        if not len(part.index):
            raise ValueError(
                f"the {name} part must have at least one sample, got 0 of {len(train) + len(held_out)} training and "
                f"{len(official)} test samples, split with val_fraction={val_fraction} and classes={classes}"
            )
    _, channels, height, width = cache.shape(folder, "train_images")
    mean, std = mean_and_std(folder, train)
    names = {number: class_names[number] for number in classes or range(len(class_names))}
    skipped = cache.skipped(folder)
    return Facts(
        train=len(train),
        val=len(parts["val"].index),
        test=len(official) if "test" in parts else 0,
        num_classes=len(classes or class_names),
        in_channels=channels,
        height=height,
        width=width,
        mean=mean,
        std=std,
        val_fraction=val_fraction,
        split_seed=split_seed,
        classes=classes,
        class_counts=tuple(int((labels == number).sum()) for number in names),
        doubts=(*doubts(folder, parts, names), *_dark(mean, std), *about_skipped(skipped)),
        skipped=sum(map(len, skipped.values())),
    )


@dataclass(frozen=True)
class SplitPart:
    """One part of a split: the positions of its samples among the source's `train`, `val` or `test` arrays."""

    source: str
    index: np.ndarray


def doubts(folder: Path, parts: Mapping[str, SplitPart], classes: Mapping[int, str]) -> Iterator[str]:
    """A warning for each part that lacks one of the `classes` or shares images with the training part.

    Images are compared by their pixels or, if the cache keeps no pixels, by their sums over each channel.
    """
    for name, part in parts.items():
        present = set(np.unique(cache.mapped(folder, f"{part.source}_labels")[part.index]).tolist())
        if missing := [title for number, title in classes.items() if number not in present]:
            yield f"the {name} part has no sample of class {first_few(missing)}"
    trained_on = set(_fingerprints(folder, parts["train"]))
    for name, part in parts.items():
        shared = 0 if name == "train" else sum(one in trained_on for one in _fingerprints(folder, part))
        if shared:
            yield f"{shared} of {len(part.index)} {name} images are also training images"


def _dark(means: Sequence[float], stds: Sequence[float]) -> Iterator[str]:
    """A warning if images have few of the 256 values, as those of 12 bits in files of 16 have."""
    if all(mean + 3 * std < DARK for mean, std in zip(means, stds, strict=True)):
        yield (
            f"the training images are nearly black: their mean is {max(means):.2g} of 255, with a deviation of "
            f"{max(stds):.2g}. Of values of 16 bits the upper byte is kept: rescale images that use a part of the range"
        )


def about_skipped(skipped: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A warning about the files that a loader skipped, given by reason."""
    if count := sum(map(len, skipped.values())):
        reasons = (f"{reason} ({first_few(names)})" for reason, names in skipped.items() if names)
        yield f"{count} file{'s were' if count > 1 else ' was'} skipped: {'; '.join(reasons)}"


def _fingerprints(folder: Path, part: SplitPart) -> Iterator[bytes]:
    images = cache.mapped(folder, f"{part.source}_{'images' if cache.keeps_pixels(folder) else 'sums'}")
    for position in part.index:
        yield hashlib.blake2b(images[position].tobytes(), digest_size=16).digest()


def mean_and_std(folder: Path, train: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel over the training images at the positions `train`.

    Raises ValueError for a channel that does not vary.
    """
    _, _, height, width = cache.shape(folder, "train_images")
    if cache.keeps_pixels(folder):
        sums = _sums(cache.mapped(folder, "train_images"), train)
    else:
        sums = cache.mapped(folder, "train_sums")[train].sum(axis=0)
    moments = [_moments(int(values), int(squares), len(train) * height * width) for values, squares in sums]
    for channel, (mean, std) in enumerate(moments):
        if std == 0:
            raise ValueError(f"the training images must vary in every channel, got only {mean:g} in channel {channel}")
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _sums(images: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The sums of the values of each channel and of their squares, int64 (C, 2), by counts of the 256 values."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    size = 1 + CHUNK_BYTES // images[0].nbytes
    for start in range(0, len(index), size):
        chunk = images[index[start : start + size]]
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    values = np.arange(256)
    return counts @ np.stack([values, values**2], axis=1)


def _moments(values: int, squares: int, count: int) -> tuple[float, float]:
    """Mean and standard deviation from the sums over `count` pixels, in integers up to the division."""
    return values / count, math.sqrt((count * squares - values**2) / count**2)
