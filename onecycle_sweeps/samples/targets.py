"""The targets of rows as classes, labels or values: which form is usual, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onecycle_sweeps.samples.sample_facts import missing_classes, refuse_not_finite
from onecycle_sweeps.terminal import first_few

# Whole numbers with at most this many different values are classes, unless an objective is typed.
MOST_CLASSES = 20
DIGITS_AND_SIGNS = re.compile(r"[\d\W]*\d[\d\W]*")
# What pandas calls Python's numbers, and what they become.
NUMBERS = {
    "decimal": np.float64,
    "floating": np.float64,
    "mixed-integer-float": np.float64,
    "integer": np.int64,
    "boolean": np.bool_,
}
# The form in which an objective takes its targets; `raw` leaves them as they are.
Form = Literal["classes", "masks", "labels", "values", "raw"]
# The class of places that count neither for the loss nor for a measure (PASCAL VOC's border).
IGNORED = 255
MOST_MASK_CLASSES = 4096
# The target of places that a language model does not predict, such as padding: torch's and transformers' own number.
UNPREDICTED = -100
# Targets that are more than this many standard deviations from the mean cause a warning.
FAR_OUT = 20.0
# As do columns whose middle half lies within this share of their deviation, which a few values have made large: in few
# rows, no value is many deviations from the mean.
SQUEEZED = 0.05


@dataclass(frozen=True)
class Targets:
    """The targets of all parts of a source: numbers, or positions in `words` where the source has words or booleans."""

    label: str
    parts: Mapping[str, np.ndarray]
    words: tuple[str, ...] | None

    @classmethod
    def of(cls, given: Mapping[str, Any], label: str) -> Targets:
        """The targets as a loader returned them, an array a part.

        Raises ValueError for values that are missing or not finite, for dates and other values that are neither
        numbers nor words, for parts of different shapes, for a constant, and for words that all differ.
        """
        arrays = {part: _readable(np.asarray(values), f"{label} of the {part} part") for part, values in given.items()}
        _refuse_shapes(arrays, label)
        words = None
        if any(array.dtype.kind not in "iufb" for array in arrays.values()):
            if arrays["train"].ndim > 1:
                raise ValueError(f"{label} must be numbers or one word a sample, got words {arrays['train'].shape}")
            arrays = {part: array.astype(str) for part, array in arrays.items()}
            words = tuple(np.unique(np.concatenate([array.ravel() for array in arrays.values()])).tolist())
            if len(words) == sum(array.size for array in arrays.values()):
                raise ValueError(
                    f"{label} has {len(words)} different words, one a sample ({first_few(words)}): no classes"
                )
            arrays = {part: np.searchsorted(np.array(words), array) for part, array in arrays.items()}
        elif all(array.dtype.kind == "b" and array.ndim == 1 for array in arrays.values()):
            words = ("False", "True")
            arrays = {part: array.astype(np.int64) for part, array in arrays.items()}
        for part, array in arrays.items():
            refuse_not_finite(array, f"{label} of the {part} part")
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

    def forms(self) -> tuple[str, ...]:
        """The forms in which an objective may have the targets, beside raw."""
        train = np.concatenate(list(self.parts.values()))
        found = ["values"] if self.are_numbers() else []
        if train.ndim == 1 and self.class_names() is not None:
            found.append("classes")
        if train.ndim >= 3 and self.class_names() is not None:
            found.append("masks")
        if train.ndim == 2 and set(np.unique(train).tolist()) <= {0, 1}:
            found.append("labels")
        return tuple(found)

    def are_numbers(self) -> bool:
        """Whether a mean of the targets means anything."""
        return self.words is None or self.words == ("False", "True")

    def as_form(self, form: Form, offered: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The targets of each part in the form that an objective takes; raises ValueError where they cannot have it.

        `values` are standardised by `offered`, which has the training part's target_mean and target_std.
        """
        if form in ("classes", "masks"):
            return self.classes()
        if form == "raw":
            return dict(self.parts)
        values = self.values()
        if form == "labels":
            return {part: array.astype(np.float32) for part, array in values.items()}
        shape = self.parts["train"].shape[1:]
        mean, std = (np.array(offered[name]).reshape(shape) for name in ("target_mean", "target_std"))
        return {part: ((array - mean) / std).astype(np.float32) for part, array in values.items()}

    def usual(self) -> tuple[str, str]:
        """The usual objective for the targets of a whole source, and why."""
        train = np.concatenate(list(self.parts.values()))
        if self.words and train.ndim == 1:
            return "classification", f"{self.label} has {len(self.words)} different words{_mostly_numbers(self.words)}"
        whole = train.dtype.kind in "iub"
        # In any type, because the usual loss of labels wants them as floats.
        if train.ndim == 2 and set(np.unique(train).tolist()) <= {0, 1}:
            return "multilabel", f"{self.label} has {train.shape[1]} labels of 0 or 1"
        if train.ndim >= 3 and whole:
            fault = _fault_of_masks(train)
            return "segmentation", f"{self.label} {fault or f'has a class at each of {train.shape[1:]} places'}"
        if train.ndim == 1 and whole and (count := len(np.unique(train))) <= MOST_CLASSES:
            return "classification", f"{self.label} has {count} different whole numbers"
        kind = "whole numbers"
        if not whole:
            kind = "numbers with fractions" if (train != np.round(train)).any() else "floating-point numbers"
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
            return None if _fault_of_masks(found) else tuple(map(str, range(int(found[found != IGNORED].max()) + 1)))
        return tuple(str(int(value)) for value in _distinct(self.parts))

    def class_values(self) -> list[Any] | None:
        """The value of each class, in order: words or numbers."""
        if self.words or self.class_names() is None or self.parts["train"].ndim > 1:
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
            raise ValueError(f"{self.label} has words ({first_few(self.words or ())}), which are no numbers to predict")
        return {part: array.astype(np.float64) for part, array in self.parts.items()}


def _mostly_numbers(words: Sequence[str]) -> str:
    """What to say of classes that are numbers but for a few words, such as marks for gaps; empty for others."""
    if are_digits_and_signs(words):
        return f", which are not written as numbers ({first_few(words, 2)}): write 1234.5 to predict numbers"
    others = [word for word in words if not _is_number(word)]
    if not 0 < len(others) < len(words) / 2:
        return ""
    return f", which are numbers but for {first_few(others)}: take such rows out to predict numbers"


def are_digits_and_signs(words: Collection[str]) -> bool:
    """Whether so many different words, such as 1,234 and $12, are more likely numbers or dates than codes.

    Words that are numbers as they are, such as 00501, were meant as words.
    """
    alike = len(words) > MOST_CLASSES and all(map(DIGITS_AND_SIGNS.fullmatch, words))
    return alike and not all(map(_is_number, words))


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _refuse_shapes(arrays: Mapping[str, np.ndarray], label: str) -> None:
    shape = arrays["train"].shape[1:]
    for part, array in arrays.items():
        if array.ndim == 0 or 0 in array.shape[1:]:
            raise ValueError(f"{label} of the {part} part must have values for each sample, got shape {array.shape}")
        if array.shape[1:] != shape:
            raise ValueError(
                f"{label} of the {part} part must have the training part's shape {shape} for each sample, got "
                f"{array.shape[1:]}"
            )


def _fault_of_masks(found: np.ndarray) -> str | None:
    """Why numbers at places are not the numbers of classes; None if they are."""
    least, most = found.min(initial=0), found[found != IGNORED].max(initial=0)
    if least < 0:
        return f"has numbers from {least:g} on, and classes are numbered from 0 (255 is ignored)"
    if most == 0:
        return "has no class but 0 (255 is ignored)"
    if most >= MOST_MASK_CLASSES:
        return f"has numbers up to {most:g}, and classes must be below {MOST_MASK_CLASSES}"
    return None


def _distinct(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([array.ravel() for array in parts.values()]))


def _readable(array: np.ndarray, what: str) -> np.ndarray:
    """The array with Python's numbers, such as decimals, as NumPy's; raises ValueError for gaps and for dates."""
    if array.dtype.kind in "iufb":
        return array
    import pandas

    gaps = np.asarray(pandas.isna(array.ravel()))
    if gaps.any():
        where = int(np.flatnonzero(gaps)[0])
        raise ValueError(
            f"{what} must have a value in each row: {gaps.sum()} of {array.size} have none, first row {where}"
        )
    kind = pandas.api.types.infer_dtype(array.ravel(), skipna=False)
    if kind == "integer" and any(abs(value) >= 2**63 for value in array.flat):
        kind = "floating"
    if numeric := NUMBERS.get(kind):
        return array.astype(numeric)
    values = array.ravel().tolist()
    odd = next((one for one in values if not isinstance(one, str | bytes | int | float)), None)
    if array.dtype.kind in "mMcV" or odd is not None:
        shown = values[0] if odd is None else odd
        raise ValueError(f"{what} must have numbers or words to be predicted, got {kind} values such as {shown}")
    return array


def refuse_unpredicted(parts: Mapping[str, Iterable[np.ndarray]], label: str) -> None:
    """Raise ValueError for a part whose samples have tokens as targets of which none counts: its loss would be 0."""
    for part, samples in parts.items():
        if all(one.ndim and one.dtype.kind in "iu" and (one == UNPREDICTED).all() for one in samples):
            raise ValueError(_ignored(label, part, UNPREDICTED))


def copied(inputs: Mapping[str, np.ndarray], target: np.ndarray) -> set[str]:
    """Which inputs, each by its name, the target repeats at all of its places that count, if it has tokens."""
    if target.dtype.kind not in "iu" or not target.ndim:
        return set()
    counts = target != UNPREDICTED
    alike = (name for name, one in inputs.items() if one.shape == target.shape and one.dtype.kind in "iu")
    return {name for name in alike if (inputs[name] == target)[counts].all()}


def copies(label: str, names: Iterable[str], usual: str) -> Iterator[str]:
    """A warning for each input that the targets of all training samples repeat: such a loss falls to 0.

    Without a `usual` objective that tokens have, they are masks or labels.
    """
    for name in names if usual in ("language_model", "regression") else ():
        yield (
            f"{label} is the same as {name} in all training samples, and a language model is to predict the token that "
            "follows at each place: shift it by one"
        )


def _ignored(label: str, part: str, number: int) -> str:
    return f"{label} of the {part} part must have places that count, and is {number} everywhere, which is ignored"


def known(targets: Targets, usual: str) -> tuple[dict[str, Any], list[str]]:
    """What nets and objectives may ask for of the training targets, and a doubt for each part that lacks a class.

    Raises ValueError for numbers that are so large that their deviation is infinite, and for a part of masks or tokens
    in which no place counts.
    """
    refuse_unpredicted(targets.parts, targets.label)
    offered: dict[str, Any] = {}
    doubts: list[str] = []
    if names := targets.class_names():
        numbers = targets.classes()
        counts = np.bincount(numbers["train"].ravel(), minlength=len(names))[: len(names)].tolist()
        offered |= {"num_classes": len(names), "class_counts": counts}
        if usual in ("classification", "segmentation"):
            doubts += missing_classes(numbers, names)
        if usual == "segmentation":
            doubts += _unlabelled(numbers, targets.label)
    if targets.are_numbers():
        columns = targets.values()["train"]
        columns = columns.reshape(len(columns), -1)
        with np.errstate(over="ignore", invalid="ignore"):
            std = columns.std(0)
        if not np.isfinite(std).all():
            raise ValueError(f"{targets.label} must be numbers whose deviation is finite, got up to {columns.max():g}")
        if usual == "multilabel":
            doubts += _absent_labels(targets.parts)
        if usual == "regression":
            doubts += _far_out(targets.label, targets.values(), columns.mean(0), std)
        offered |= {"target_mean": columns.mean(0).tolist(), "target_std": np.where(std > 0, std, 1.0).tolist()}
    return offered, doubts


def _unlabelled(masks: Mapping[str, np.ndarray], label: str) -> Iterator[str]:
    """A warning for each part with masks that are ignored everywhere; a batch of such masks alone has no loss.

    Raises ValueError for a part that has nothing else.
    """
    for part, numbers in masks.items():
        if (numbers == IGNORED).all():
            raise ValueError(_ignored(label, part, IGNORED))
        if count := int((numbers == IGNORED).reshape(len(numbers), -1).all(1).sum()):
            yield f"{count} of {len(numbers)} {part} masks are {IGNORED} everywhere, which is ignored"


def _far_out(label: str, parts: Mapping[str, np.ndarray], mean: np.ndarray, std: np.ndarray) -> Iterator[str]:
    """Warnings if some targets are so far from the training mean that a squared loss and the RMSE depend on them."""
    for part, values in parts.items():
        columns = values.reshape(len(values), -1)
        far = np.abs(columns - mean) > FAR_OUT * std
        if count := int(far.sum()):
            shown = first_few([f"{value:g}" for value in columns[far]])
            yield (
                f"{label} has {count} {part} value{'s' * (count > 1)} more than {FAR_OUT:g} standard deviations from "
                f"the mean ({shown}), which weigh much in a squared loss and the RMSE: try objective.loss=huber, the "
                "headline mae, or their logarithm"
            )
        elif part == "train" and values.ndim == 1 and is_squeezed(values):
            yield f"{label} has {squeezed(values)}: try their logarithm, unless some are errors"


def is_squeezed(values: np.ndarray) -> bool:
    """Whether a few values are so far out that the others, standardised, are nearly equal."""
    low, high = np.quantile(values, [0.25, 0.75])
    return 0 < high - low < SQUEEZED * values.std()


def squeezed(values: np.ndarray) -> str:
    """What to say of numbers that are squeezed."""
    low, high = np.quantile(values, [0.25, 0.75])
    return (
        f"training values from {values.min():g} to {values.max():g}, and half of them lie between {low:g} and "
        f"{high:g}, which standardised is nearly the same"
    )


def _absent_labels(parts: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A warning for each part that lacks a label; its F1 is 0."""
    for part, labels in parts.items():
        if lacking := [str(place) for place in np.flatnonzero(~labels.astype(bool).any(0))]:
            yield f"no sample of the {part} part has label {first_few(lacking)}"
