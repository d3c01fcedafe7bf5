"""The loop is a bare torch loop to the last bit, and an evaluation counts every sample exactly once."""

import sys
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

from onecycle_sweeps.images import ImageBatches, Source, batches, load, prepare
from onecycle_sweeps.loop import Learner, evaluate, steps
from onecycle_sweeps.models.simple_cnn import SimpleCNN
from onecycle_sweeps.objectives.classification import Classification
from onecycle_sweeps.policies import Constant, Hyper, OneCycle

BATCH, SEED, TOTAL = 32, 7, 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageBatches:
    """Noise: 203 training and 103 validation images of 4 classes, so that no batch size divides either."""
    drawn = np.random.default_rng(0)
    images, labels = drawn.integers(0, 256, (306, 1, 8, 8), dtype=np.uint8), drawn.integers(0, 4, 306)
    source = Source(images[:203], labels[:203], images[203:], labels[203:], tuple("abcd"))
    folder = tmp_path_factory.mktemp("noise") / "cache"
    facts = prepare(lambda: source, folder, val_fraction=0, split_seed=0, classes=None)
    return load(folder, facts, BATCH, "cpu")


def net() -> nn.Module:
    torch.manual_seed(SEED)
    return SimpleCNN(1, 4).to(memory_format=torch.channels_last)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.999), weight_decay=0.01)


def made(data: ImageBatches, optimizer: Any = sgd, label_smoothing: float = 0.0, **settings: Any) -> Learner:
    model = net()
    return Learner(model, optimizer(model), data, Classification(label_smoothing), SEED, **settings)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, ours, theirs))


@dataclass(frozen=True)
class Given:
    """A policy that gives the values of a list."""

    values: list[Hyper]

    @property
    def total_steps(self) -> int:
        return len(self.values)

    def __call__(self, step: int, /) -> Hyper:
        return self.values[step]


def bare_loop(
    data: ImageBatches, optimizer: Any, bf16: bool = False, label_smoothing: float = 0.0, clip_norm: float | None = None
) -> tuple[nn.Module, list[Hyper], list[float]]:
    """A training as anybody would write it, with torch's OneCycleLR: the net, what each step used, and the losses."""
    model = net()
    optimizer = optimizer(model)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=TOTAL)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.facts.mean, data.facts.std))
    used, losses = [], []
    for images, labels in islice(batches(data.train, BATCH, SEED), TOTAL):
        group = optimizer.param_groups[0]
        used.append(Hyper(group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            scores = model(((images.float() - mean) / std).to(memory_format=torch.channels_last))
        loss = cross_entropy(scores.float(), labels, label_smoothing=label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        if len(used) < TOTAL:
            scheduler.step()
        losses.append(loss.item())
    return model, used, losses


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize(
    "settings",
    [{}, {"bf16": True}, {"label_smoothing": 0.1}, {"clip_norm": 0.5}, {"label_smoothing": 0.1, "clip_norm": 0.5}],
    ids=str,
)
def test_the_loop_equals_a_bare_torch_loop_to_the_last_bit(
    data: ImageBatches, optimizer: Any, settings: dict[str, Any]
):
    model, used, losses = bare_loop(data, optimizer, **settings)
    learner = made(data, optimizer, **settings)
    taken = list(steps(learner, Given(used)))
    assert [step.index for step in taken] == list(range(TOTAL))
    assert [step.hyper for step in taken] == used
    assert [step.loss.item() for step in taken] == losses
    assert same(weights(learner.model), weights(model))


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_the_policy_trains_as_torchs_one_cycle_lr(data: ImageBatches, optimizer: Any):
    model, used, losses = bare_loop(data, optimizer)
    learner = made(data, optimizer)
    taken = list(steps(learner, OneCycle(0.1, TOTAL)))
    for step, theirs in zip(taken, used, strict=True):
        assert step.hyper.lr == pytest.approx(theirs.lr, rel=1e-9)
        assert step.hyper.momentum == pytest.approx(theirs.momentum, rel=1e-9)
    assert [step.loss.item() for step in taken] == pytest.approx(losses, rel=1e-3)
    for ours, theirs in zip(weights(learner.model), weights(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{"bf16": True}, {"label_smoothing": 0.1}, {"clip_norm": 0.5}], ids=str)
def test_every_setting_changes_the_training(data: ImageBatches, settings: dict[str, Any]):
    plain, other = made(data), made(data, **settings)
    for learner in (plain, other):
        assert len(list(steps(learner, Constant(0.1, 5)))) == 5
    assert not same(weights(plain.model), weights(other.model))


def test_the_rate_and_the_momentum_are_those_the_optimizer_has_at_the_step(data: ImageBatches):
    learner, seen = made(data), []
    learner.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
    )
    taken = [(step.hyper.lr, step.hyper.momentum) for step in steps(learner, OneCycle(0.1, TOTAL))]
    assert taken == seen
    assert len(set(taken)) == TOTAL


def test_a_step_is_taken_when_it_is_drawn_and_none_after_the_loop_is_left(data: ImageBatches):
    learner, updates = made(data), []
    learner.optimizer.register_step_post_hook(lambda *_: updates.append(None))
    stream = steps(learner, Constant(0.1, TOTAL))
    assert updates == []
    for step in stream:
        assert len(updates) == step.index + 1
        if step.index == 2:
            break
    assert len(updates) == 3


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, 6, 13])
def test_a_loop_that_goes_on_at_a_step_equals_one_that_was_not_left(data: ImageBatches, start: int):
    whole, parts, policy = made(data), made(data), OneCycle(0.1, TOTAL)
    undisturbed = [step.hyper for step in steps(whole, policy)]
    first = [step.hyper for step in islice(steps(parts, policy), start)]
    assert first + [step.hyper for step in steps(parts, policy, start)] == undisturbed
    assert same(weights(parts.model), weights(whole.model))


def test_an_evaluation_between_two_steps_changes_nothing(data: ImageBatches):
    whole, watched = made(data), made(data)
    for _ in steps(whole, Constant(0.1, 8)):
        pass
    for _ in steps(watched, Constant(0.1, 8)):
        evaluate(watched, "val")
    assert same(weights(watched.model), weights(whole.model))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 20, 103, 1024])
@pytest.mark.parametrize("part", ["train", "val"])
def test_an_evaluation_counts_as_a_plain_loop_over_the_samples_does(
    data: ImageBatches, monkeypatch: pytest.MonkeyPatch, batch: int, part: str
):
    learner, split = made(data, label_smoothing=0.1), getattr(data, part)
    for _ in steps(learner, Constant(0.1, 8)):
        pass
    monkeypatch.setitem(vars(sys.modules[batches.__module__]), "EVALUATION_BATCH", {"cpu": (batch, 2**21)})
    seen = evaluate(learner, part)
    learner.model.eval()
    right, losses = 0, []
    with torch.no_grad():
        for image, label in zip(split.images[split.index], split.labels[split.index], strict=True):
            scores = learner.model(data.normalise(image[None]))[0].double().numpy()
            right += int(scores.argmax() == label)
            losses.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label])
    assert seen["accuracy"] == right / len(split)
    assert seen["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert 0.2 < seen["accuracy"] < 1


@pytest.mark.parametrize("mode", [True, False])
def test_an_evaluation_leaves_the_net_in_the_mode_it_was_in(data: ImageBatches, mode: bool):
    learner = made(data)
    learner.model.train(mode)
    before = weights(learner.model)
    evaluate(learner, "val")
    assert learner.model.training is mode
    assert same(weights(learner.model), before)


@pytest.mark.parametrize(("change", "saw"), [(-1, 102), (1, 104)])
def test_an_evaluation_that_misses_a_sample_or_sees_one_twice_is_an_error(
    data: ImageBatches, monkeypatch: pytest.MonkeyPatch, change: int, saw: int
):
    index = data.val.index
    wrong = replace(data, val=replace(data.val, index=index[:-1] if change < 0 else torch.cat((index, index[:1]))))
    monkeypatch.setattr(ImageBatches, "sizes", data.sizes)
    with pytest.raises(RuntimeError, match=f"each of 103 samples once, and counted {saw}"):
        evaluate(made(wrong), "val")
