"""What a step asks of a GPU, without one: on the meta device, where a dispatch mode sees each operation."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from onecycle_sweeps.images import ImageBatches, Split
from onecycle_sweeps.loop import Learner, StepTaken, Totals, steps
from onecycle_sweeps.policies import Constant
from real_trials import SHORT, learner_of, made

NETS = {
    "simple_cnn": ("model=simple_cnn",),
    "ResNet-9": ("model=resnet9", "data.augment=[{_target_: onecycle_sweeps.images.augmentation.Flip}]"),
    "clipped, AdamW": ("model=lenet", "clip_norm=1", "optimizer=adamw", "max_lr=0.001"),
}
nets = pytest.mark.parametrize(
    "asked",
    [
        pytest.param(asked, id=name, marks=pytest.mark.slow if name == "ResNet-9" else ())
        for name, asked in NETS.items()
    ],
)
# These read a number of the device, so that Python waits for it.
WAITING = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero"}
# These only describe memory in another way, and start no kernel.
VIEWS = {"view", "_unsafe_view", "t", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze", "expand"}
VIEWS |= {"detach", "alias", "as_strided", "split", "unbind", "_reshape_alias", "empty", "empty_like", "flatten"}


class Operations(TorchDispatchMode):
    """Counts the operations on tensors of the meta device, those that wait for it, and copies from and to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        name = str(function.overloadpacket)
        tensors = [one for one in (*_flat(args), *_flat(found)) if isinstance(one, Tensor)]
        devices = {one.device.type for one in tensors if one.ndim or one.device.type == "meta"}
        if name in WAITING and "meta" in devices:
            self.waits[name] += 1
        elif devices == {"cpu", "meta"}:
            self.copies[name] += 1
        elif devices == {"meta"} and name.removeprefix("aten.") not in VIEWS:
            self.kernels[name] += 1
        return found


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def on_meta(learner: Learner) -> Learner:
    """A learner whose net and data are on the meta device, which takes the same path as a GPU."""
    data: Any = learner.data
    assert isinstance(data, ImageBatches)
    splits = {name: _moved(getattr(data, name)) for name in ("train", "val", "test") if getattr(data, name)}
    net = learner.model.to("meta")
    group = {key: value for key, value in learner.optimizer.param_groups[0].items() if key != "params"}
    kind: Any = type(learner.optimizer)
    given = {key: group[key] for key in ("lr", "momentum", "nesterov", "weight_decay", "betas") if key in group}
    return replace(learner, model=net, data=replace(data, **splits), optimizer=kind(net.parameters(), **given))


def _moved(split: Split) -> Split:
    return replace(split, **{one.name: getattr(split, one.name).to("meta") for one in fields(split)[:3]})


def training(folder: Path, *asked: str) -> tuple[Iterator[StepTaken], Totals]:
    """The steps of a learner on the meta device, and the sums that a trial would add them to."""
    learner = on_meta(learner_of(made(folder, *SHORT, *asked, "device=cpu", "precision=fp32")))
    return steps(learner, Constant(0.1, 10)), Totals()


@contextmanager
def counted() -> Iterator[Operations]:
    with Operations() as seen:
        yield seen


def taken(stream: Iterator[StepTaken], totals: Totals, count: int) -> None:
    for step in islice(stream, count):
        totals.add(step.sums)


@pytest.mark.slow
@nets
def test_a_step_within_an_epoch_waits_for_nothing_and_copies_nothing(tmp_path: Path, asked: tuple[str, ...]):
    stream, totals = training(tmp_path, *asked)
    taken(stream, totals, 1)
    with counted() as seen:
        taken(stream, totals, 3)
    assert seen.kernels and seen.waits == {} and seen.copies == {}


@pytest.mark.slow
@nets
def test_an_epoch_begins_with_a_few_copies_whatever_its_length(tmp_path: Path, asked: tuple[str, ...]):
    stream, totals = training(tmp_path, *asked)
    taken(stream, totals, 5)
    with counted() as seen:
        taken(stream, totals, 5)
    assert seen.waits == {} and sum(seen.copies.values()) <= 1 + 2 * len(asked)


def test_a_step_has_a_few_kernels_more_than_its_net_loss_and_update(tmp_path: Path):
    learner = on_meta(learner_of(made(tmp_path, *SHORT, "device=cpu", "precision=fp32")))
    stream, totals = steps(learner, Constant(0.1, 10)), Totals()
    taken(stream, totals, 1)
    with counted() as ours:
        taken(stream, totals, 4)
    images, labels = next(learner.data.train_batches(0))
    with counted() as bare:
        learner.optimizer.zero_grad()
        cross_entropy(learner.model(images), labels).backward()
        learner.optimizer.step()
    added = sum(ours.kernels.values()) / 4 - sum(bare.kernels.values())
    # The predictions, which of them are right, their sum, and the running sum of those.
    assert 0 < added <= 5
