"""find_max_lr: the range test of a trial for any model, after which all is as it was."""

import copy
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, Subset, TensorDataset

import onecycle_sweeps
from onecycle_sweeps import OneCycle, PolicyScheduler, find_max_lr
from onecycle_sweeps.max_lr import Verdict
from onecycle_sweeps.policies import Hyper
from onecycle_sweeps.range_test import OneSeed, Ramp, judge, until_diverged
from own_loops import Sharp

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")
Examples = list[tuple[Tensor, Tensor]]


class Noisy(nn.Module):
    """A net with all that training changes: weights, running statistics, a counter, and random draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("expanded", torch.arange(3).expand(2, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + len(inputs)
        return self.layers(inputs + 0.01 * float(np.random.standard_normal()) + 0.01 * random.random())


@pytest.fixture(scope="module")
def data() -> Examples:
    """Twelve batches of three classes that a linear net can tell apart."""
    drawn = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (12, 16), generator=drawn)
    inputs = torch.randn(12, 16, 8, generator=drawn) + 2 * nn.functional.one_hot(labels, 8)
    return list(zip(inputs, labels, strict=True))


def made(seed: int = 0) -> tuple[Noisy, Optimizer]:
    torch.manual_seed(seed)
    model = Noisy()
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9)


def everything(model: nn.Module, optimizer: Optimizer) -> list[Any]:
    """All that must be the same afterwards, as a copy."""
    gradients = [parameter.grad for parameter in model.parameters()]
    flags = [(parameter.requires_grad, id(parameter)) for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    return copy.deepcopy([model.state_dict(), gradients, flags, modes, optimizer.state_dict(), generators])


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor | np.ndarray):
        return bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def trained_a_little(model: nn.Module, optimizer: Optimizer, data: Examples) -> None:
    for inputs, labels in data[:2]:
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def found(data: Examples) -> Verdict:
    return find_max_lr(*made(), cross_entropy, data)


@pytest.mark.slow
def test_the_verdict_is_that_of_the_judge_on_the_ramp_of_a_trial(found: Verdict, data: Examples) -> None:
    model, optimizer = made()
    ramp, rates, losses = Ramp(1e-5, 10.0, 200), [], []

    class Step:
        def __init__(self, index: int) -> None:
            optimizer.param_groups[0]["lr"] = ramp(index).lr
            optimizer.zero_grad()
            loss = cross_entropy(model(data[index % 12][0]), data[index % 12][1])
            loss.backward()
            optimizer.step()
            self.loss = loss.detach()

    # The draws of a test do not depend on where it is called.
    torch.manual_seed(0)
    again = find_max_lr(model, optimizer, cross_entropy, data)
    for index, (step, _) in enumerate(until_diverged(map(Step, range(200)))):
        rates.append(ramp(index).lr)
        losses.append(float(step.loss))
    assert (again.tests[0].lrs, again.tests[0].losses) == (rates, losses)
    assert again.judgement == judge([OneSeed(rates, losses)])
    assert found.interval[0] <= found.max_lr <= found.interval[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("mode", ["fresh", "trained", "evaluation"])
def test_everything_is_as_before(kind: str, mode: str, data: Examples) -> None:
    model, optimizer = made()
    if kind == "adamw":
        optimizer = AdamW(model.parameters(), lr=torch.tensor(0.01), capturable=False, foreach=False)
    if mode != "fresh":
        trained_a_little(model, optimizer, data)
    if mode == "evaluation":
        model.eval()
        model.layers[0].weight.requires_grad_(False)
    rate, groups, state = optimizer.param_groups[0]["lr"], optimizer.param_groups, optimizer.state
    before = everything(model, optimizer)
    verdict = find_max_lr(model, optimizer, cross_entropy, data, steps=100)
    assert same(before, everything(model, optimizer))
    assert optimizer.param_groups is groups and optimizer.state is state and groups[0]["lr"] is rate
    assert len(verdict.to_frame()) > 50


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [1, 40])
def test_everything_is_as_before_when_the_call_ends_by_an_exception(
    error: BaseException, at: int, data: Examples
) -> None:
    model, optimizer = made()
    trained_a_little(model, optimizer, data)
    before, calls = everything(model, optimizer), iter(range(1000))

    def failing(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(calls) == at:
            model.requires_grad_(False).eval()
            raise error
        return cross_entropy(outputs, targets)

    with pytest.raises(type(error)):
        find_max_lr(model, optimizer, failing, data)
    assert same(before, everything(model, optimizer))


@pytest.mark.slow
def test_a_loader_begins_anew_and_its_generator_is_as_before(data: Examples) -> None:
    inputs, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    drawn = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=32, shuffle=True, generator=drawn)
    before = drawn.get_state()
    torch.manual_seed(1)
    first = find_max_lr(*made(), cross_entropy, loader)
    assert torch.equal(drawn.get_state(), before)
    assert find_max_lr(*made(), cross_entropy, loader).max_lr == first.max_lr


@pytest.mark.slow
def test_generators_that_a_data_set_and_a_model_hold_are_as_before(data: Examples) -> None:
    class Noisy(TensorDataset):
        def __init__(self, *tensors: Tensor) -> None:
            super().__init__(*tensors)
            self.of_numpy, self.of_python = np.random.default_rng(0), [random.Random(0)]

        def __getitem__(self, place: int) -> tuple[Tensor, ...]:
            inputs, labels = super().__getitem__(place)
            return inputs + 0.1 * self.of_numpy.normal() + 0.1 * self.of_python[0].random(), labels

    noisy = Noisy(*(torch.cat(parts) for parts in zip(*data, strict=True)))
    loader = DataLoader(Subset(noisy, range(96)), batch_size=32)
    model, optimizer = made()
    drawn = torch.Generator()
    model.register_forward_hook(lambda *given: given[2] + 0 * torch.rand(1, generator=drawn))

    def states() -> list[Any]:
        return [noisy.of_numpy.bit_generator.state, noisy.of_python[0].getstate(), drawn.get_state().tolist()]

    before = states()
    find_max_lr(model, optimizer, cross_entropy, loader)
    assert states() == before


@pytest.mark.slow
def test_a_step_of_ones_own_gives_the_verdict_of_the_loader(data: Examples) -> None:
    expected = find_max_lr(*made(), cross_entropy, data)
    for with_loader in (True, False):
        model, optimizer = made()

        def step(batch: Any, model: nn.Module = model) -> float:
            loss = cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            return loss.item()

        if with_loader:
            verdict = find_max_lr(model, optimizer, loader=data, step=step)
        else:
            batches = (batch for _ in range(1000) for batch in data)
            verdict = find_max_lr(model, optimizer, step=lambda step=step, batches=batches: step(next(batches)))
        assert verdict.tests == expected.tests


@pytest.mark.slow
def test_a_step_that_scales_its_gradients_gives_the_verdict_of_one_that_does_not(data: Examples) -> None:
    (model, optimizer), scaler = made(), torch.amp.GradScaler("cpu")

    def step(batch: Any) -> torch.Tensor:
        loss = cross_entropy(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.update()
        return loss

    assert (
        find_max_lr(model, optimizer, loader=data, step=step).max_lr == find_max_lr(*made(), cross_entropy, data).max_lr
    )


@pytest.mark.slow
def test_batches_are_pairs_longer_tuples_or_dicts(data: Examples) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, inputs: Tensor, more: Any = None) -> Any:
            return self.layer(inputs if more is None else inputs + more)

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Two()

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": cross_entropy(self.net(inputs), labels)}

    class WithLogits(Two):
        def forward(self, inputs: Tensor, more: Any = None) -> Any:
            return {"hidden": inputs, "logits": super().forward(inputs, more)}

    def result(kind: type[nn.Module], batches: Any, loss: Any = cross_entropy) -> float:
        torch.manual_seed(0)
        model = kind()
        return find_max_lr(model, SGD(model.parameters(), lr=0.1), loss, batches).max_lr

    rate = result(Two, data)
    assert result(Two, [list(batch) for batch in data]) == rate
    assert result(Two, [(inputs, 0 * inputs, labels) for inputs, labels in data]) == rate
    assert result(Two, [{"inputs": inputs, "label": labels} for inputs, labels in data]) == rate
    assert result(WithLoss, [{"inputs": inputs, "labels": labels} for inputs, labels in data], None) == rate
    assert result(WithLoss, data, None) == rate
    assert result(WithLogits, data) == rate


def test_param_groups_keep_the_ratios_of_their_rates(data: Examples) -> None:
    model, _ = made()
    parts = [{"params": model.layers[0].parameters(), "lr": 0.01}, {"params": model.layers[4].parameters()}]
    optimizer, seen = SGD(parts, lr=0.1), []

    def step(batch: Any) -> Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        loss = cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    verdict = find_max_lr(model, optimizer, loader=data, step=step)
    assert all(low == pytest.approx(high / 10) for low, high in seen)
    assert [high for _, high in seen] == list(verdict.tests[0].lrs)
    assert verdict.lr_scales == pytest.approx((0.1, 1.0))
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]
    assert not any("lr_scale" in group for group in optimizer.param_groups)
    assert "factors of the param groups: 0.1, 1" in repr(verdict)


def test_a_scheduler_that_begins_at_zero_does_not_hide_the_rates(data: Examples) -> None:
    model, _ = made()
    optimizer = SGD(
        [{"params": model.layers[0].parameters(), "lr": 0.01}, {"params": model.layers[4].parameters()}], 0.1
    )
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert find_max_lr(model, optimizer, cross_entropy, data).lr_scales == pytest.approx((0.1, 1.0))


@pytest.mark.slow
def test_several_seeds_make_several_nets(data: Examples) -> None:
    seeded = []

    def make(seed: int) -> tuple[Any, ...]:
        seeded.append(seed)
        model = Noisy()
        return model, SGD(model.parameters(), lr=0.1), cross_entropy, data

    random.seed(3)
    before = random.getstate(), torch.get_rng_state()
    verdict = find_max_lr(make, seeds=(0, 1, 2))
    assert seeded == [0, 1, 2] and len({test.losses[0] for test in verdict.tests}) == 3
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert sorted(set(verdict.to_frame()["seed"])) == [0, 1, 2]
    assert find_max_lr(make, seeds=(0, 1, 2)).max_lr == verdict.max_lr


def test_an_optimizer_that_calls_a_closure_is_tested(data: Examples) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    optimizer = LBFGS(model.parameters(), max_iter=1)
    verdict = find_max_lr(model, optimizer, cross_entropy, data[:1], end_lr=10.0, steps=100)
    assert verdict.max_lr > 0 and not optimizer.state


def test_the_test_ends_at_a_loss_that_is_not_finite(data: Examples) -> None:
    model, optimizer = made()
    calls = iter(range(1000))

    def breaking(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets) * (float("nan") if next(calls) == 150 else 1)

    before = everything(model, optimizer)
    assert len(find_max_lr(model, optimizer, breaking, data).tests[0].losses) == 151
    assert same(before, everything(model, optimizer))


def test_the_verdict_makes_a_schedule(found: Verdict) -> None:
    assert found.policy(300) == OneCycle(found.max_lr, 300)
    with pytest.raises(ValueError, match="total_steps"):
        found.policy()


def test_the_verdict_is_drawn_and_shown(found: Verdict) -> None:
    from matplotlib import pyplot

    axes = found.plot()
    assert axes.get_xscale() == "log" and axes in pyplot.gcf().axes
    _, own = pyplot.subplots()
    assert found.plot(own) is own
    pyplot.close("all")
    for text in (repr(found), found._repr_html_()):
        assert f"max_lr={found.max_lr:.3g}" in text and found.word in text and "valley" in text
    assert list(found.to_frame().columns) == ["seed", "step", "lr", "loss", "smoothed"]


def stepping(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


def scheduling(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.param_groups[0]["lr"] = 0.1
    return loss


def below_zero(model: nn.Module, _: Optimizer, batch: Any) -> Tensor:
    loss = cross_entropy(model(batch[0]), batch[1]) - 100
    loss.backward()
    return loss


MISUSES = {
    "an update of its own": (stepping, r"must not call optimizer\.step"),
    "a scheduler": (scheduling, "must not change the learning rate"),
    "no gradients": (lambda model, _, batch: cross_entropy(model(batch[0]), batch[1]), r"loss\.backward"),
    "no loss": (lambda *_: None, "must return the loss, one number, got a NoneType"),
    "a loss per sample": (lambda *_: torch.zeros(4), r"got a tensor of shape \(4,\)"),
    "a negative loss": (below_zero, r"at least 0, got -9"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_step_that_would_spoil_the_test_is_refused(misuse: str, data: Examples) -> None:
    model, optimizer = made()
    step, message = MISUSES[misuse]
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=message):
        find_max_lr(model, optimizer, loader=data, step=lambda batch: step(model, optimizer, batch))
    assert same(before, everything(model, optimizer))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda model, optimizer, data: (model, optimizer), "a loader"),
        (lambda model, optimizer, data: (model, [1], cross_entropy, data), "torch.optim.Optimizer"),
        (lambda model, optimizer, data: (model, optimizer, data, cross_entropy), "loss_fn must be .* got a list"),
        (lambda model, optimizer, data: (model, optimizer, nn.MSELoss, data), "got the class MSELoss"),
        (lambda model, optimizer, data: (model, optimizer, cross_entropy, 16), "loader must give batches"),
        (lambda model, optimizer, data: ("model", optimizer, cross_entropy, data), "torch.nn.Module"),
        (lambda model, optimizer, data: (model, optimizer, cross_entropy, []), "no batch in its first pass"),
        (lambda model, optimizer, data: (model, optimizer, cross_entropy, iter(data)), "no batch in its second pass"),
        (lambda model, optimizer, data: (model, optimizer, nn.CrossEntropyLoss(reduction="none"), data), "one number"),
        (lambda model, optimizer, data: (model, optimizer, None, [data[0][0]]), "without loss_fn"),
        (
            lambda model, optimizer, data: (model, optimizer, cross_entropy, [{"a": 1, "b": 2}]),
            "a batch must have a key",
        ),
        (lambda model, optimizer, data: (model.requires_grad_(False), optimizer, cross_entropy, data), "frozen"),
        (lambda model, optimizer, data: (made()[0], optimizer, cross_entropy, data), "optimizer of the model's own"),
        (lambda model, optimizer, data: (lambda seed: model, optimizer), "must make the optimizer"),
        (lambda model, optimizer, data: (lambda seed: model,), "seeds must be given"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: Any, message: str, data: Examples) -> None:
    with pytest.raises(ValueError, match=message):
        find_max_lr(*arguments(*made(), data))


@pytest.mark.parametrize("seeds", [3, "ab", (), (0, 0), (0.5,)])
def test_seeds_must_be_whole_numbers_that_differ(seeds: Any) -> None:
    with pytest.raises(ValueError, match=r"seeds must be .* such as seeds=\(0, 1, 2\), got"):
        find_max_lr(lambda seed: (*made(), cross_entropy, []), seeds=seeds)


@pytest.mark.parametrize("policy", [OneCycle(0.1, 100), "cosine"])
def test_a_policy_that_makes_none_is_refused_before_the_test(policy: Any) -> None:
    with pytest.raises(ValueError, match="policy must be a class of policies"):
        find_max_lr(*made(), cross_entropy, [], policy=policy)


@dataclass(frozen=True)
class Always:
    """A policy whose class has total_steps, as its default."""

    max_lr: float
    total_steps: int = 100

    def __call__(self, step: int) -> Hyper:
        return Hyper(self.max_lr, None)


def test_a_ramp_that_is_too_short_names_the_argument(data: Examples) -> None:
    with pytest.raises(ValueError, match=r"^steps of a range test must be at least 100, got 50"):
        find_max_lr(*made(), cross_entropy, data, steps=50, policy=Always)


def test_a_test_without_a_verdict_names_the_arguments_of_the_call(data: Examples) -> None:
    with pytest.raises(ValueError) as refusal:
        find_max_lr(*made(), cross_entropy, data, end_lr=2e-5)
    assert "raise end_lr" in str(refusal.value) and "range_test." not in str(refusal.value)


@pytest.mark.parametrize("name", ["sgd", "adamw", "sharp"])
def test_the_ramp_has_the_ends_of_the_programs_own(name: str, data: Examples) -> None:
    file = "sgd" if name == "sharp" else name
    node = yaml.safe_load((ROOT / "conf" / "optimizer" / f"{file}.yaml").read_text())["range_test"]
    model, _ = made()
    optimizer = {"sgd": SGD, "adamw": AdamW, "sharp": Sharp}[name](model.parameters(), lr=0.1)
    optimizer.step = getattr(optimizer, "second_step", optimizer.step)
    rates = find_max_lr(model, optimizer, cross_entropy, data, steps=100).tests[0].lrs
    whole = Ramp(float(node["start_lr"]), float(node["end_lr"]), 100)
    assert list(rates) == [whole(step).lr for step in range(len(rates))]


def test_a_scheduler_of_ours_follows_its_policy_afterwards(data: Examples) -> None:
    model, optimizer = made()
    scheduler = PolicyScheduler(optimizer, OneCycle(0.3, 20))
    trained_a_little(model, optimizer, data)
    scheduler.step()
    find_max_lr(model, optimizer, cross_entropy, data)
    assert optimizer.param_groups[0]["lr"] == OneCycle(0.3, 20)(1).lr


def test_the_public_names_are_imported_on_use() -> None:
    program = (
        "import sys, onecycle_sweeps; assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules); "
        "assert set(onecycle_sweeps.__all__) <= set(dir(onecycle_sweeps)); "
        "onecycle_sweeps.OneCycle(0.1, 10); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    for name in onecycle_sweeps.__all__:
        assert getattr(onecycle_sweeps, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        onecycle_sweeps.no_such_name  # noqa: B018


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MPLBACKEND", "agg")
    yield


class Hookless(Optimizer):
    """Optimizers as one, which does not call the constructor of torch's class, and so has no hooks."""

    def __init__(self, *parts: Optimizer) -> None:
        self.parts, self.defaults, self.state = parts, {}, {}  # type: ignore[assignment]
        self.param_groups = [group for part in parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        for part in self.parts:
            part.step()


@pytest.mark.slow
def test_an_optimizer_without_hooks_is_not_said_to_take_no_update(data: Examples) -> None:
    model, _ = made()
    unused = nn.Parameter(torch.ones(1))
    find_max_lr(model, Hookless(SGD([unused, *model.parameters()], lr=0.1)), cross_entropy, data, steps=100)
