"""Rows: samples in memory, as arrays of any shape or as a table of numbers and words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps import seeding
from onecycle_sweeps.samples import sample_facts as described
from onecycle_sweeps.samples.nested import changed, leaves
from onecycle_sweeps.samples.sample_facts import SampleFacts, SplitRule
from onecycle_sweeps.samples.table import encoded
from onecycle_sweeps.samples.targets import Form, Targets, copied, copies, known

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame
    from torch import Tensor

# At most this many values of inputs, and this many samples, are evaluated at once.
EVALUATION_VALUES, EVALUATION_BATCH = 2**22, 4096


@dataclass(frozen=True)
class Part:
    """The samples of one part: inputs, and a target for each.

    `inputs` is an array (N, ...); a tuple of arrays, which become a net's positional arguments; a dict of arrays, which
    become its keyword arguments; or a pandas DataFrame of numbers and words with gaps. `targets` is an array (N, ...)
    of numbers, words or booleans.
    """

    inputs: np.ndarray | tuple[np.ndarray, ...] | dict[str, np.ndarray] | DataFrame
    targets: np.ndarray


@dataclass(frozen=True)
class Rows:
    """A data set as its loader read it; `val` and `test` are given if its source has such parts.

    `label` names the targets and `unit` the samples in messages; `skipped` has what was passed over, by reason.
    """

    train: Part
    val: Part | None = None
    test: Part | None = None
    label: str = "the target"
    unit: str = "rows"
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def parts(self) -> dict[str, Part]:
        """The parts that there are."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}


def describe(source: Rows, split: SplitRule) -> SampleFacts:
    """The facts of one split of a source.

    Raises ValueError for values that are missing or not finite, for a part that is empty, and for targets that cannot
    be learned.
    """
    inputs, targets, doubts = _divided(source, split)
    whole = _targets(source)
    usual, reason = whole.usual()
    offered, lacking = known(targets, usual)
    doubts += lacking
    doubts += described.leaks({part: _digests(one) for part, one in inputs.items()}, source.unit)
    doubts += copies(whole.label, sorted(copied(leaves(inputs["train"]), targets.parts["train"])), usual)
    doubts += described.passed_over(source.skipped, source.unit)
    return SampleFacts(
        **{"test": 0} | {part: len(one) for part, one in targets.parts.items()},
        unit=source.unit,
        usual=usual,
        reason=reason,
        offered=_shape(inputs, targets) | offered,
        digest=_digest(inputs, targets),
        doubts=tuple(doubts),
        skipped=sum(map(len, source.skipped.values())),
        forms=whole.forms(),
    )


def load(source: Rows, split: SplitRule, facts: SampleFacts, device: torch.device | str, form: Form) -> RowBatches:
    """The parts of a split on a device, with the targets in the form that the objective takes.

    Raises ValueError for targets that cannot have that form, and if the source is not the one that was described.
    """
    import torch

    inputs, targets, _ = _divided(source, split)
    if _digest(inputs, targets) != facts.digest:
        raise ValueError("the data is not what it was when the trial was planned: start the command again")
    wanted = targets.as_form(form, facts.offered)
    parts = {
        name: (
            changed(one, lambda array: torch.from_numpy(array).to(device)),
            torch.from_numpy(wanted[name]).to(device),
        )
        for name, one in inputs.items()
    }
    return RowBatches(parts, facts, form)


@dataclass(frozen=True)
class RowBatches:
    """The parts of a split on one device, in batches of `batch_size`: inputs as the net takes them, and targets."""

    parts: Mapping[str, tuple[Any, Tensor]]
    facts: SampleFacts
    form: Form
    batch_size: int = 1

    @property
    def unit(self) -> str:
        return self.facts.unit

    @property
    def device(self) -> torch.device:
        return self.targets("train").device

    @property
    def in_memory(self) -> bool:
        return True

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.facts.doubts

    @property
    def offered(self) -> Mapping[str, Any]:
        return self.facts.offered_for(self.form)

    @property
    def sizes(self) -> Mapping[str, int]:
        return {part: len(targets) for part, (_, targets) in self.parts.items()}

    def train_batches(self, seed: int, start: int = 0) -> Iterator[tuple[Any, Tensor]]:
        """Endless shuffled batches from step `start` on; an epoch's order follows from (seed, epoch) alone."""
        inputs, targets = self.parts["train"]
        steps = len(targets) // self.batch_size
        epoch, first = divmod(start, steps)
        while True:
            order = seeding.order(len(targets), seed, epoch).to(targets.device)
            for step in range(first, steps):
                at = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield changed(inputs, lambda tensor, at=at: tensor.index_select(0, at)), targets.index_select(0, at)
            epoch, first = epoch + 1, 0

    def part_batches(self, part: str) -> Iterator[tuple[Any, Tensor]]:
        """Every sample of a part once, in order."""
        inputs, targets = self.parts[part]
        values = sum(tensor[:1].numel() for tensor in leaves(inputs).values())
        size = min(EVALUATION_BATCH, max(1, EVALUATION_VALUES // max(1, values)))
        for begin in range(0, len(targets), size):
            here = slice(begin, begin + size)
            yield changed(inputs, lambda tensor, here=here: tensor[here]), targets[here]

    def targets(self, part: str) -> Tensor:
        """The targets of a part."""
        return self.parts[part][1]

    def few(self, count: int) -> RowBatches:
        """These batches with only the first samples of each part, as one batch."""
        parts = {
            name: (changed(inputs, lambda tensor: tensor[:count]), targets[:count])
            for name, (inputs, targets) in self.parts.items()
        }
        return replace(self, parts=parts, batch_size=min(count, len(self.targets("train"))))

    def check(self) -> None:
        """Do nothing, because nothing is read again."""


def _divided(source: Rows, split: SplitRule) -> tuple[dict[str, Any], Targets, list[str]]:
    """The inputs of each part of a split, its targets, and doubts about the columns if the inputs are a table."""
    parts = source.parts()
    targets, kept = _targets(source).only(split.classes)
    index = {
        name: (of, kept[of][positions])
        for name, (of, positions) in described.divided({name: len(one) for name, one in kept.items()}, split).items()
    }
    for name, part in parts.items():
        for place, array in leaves(part.inputs).items():
            if array.ndim == 0 or 0 in array.shape[1:]:
                raise ValueError(f"{name} {place} must have values for each sample, got shape {array.shape}")
        sizes = {place: len(array) for place, array in leaves(part.inputs).items()}
        if wrong := {place: size for place, size in sizes.items() if size != len(part.targets)}:
            place, size = next(iter(wrong.items()))
            raise ValueError(f"{name} {place} must be as many as the targets, {len(part.targets)}, got {size}")
    of_split = targets.at(index)
    given = {name: (parts[of].inputs, positions) for name, (of, positions) in index.items()}
    if hasattr(source.train.inputs, "columns"):
        frames: dict[str, Any] = {name: frame for name, (frame, _) in given.items()}
        inputs, doubts = encoded({name: frames[name].iloc[positions] for name, (_, positions) in given.items()})
        return inputs, of_split, doubts
    inputs = {name: changed(one, lambda array, at=at: _taken(array, at)) for name, (one, at) in given.items()}
    for name, one in inputs.items():
        for place, array in leaves(one).items():
            described.refuse_not_finite(array, f"the {name} {place}")
    shapes = {name: [array.shape[1:] for array in leaves(one).values()] for name, one in inputs.items()}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            raise ValueError(f"the {name} inputs must have the training inputs' shape {shapes['train']}, got {shape}")
    return inputs, of_split, []


def _targets(source: Rows) -> Targets:
    return Targets.of({name: part.targets for name, part in source.parts().items()}, source.label)


def _taken(array: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The samples at the positions: floating-point numbers and booleans as float32, whole numbers as int64."""
    whole = len(positions) == len(array)
    taken = np.ascontiguousarray(array if whole else array[positions])
    if taken.dtype.kind not in "iufb":
        raise ValueError(f"inputs must be arrays of numbers, got {taken.dtype}")
    if taken.dtype == np.uint64 and taken.max(initial=0) >= 2**63:
        raise ValueError(f"whole numbers of inputs must be below 2**63, got {taken.max()}: save them as float64")
    if taken.dtype.kind == "f":
        # Numbers that are too large for float32 become infinite, and are refused later with all that are not finite.
        with np.errstate(over="ignore"):
            return taken.astype(np.float32, copy=False)
    return taken.astype(np.float32 if taken.dtype.kind == "b" else np.int64, copy=False)


def _shape(parts: Mapping[str, Any], targets: Targets) -> dict[str, Any]:
    """What a net's constructor may ask for of inputs that are one array: (N, F), (N, C, L), (N, C, H, W), ...

    The vocabulary of tokens is that of all parts, and of targets that are tokens in the inputs' shape.
    """
    inputs = parts["train"]
    if not isinstance(inputs, np.ndarray):
        return {}
    offered: dict[str, Any] = {"in_features": int(np.prod(inputs.shape[1:]))}
    if inputs.ndim >= 3:
        offered |= {"in_channels": inputs.shape[1], "length": inputs.shape[-1]}
    if inputs.dtype.kind in "iu":
        tokens = [*parts.values()]
        if targets.words is None and targets.parts["train"].dtype.kind in "iu" and inputs.ndim == 2:
            tokens += [one for name, one in targets.parts.items() if one.shape == parts[name].shape]
        size = int(max(one.max() for one in tokens)) + 1
        offered |= {"vocab_size": size, "context": inputs.shape[1] if inputs.ndim == 2 else 1}
    return offered


def _digests(inputs: Any) -> list[bytes]:
    """A digest of each sample's inputs."""
    arrays = [np.ascontiguousarray(array) for array in leaves(inputs).values()]
    return [
        hashlib.blake2b(b"".join(array[row].tobytes() for array in arrays), digest_size=16).digest()
        for row in range(len(arrays[0]))
    ]


def _digest(inputs: Mapping[str, Any], targets: Targets) -> str:
    arrays = [array for one in inputs.values() for array in leaves(one).values()]
    return described.digest_of([*arrays, *targets.parts.values()]).hex()
