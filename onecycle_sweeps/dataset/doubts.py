"""What makes a split's accuracies doubtful: images that stand in two of its parts, classes that one part lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onecycle_sweeps.dataset import cache

NAMED = 5


@dataclass(frozen=True)
class Part:
    """One part of a split: the positions of its samples among the source's `train`, `val` or `test` arrays."""

    source: str
    index: np.ndarray


def doubts(folder: Path, parts: Mapping[str, Part], classes: Mapping[int, str]) -> Iterator[str]:
    """A line for each doubt about the parts, `train` among them, and the names of the `classes` that they may hold.

    Images are the same if their pixels are; where the cache keeps no pixels, if the sums over each channel are.
    """
    for name, part in parts.items():
        present = set(np.unique(cache.mapped(folder, f"{part.source}_labels")[part.index]).tolist())
        if missing := [title for number, title in classes.items() if number not in present]:
            yield f"the {name} part has no sample of class {_few(missing)}"
    trained_on = set(_fingerprints(folder, parts["train"]))
    for name, part in parts.items():
        shared = 0 if name == "train" else sum(one in trained_on for one in _fingerprints(folder, part))
        if shared:
            yield f"{shared} of {len(part.index)} {name} images are among the training images too"


def passed_over(skipped: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A line on the files that a loader passed over, whose names come by the reason."""
    if count := sum(map(len, skipped.values())):
        said = (f"{reason} ({_few(names)})" for reason, names in skipped.items() if names)
        yield f"{count} file{'s were' if count > 1 else ' was'} passed over: {'; '.join(said)}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _fingerprints(folder: Path, part: Part) -> Iterator[bytes]:
    images = cache.mapped(folder, f"{part.source}_{'images' if cache.keeps_pixels(folder) else 'sums'}")
    for position in part.index:
        yield hashlib.blake2b(images[position].tobytes(), digest_size=16).digest()
