"""The targets of rows: as classes, as labels or as values, which of them is usual, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onecycle_sweeps.samples.sample_facts import few, missing_classes, refuse_not_finite

# Whole numbers with at most so many different values are classes, where nothing else is typed.
MOST_CLASSES = 20
# How an objective wants its targets; what it does not say is given as it is.
Form = Literal["classes", "labels", "values", "raw"]


@dataclass(frozen=True)
class Targets:
    """The targets of all parts of a source: numbers, or positions in `words` where the source has words or booleans."""

    label: str
    parts: Mapping[str, np.ndarray]
    words: tuple[str, ...] | None

    @classmethod
    def of(cls, given: Mapping[str, Any], label: str) -> Targets:
        """The targets as a loader returned them, an array a part.

        Raises ValueError for values that are missing or not finite, for a constant, and for words that all differ.
        """
        arrays = {part: np.asarray(values) for part, values in given.items()}
        words = None
        if any(array.dtype.kind not in "iufb" for array in arrays.values()):
            for part, array in arrays.items():
                _refuse_gaps(array, f"the {part} {label}")
            arrays = {part: array.astype(str) for part, array in arrays.items()}
            words = tuple(np.unique(np.concatenate([array.ravel() for array in arrays.values()])).tolist())
            if len(words) == sum(array.size for array in arrays.values()):
                raise ValueError(f"{label} has {len(words)} different words, one a sample ({few(words)}): no classes")
            arrays = {part: np.searchsorted(np.array(words), array) for part, array in arrays.items()}
        elif all(array.dtype.kind == "b" and array.ndim == 1 for array in arrays.values()):
            words = ("False", "True")
            arrays = {part: array.astype(np.int64) for part, array in arrays.items()}
        for part, array in arrays.items():
            refuse_not_finite(array, f"the {part} {label}")
        if arrays["train"].size and (arrays["train"] == arrays["train"].flat[0]).all():
            value = arrays["train"].flat[0]
            raise ValueError(f"{label} has one value only, {words[int(value)] if words else value}: nothing to learn")
        return cls(label, arrays, words)

    def only(self, classes: Sequence[int] | None) -> tuple[Targets, dict[str, np.ndarray]]:
        """The targets with `classes` alone, renumbered in the order given, and the positions that stay in each part."""
        if classes is None:
            return self, {part: np.arange(len(array)) for part, array in self.parts.items()}
        names = self.class_names()
        if names is None or self.parts["train"].ndim > 1:
            raise ValueError(
                f"classes must be null where {self.label} is not one class for each sample, got {list(classes)}"
            )
        numbers = self.classes()
        if not all(0 <= number < len(names) for number in classes):
            raise ValueError(f"classes must lie in 0..{len(names) - 1}, got {list(classes)}")
        renumbered = np.full(len(names), -1)
        renumbered[list(classes)] = np.arange(len(classes))
        stay = {part: np.flatnonzero(np.isin(one, classes)) for part, one in numbers.items()}
        parts = {part: renumbered[one] for part, one in numbers.items()}
        return Targets(self.label, parts, tuple(names[number] for number in classes)), stay

    def at(self, positions: Mapping[str, tuple[str, np.ndarray]]) -> Targets:
        """The targets of a split, whose parts are positions in the parts of the source."""
        return Targets(self.label, {name: self.parts[of][at] for name, (of, at) in positions.items()}, self.words)

    def are_numbers(self) -> bool:
        """Whether a mean of the targets means anything."""
        return self.words is None or self.words == ("False", "True")

    def as_form(self, form: Form, offered: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The targets of each part in the form that an objective takes; raises ValueError where they cannot have it.

        `values` are standardised by `offered`, which has the training part's target_mean and target_std.
        """
        if form == "classes":
            return self.classes()
        if form == "raw":
            return dict(self.parts)
        values = self.values()
        if form == "labels":
            return {part: array.astype(np.float32) for part, array in values.items()}
        mean, std = (np.array(offered[name]) for name in ("target_mean", "target_std"))
        if self.parts["train"].ndim == 1:
            mean, std = mean[0], std[0]
        return {part: ((array - mean) / std).astype(np.float32) for part, array in values.items()}

    def usual(self) -> tuple[str, str]:
        """The usual objective for the targets of a whole source, and why."""
        train = np.concatenate(list(self.parts.values()))
        if self.words and train.ndim == 1:
            return "classification", f"{self.label} has {len(self.words)} different words"
        whole = train.dtype.kind in "iub"
        if train.ndim == 2 and whole and set(np.unique(train).tolist()) <= {0, 1}:
            return "multilabel", f"{self.label} has {train.shape[1]} labels of 0 or 1"
        if train.ndim >= 3 and whole:
            return "segmentation", f"{self.label} has a class at each of {train.shape[1:]} places"
        if train.ndim == 1 and whole and (count := len(np.unique(train))) <= MOST_CLASSES:
            return "classification", f"{self.label} has {count} different whole numbers"
        kind = "whole numbers" if whole else "numbers with fractions"
        return "regression", f"{self.label} has {len(np.unique(train)):,} different {kind}"

    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, in order; None where the targets cannot be classes."""
        if self.words:
            return self.words
        train = self.parts["train"]
        if train.ndim == 2 or (train.dtype.kind == "f" and (train != np.round(train)).any()):
            return None
        if train.ndim >= 3:
            found = np.concatenate([array.ravel() for array in self.parts.values()])
            return tuple(map(str, range(int(found[found != 255].max(initial=0)) + 1)))
        return tuple(f"{value:g}" for value in _distinct(self.parts))

    def class_values(self) -> list[Any] | None:
        """The value of each class, in order: words or numbers."""
        if self.words or self.class_names() is None:
            return list(self.words) if self.words else None
        return _distinct(self.parts).tolist()

    def classes(self) -> dict[str, np.ndarray]:
        """The number of each sample's class, int64; raises ValueError where the targets cannot be classes."""
        if self.class_names() is None:
            raise ValueError(f"objective=classification needs classes, and {self.label} has numbers with fractions")
        if self.words or self.parts["train"].ndim >= 3:
            return {part: array.astype(np.int64) for part, array in self.parts.items()}
        values = _distinct(self.parts)
        return {part: np.searchsorted(values, array).astype(np.int64) for part, array in self.parts.items()}

    def values(self) -> dict[str, np.ndarray]:
        """The targets as float64; raises ValueError for words."""
        if not self.are_numbers():
            raise ValueError(f"{self.label} has words ({few(self.words or ())}), which are no numbers to predict")
        return {part: array.astype(np.float64) for part, array in self.parts.items()}


def _distinct(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([array.ravel() for array in parts.values()]))


def _refuse_gaps(array: np.ndarray, what: str) -> None:
    import pandas

    gaps = np.asarray(pandas.isna(array.ravel()))
    if gaps.any():
        where = int(np.flatnonzero(gaps)[0])
        raise ValueError(
            f"{what} must have a value in each row: {gaps.sum()} of {array.size} have none, first row {where}"
        )


def known(targets: Targets, usual: str) -> tuple[dict[str, Any], list[str]]:
    """What nets and objectives may ask for of the training targets, and a doubt for each part that lacks a class."""
    offered: dict[str, Any] = {}
    doubts: list[str] = []
    if names := targets.class_names():
        numbers = targets.classes()
        counts = np.bincount(numbers["train"].ravel(), minlength=len(names))[: len(names)].tolist()
        offered |= {"num_classes": len(names), "class_counts": counts}
        if usual == "classification":
            doubts += missing_classes(numbers, names)
    if targets.are_numbers():
        columns = targets.values()["train"]
        columns = columns.reshape(len(columns), -1)
        std = columns.std(0)
        offered |= {"target_mean": columns.mean(0).tolist(), "target_std": np.where(std > 0, std, 1.0).tolist()}
    return offered, doubts
