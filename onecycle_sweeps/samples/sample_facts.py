"""What is known of a split of samples before a trial reads them: sizes, what a net may ask for, and doubts."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onecycle_sweeps.seeding import held_out
from onecycle_sweeps.terminal import first_few


class SplitRule(NamedTuple):
    """How a data set is divided: the keys of the data node."""

    val_fraction: float
    split_seed: int
    classes: tuple[int, ...] | None


@dataclass(frozen=True)
class SampleFacts:
    """The sizes of one split's parts, and what nets and objectives may ask for by name.

    `train`, `val` and `test` count samples (`test` is 0 where there is none); `unit` is what a sample is called.
    `usual` is the objective that `objective=auto` means, and `reason` says why; `forms` are those in which an objective
    may have the targets, beside raw. `digest` changes with the content. `doubts` has a warning for each reason to
    distrust results on this split; `skipped` counts samples passed over.
    """

    train: int
    val: int
    test: int
    unit: str
    usual: str
    reason: str
    offered: Mapping[str, Any]
    digest: str
    doubts: tuple[str, ...] = ()
    skipped: int = 0
    forms: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """The number of classes, None where targets are no classes."""
        return self.offered.get("num_classes")

    def offered_for(self, form: str) -> dict[str, Any]:
        """What nets may have as parameters, with `out_features`, the outputs for a sample, for this form of targets.

        Raises ValueError where the targets cannot have that form.
        """
        offered = dict(self.offered)
        if form not in (*self.forms, "raw"):
            wanted = {"values": "numbers", "labels": "labels of 0 or 1"}.get(form, form)
            # Masks whose numbers are no classes are meant for segmentation all the same.
            fits = f", so objective={self.usual} fits" if (form, self.usual) != ("masks", "segmentation") else ""
            raise ValueError(f"the objective needs {wanted} as targets: {self.reason}{fits}")
        width = (
            offered.get("num_classes") if form in ("classes", "masks") else len(offered.get("target_mean", ())) or None
        )
        return {"out_features": width, **offered} if width else offered

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SampleFacts:
        """The facts from the JSON of their `dataclasses.asdict`."""
        return cls(**{**content, "doubts": tuple(content["doubts"]), "forms": tuple(content["forms"])})


def divided(sizes: Mapping[str, int], split: SplitRule) -> dict[str, tuple[str, np.ndarray]]:
    """Each part of a split as a part of the source and the positions in it.

    `val` is the source's own, else held out of its training part, else its test part where val_fraction is 0.
    Raises ValueError for a split that the source does not allow, or that leaves a part empty.
    """
    if "val" in sizes and split.val_fraction:
        raise ValueError(f"val_fraction must be 0 for a data set with a val part of its own, got {split.val_fraction}")
    if "val" not in sizes and "test" not in sizes and not split.val_fraction:
        raise ValueError("val_fraction must be above 0 for a data set without an official test part, got 0")
    stay, out = held_out(sizes["train"], split.val_fraction, split.split_seed)
    parts = {"train": ("train", stay)}
    if "val" in sizes:
        parts["val"] = ("val", np.arange(sizes["val"]))
    elif split.val_fraction:
        parts["val"] = ("train", out)
    if "test" in sizes:
        parts["val" if "val" not in parts else "test"] = ("test", np.arange(sizes["test"]))
    for name, (_, index) in parts.items():
        if not len(index):
            raise ValueError(
                f"the {name} part is empty, it needs at least one sample: there are {sizes['train']} training samples, "
                f"split with val_fraction={split.val_fraction}"
            )
    return parts


def leaks(digests: Mapping[str, Sequence[bytes]], unit: str) -> Iterator[str]:
    """A warning for each part that shares samples with the training part; samples are given by their digests."""
    trained_on = set(digests["train"])
    for name, part in digests.items():
        shared = 0 if name == "train" else sum(one in trained_on for one in part)
        if shared:
            yield f"{shared} of {len(part)} {name} {unit} are among the training {unit} too, by their inputs"


def missing_classes(present: Mapping[str, np.ndarray], names: Sequence[str]) -> Iterator[str]:
    """A warning for each part that lacks a class; `present` has the class of each sample."""
    for part, numbers in present.items():
        seen = set(np.unique(numbers).tolist())
        if lacking := [name for number, name in enumerate(names) if number not in seen]:
            yield f"the {part} part has no sample of class {first_few(lacking)}"


def passed_over(skipped: Mapping[str, Sequence[str]], unit: str) -> Iterator[str]:
    """A warning about the samples that a loader passed over, which are given by reason."""
    if count := sum(map(len, skipped.values())):
        said = (f"{reason} ({first_few(names)})" for reason, names in skipped.items() if names)
        yield f"{count} {unit} were passed over: {'; '.join(said)}"


def digest_of(arrays: Iterable[np.ndarray]) -> bytes:
    """A short hash of the content of arrays, their types and shapes."""
    hashed = hashlib.blake2b(digest_size=16)
    for array in arrays:
        hashed.update(f"{array.dtype.str}{array.shape}".encode())
        hashed.update(_content(array) if array.size else b"")
    return hashed.digest()


def _content(array: np.ndarray) -> bytes | memoryview:
    """The bytes that an array stands for; those of Python's objects are pointers, so they are pickled."""
    if array.dtype.hasobject:
        return pickle.dumps(array.tolist())
    return array.tobytes() if array.dtype.kind in "mM" else np.ascontiguousarray(array).data.cast("B")


def refuse_not_finite(array: np.ndarray, what: str) -> None:
    """Raise ValueError, with how many and where, for numbers that are not finite."""
    if array.dtype.kind not in "fc" or np.isfinite(array).all():
        return
    bad = ~np.isfinite(array)
    first = tuple(int(place) for place in np.argwhere(bad)[0])
    where = first[0] if len(first) == 1 else first
    raise ValueError(
        f"{what} must be finite numbers: {bad.sum()} of {array.size} are not, first {array[first]} at {where}"
    )
