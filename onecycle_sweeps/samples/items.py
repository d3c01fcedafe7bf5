"""Items: samples of any map-style torch Dataset, read again in every epoch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps import held_generators, seeding
from onecycle_sweeps.samples import sample_facts as described
from onecycle_sweeps.samples.nested import apart, changed, leaves
from onecycle_sweeps.samples.sample_facts import SampleFacts, SplitRule
from onecycle_sweeps.samples.targets import Form, Targets, copied, copies, known, refuse_unpredicted
from onecycle_sweeps.terminal import counting, in_one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EVALUATION_BATCH = 256
# How many items of a dataset are compared with the described ones whenever a trial begins.
SAMPLED = 16


@dataclass(frozen=True)
class Items:
    """Datasets of torch, with `__len__` and `__getitem__`; `val` and `test` are given if there are such parts.

    An item is a tuple of inputs and a target, or a dict, whose target is under `label`. `collate` makes a batch of a
    list of items (by default torch's), and `workers` processes read them; 0 reads in the trial's own process.
    """

    train: Any
    val: Any = None
    test: Any = None
    collate: Callable[[list[Any]], Any] | None = None
    label: str | None = None
    workers: int = 0
    unit: str = "samples"

    def parts(self) -> dict[str, Any]:
        """The datasets that there are."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}


def describe(source: Items, split: SplitRule) -> SampleFacts:
    """The facts of one split, for which every item is read once.

    Raises ValueError for a dataset without a length, for inputs that are not finite, and for targets that cannot be
    learned.
    """
    if split.classes is not None:
        raise ValueError("classes must be null for a torch Dataset: leave samples out in the dataset itself")
    for name, part in source.parts().items():
        if not hasattr(part, "__len__") or not hasattr(part, "__getitem__"):
            kind = type(part).__name__
            raise ValueError(f"the {name} dataset must have __len__ and __getitem__, got {kind}")
    divided = described.divided({name: len(part) for name, part in source.parts().items()}, split)
    read = {name: _read(source, name) for name in source.parts()}
    label = source.label or "the target"
    offered, doubts, forms = read["train"].offered, [], ()
    usual, reason = "language_model", f"{label} has several lengths"
    arrays = {name: one.targets for name, one in read.items() if isinstance(one.targets, np.ndarray)}
    if len(arrays) == len(read):
        whole = Targets.of(arrays, label)
        targets = whole.at(divided)
        usual, reason = whole.usual()
        forms = whole.forms()
        of_targets, doubts = known(targets, usual)
        offered |= of_targets | {"class_values": targets.class_values()}
    else:
        refuse_unpredicted(
            {name: [read[of].targets[place] for place in index] for name, (of, index) in divided.items()}, label
        )
    digest = _digest(source)
    doubts += copies(label, read["train"].repeated, usual)
    doubts += [
        f"items of the {name} dataset differ when they are read again with the same seeds, so trials of one seed get "
        "different samples, and so does a trial that was stopped: draw from torch, NumPy or random, or from a "
        "generator in an attribute of the dataset"
        for name, part in source.parts().items()
        if len(part) and _length(name, part) in digest.split(",")
    ]
    samples = {name: [read[of].digests[place] for place in index] for name, (of, index) in divided.items()}
    doubts += described.leaks(samples, source.unit)
    return SampleFacts(
        **{"test": 0} | {name: len(one) for name, one in samples.items()},
        unit=source.unit,
        usual=usual,
        reason=reason,
        offered=offered,
        digest=digest,
        doubts=tuple(doubts),
        forms=forms,
    )


def load(source: Items, split: SplitRule, facts: SampleFacts, device: torch.device | str, form: Form) -> ItemBatches:
    """The datasets of a split; raises ValueError if lengths or items are not those that were described."""
    import torch

    if _digest(source, facts.digest) != facts.digest:
        raise ValueError(
            "the dataset has another length or other items than when it was first read: rerun=true reads it afresh; "
            "what it draws at random when it is created must follow from a seed"
        )
    divided = described.divided({name: len(part) for name, part in source.parts().items()}, split)
    return ItemBatches(source, divided, facts, torch.device(device), form)


@dataclass(frozen=True)
class ItemBatches:
    """Batches of a torch Dataset: inputs and targets as `collate` made them, on the device.

    `index` has the positions of each part in one of the source's datasets.
    """

    source: Items
    index: Mapping[str, tuple[str, np.ndarray]]
    facts: SampleFacts
    device: torch.device
    form: Form
    batch_size: int = 1

    @property
    def unit(self) -> str:
        return self.facts.unit

    @property
    def in_memory(self) -> bool:
        return False

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.facts.doubts

    @property
    def offered(self) -> Mapping[str, Any]:
        return self.facts.offered_for(self.form)

    @property
    def sizes(self) -> Mapping[str, int]:
        return {part: len(index) for part, (_, index) in self.index.items()}

    def train_batches(self, seed: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Endless shuffled batches from step `start` on.

        The order of an epoch follows from (seed, epoch), and what a dataset draws at random for a batch from (seed,
        step), also in worker processes.
        """
        return self._batches("train", self._drawn(seed, start))

    def part_batches(self, part: str) -> Iterator[tuple[Any, Any]]:
        """Every sample of a part once, in order; what a dataset draws at random is the same each time."""
        index = self.index[part][1]
        size = max(self.batch_size, EVALUATION_BATCH)
        return self._batches(part, ((f"{part},{at}", index[at : at + size]) for at in range(0, len(index), size)))

    def targets(self, part: str) -> Tensor:
        """The targets of a part, read from its items; one after the other where batches have several lengths."""
        import torch

        found = [targets for _, targets in self.part_batches(part)]
        alike = len({targets.shape[1:] for targets in found}) == 1
        return torch.cat(found if alike else [targets.flatten() for targets in found])

    def few(self, count: int) -> ItemBatches:
        """These batches with only the first samples of each part, read in this process and as one batch."""
        index = {part: (of, at[:count]) for part, (of, at) in self.index.items()}
        source = replace(self.source, workers=0)
        return replace(self, source=source, index=index, batch_size=min(count, len(index["train"][1])))

    def check(self) -> None:
        """Do nothing: a user's own dataset has to notice itself that its files have changed."""

    def _drawn(self, seed: int, start: int) -> Iterator[tuple[str, np.ndarray]]:
        """The positions of each batch, after the text that seeds its random draws."""
        index, step = self.index["train"][1], start
        steps = len(index) // self.batch_size
        while True:
            epoch, first = divmod(step, steps)
            order = index[seeding.order(len(index), seed, epoch).numpy()]
            for place in range(first, steps):
                yield f"{seed},{step}", order[place * self.batch_size : (place + 1) * self.batch_size]
                step += 1

    def _batches(self, part: str, drawn: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[Any, Any]]:
        import torch
        from torch.utils.data import DataLoader

        loader = DataLoader(
            _Seeded(self.source.parts()[self.index[part][0]], self.source),  # type: ignore[arg-type]
            batch_sampler=_Sampler(drawn),  # type: ignore[arg-type]
            num_workers=self.source.workers,
            collate_fn=self.source.collate,
            # Without it the loader would draw from torch's generator, from which nets draw too.
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
        )
        for batch in loader:
            inputs, targets = apart(batch, self.source.label)
            yield changed(inputs, self._moved), self._formed(targets)

    def _moved(self, value: Any) -> Any:
        """A tensor on the device, float64 as float32, since NumPy's numbers are float64 and nets are not."""
        import torch

        if not isinstance(value, torch.Tensor):
            return value
        dtype = torch.float32 if value.dtype == torch.float64 else value.dtype
        return value.to(self.device, dtype, non_blocking=True)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the training targets, in float64."""
        import torch

        mean, std = (
            torch.tensor(self.facts.offered[name], dtype=torch.float64) for name in ("target_mean", "target_std")
        )
        return mean, std

    def _formed(self, targets: Any) -> Any:
        """The targets of a batch on the device, in the form that the objective takes.

        They are formed before `_moved` makes float32 of them, in which large numbers that differ are equal.
        """
        import torch

        if self.form == "classes":
            values = self.facts.offered["class_values"]
            if isinstance(values[0], str) and not isinstance(targets, torch.Tensor):
                numbers = {value: number for number, value in enumerate(values)}
                return torch.tensor([numbers[str(one)] for one in targets], device=self.device)
            # Booleans are words to the facts, and a tensor in a batch.
            if isinstance(values[0], str) or values == list(range(len(values))):
                return self._moved(targets.long())
            known = torch.tensor(values, dtype=torch.float64 if isinstance(values[0], float) else torch.int64)
            return self._moved(torch.searchsorted(known, targets.to("cpu", known.dtype)))
        if self.form == "values":
            mean, std = (one.reshape(targets.shape[1:]).to(targets.device) for one in self._moments)
            return self._moved((targets.double() - mean) / std)
        targets = self._moved(targets)
        if self.form == "masks":
            return targets.long()
        if self.form == "labels":
            return targets.float()
        return targets


class _Seeded:
    """A dataset that is asked for whole batches, and whose random draws follow from what comes with the positions.

    Each worker process has its own copy, which finds and seeds the generators of that process.
    """

    def __init__(self, dataset: Any, source: Items) -> None:
        self.dataset, self.collate, self.label = dataset, source.collate, source.label

    @cached_property
    def generators(self) -> Mapping[str, Any]:
        """The generators that the dataset, and what makes batches of its items, hold."""
        return held_generators.held(dataset=self.dataset, collate=self.collate)

    def __getitems__(self, asked: tuple[str, list[int]]) -> list[Any]:
        seed, positions = asked
        with _drawing(seed, self.generators):
            if hasattr(self.dataset, "__getitems__"):
                items = self.dataset.__getitems__(positions)
            else:
                items = [self.dataset[position] for position in positions]
        return items if self.collate else [_unnested(item, self.label) for item in items]


def _unnested(item: Any, label: str | None) -> Any:
    """An item as torch's collate has to get it: with arrays for lists of numbers, and inputs that are no tuple in it.

    Of a list it would make one of a batch of each number, and of a tuple a list, which is one argument.
    """
    inputs, target = apart(item, label)
    inputs, target = changed(inputs, _array), _array(target)
    if isinstance(item, dict):
        return {name: inputs.get(name, target) for name in item}
    return (*inputs, target) if isinstance(inputs, tuple) else (inputs, target)


def _array(value: Any) -> Any:
    """A list of numbers as an array; a list of arrays or tensors, such as two views of an image, stays one."""
    if not isinstance(value, list) or any(hasattr(one, "dtype") and one.ndim for one in value):
        return value
    array = np.asarray(value)
    return array if array.dtype.kind in "iufb" else value


class _Sampler:
    """The seed of the draws and the positions of each batch, as torch's DataLoader asks a batch sampler for them."""

    def __init__(self, drawn: Iterable[tuple[str, np.ndarray]]) -> None:
        self.drawn = drawn

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        for seed, positions in self.drawn:
            yield seed, positions.tolist()


@contextmanager
def _drawing(seed: str, generators: Mapping[str, Any]) -> Iterator[None]:
    """A context in which torch, NumPy, Python and a dataset's own generators draw from `seed`.

    torch's generator is restored after it, except in a worker process, where no net draws from it and what makes a
    batch of the items goes on drawing from `seed`.
    """
    import torch
    from torch.utils.data import get_worker_info

    generator, state = torch.default_generator, torch.get_rng_state()
    number = seeding.number(seed)
    generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)
    held_generators.seed(generators, seed)
    try:
        yield
    finally:
        if get_worker_info() is None:
            torch.set_rng_state(state)


@dataclass(frozen=True)
class _Read:
    """What was read of a dataset: its targets, each item's digest, and what nets ask for.

    The targets are a list if they have several shapes. `repeated` are inputs that they are the same as.
    """

    targets: np.ndarray | list[np.ndarray]
    digests: list[bytes]
    offered: dict[str, Any]
    repeated: Sequence[str]


def _read(source: Items, name: str) -> _Read:
    """Read every item of a dataset once.

    Raises ValueError for an item that cannot be read or is neither a tuple nor a dict, for inputs that are not finite,
    and for inputs of several shapes, of which torch's own collate cannot make a batch.
    """
    dataset = source.parts()[name]
    generators = held_generators.held(dataset=dataset)
    targets, digests, offered, first = [], [], {}, {}
    repeated: set[str] | None = None
    with counting(f"reading the {name} dataset", len(dataset), source.unit) as count, _drawing(name, generators):
        for place in range(len(dataset)):
            try:
                inputs, target = apart(dataset[place], source.label)
                arrays = {at: np.asarray(value) for at, value in leaves(inputs).items()}
            except Exception as error:
                raise ValueError(f"item {place} of the {name} dataset cannot be read: {in_one_line(error)}") from error
            first = first or {at: array.shape for at, array in arrays.items()}
            for at, array in arrays.items():
                if source.collate is None and array.shape != first.get(at, array.shape):
                    raise ValueError(
                        f"{at} of item {place} of the {name} dataset must have the first item's shape {first[at]}, got "
                        f"{array.shape}: data.collate can make a batch of unlike items"
                    )
                described.refuse_not_finite(array, f"{at} of item {place} of the {name} dataset")
            targets.append(np.asarray(target))
            repeated = copied(arrays, targets[-1]) if repeated is None else repeated & copied(arrays, targets[-1])
            digests.append(described.digest_of(arrays.values()))
            offered = offered or _offered(inputs)
            count(1)
    shapes = list(dict.fromkeys(target.shape for target in targets))
    alike = len(shapes) == 1
    if not alike and any(target.dtype.kind not in "iu" or target.ndim != 1 for target in targets):
        raise ValueError(
            f"the targets of the {name} dataset must have one shape or be tokens: {shapes[0]}, {shapes[1]}"
        )
    return _Read(np.stack(targets) if alike else targets, digests, offered, sorted(repeated or ()))


def _offered(inputs: Any) -> dict[str, Any]:
    """What a net may ask for of an item's inputs, if they are one array."""
    if isinstance(inputs, dict | tuple):
        return {}
    array = np.asarray(inputs)
    offered: dict[str, Any] = {"in_features": int(array.size)}
    return offered | ({"in_channels": array.shape[0], "length": array.shape[-1]} if array.ndim >= 2 else {})


def _digest(source: Items, recorded: str = "") -> str:
    """The length of each dataset and a hash of some of its items, by which changes of a dataset are noticed.

    Items are read twice. If they differ, because the dataset draws without a seed, only its length is taken, as it is
    if the `recorded` digest has only the length.
    """
    digests = []
    for name, part in source.parts().items():
        found = _length(name, part)
        if found not in recorded.split(","):
            if len(part):
                # A dataset may create its generators when its first item is read.
                with _drawing(name, {}):
                    _ = part[0]
            once, again = (_digest_of_some(part, source.label) for _ in range(2))
            found += once if once == again else ""
        digests.append(found)
    return ",".join(digests)


def _length(name: str, part: Any) -> str:
    """The digest of a dataset whose items are not reproducible."""
    return f"{name}:{len(part)}:"


def _digest_of_some(dataset: Any, label: str | None) -> str:
    """A hash of items that lie evenly in a dataset."""
    arrays: list[np.ndarray] = []
    generators = held_generators.held(dataset=dataset)
    for place in np.unique(np.linspace(0, len(dataset) - 1, SAMPLED).astype(int)).tolist() if len(dataset) else ():
        with _drawing(str(place), generators):
            inputs, target = apart(dataset[place], label)
        arrays += [np.asarray(value) for value in (*leaves(inputs).values(), target)]
    return described.digest_of(arrays).hex()
