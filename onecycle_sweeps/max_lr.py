"""The range test as a call, `find_max_lr`, for a model and an optimizer in any training code."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jinja2 import Environment
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from onecycle_sweeps import seeding
from onecycle_sweeps.policies import OneCycle, Policy
from onecycle_sweeps.range_test import Judgement, OneSeed, Ramp, judge, median_of_peers, peers, smoothed, until_diverged
from onecycle_sweeps.restoring import generators_restored, restored
from onecycle_sweeps.samples.nested import apart
from onecycle_sweeps.scheduler import apply, has_gradient, nested_optimizers, that_update
from onecycle_sweeps.terminal import counting
from onecycle_sweeps.validation import kind_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

# The ends of the ramp as in conf/optimizer: SGD takes higher rates than optimizers that normalise their steps.
ENDS_OF_SGD, ENDS_OF_OTHERS = (1e-5, 10.0), (1e-6, 1.0)
PAGE = """<table><caption>{{ verdict }}</caption>
{% for name, rate in rates %}<tr><th style="text-align: left">{{ name }}</th><td>{{ rate }}</td></tr>
{% endfor %}</table>{% for line in lines %}<p>{{ line }}</p>{% endfor %}"""


@dataclass(frozen=True, repr=False)
class Verdict:
    """The result of `find_max_lr`: the rate to train at, how sure it is, and the curve that it was read from.

    `lr_scales` has a factor for each param group; max_lr is the rate of the groups whose factor is 1. `tests` have the
    rates and raw losses of each seed, and `judgement` has all that was read from them.
    """

    judgement: Judgement
    tests: tuple[OneSeed, ...]
    suggestions: dict[str, float]
    lr_scales: tuple[float, ...]
    make_policy: Callable[..., Policy]
    total_steps: int | None = None

    @property
    def max_lr(self) -> float:
        """The rate that the range test suggests."""
        return self.judgement.max_lr.rate

    @property
    def interval(self) -> tuple[float, float]:
        """The interval that contains 90 % of the draws of max_lr."""
        return self.judgement.max_lr.low, self.judgement.max_lr.high

    @property
    def word(self) -> str:
        """confident or ambiguous."""
        return self.judgement.word

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the verdict is ambiguous; empty if it is confident."""
        return tuple(map(_in_words_of_the_call, self.judgement.doubts))

    @property
    def grid(self) -> tuple[float, ...]:
        """Rates to train at where the verdict is ambiguous."""
        return self.judgement.grid

    def policy(self, total_steps: int | None = None) -> Policy:
        """The schedule of a training of `total_steps` steps whose maximum rate is max_lr.

        Raises ValueError if neither this nor `find_max_lr` was given total_steps.
        """
        steps = self.total_steps if total_steps is None else total_steps
        if steps is None:
            raise ValueError("total_steps must be given, here or to find_max_lr: the number of steps of the training")
        return self.make_policy(max_lr=self.max_lr, total_steps=steps)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the losses over the rate with the suggestions; without `ax` in a new figure of pyplot's."""
        from onecycle_sweeps.outcome import RangeTestCurve
        from onecycle_sweeps.report.range_tests import draw_curves

        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots(figsize=(7.5, 4.8), layout="constrained")
        curves = [
            RangeTestCurve(tuple(one.lrs), tuple(one.losses), tuple(_smoothed_to_the_end(one))) for one in self.tests
        ]
        draw_curves(ax, curves, self.suggestions | self.judgement.rates)
        return ax

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each step of each seed: seed (its place in `seeds`), step, lr, loss and smoothed loss."""
        import pandas

        columns = ("seed", "step", "lr", "loss", "smoothed")
        rows = [
            (seed, step, *values)
            for seed, one in enumerate(self.tests)
            for step, values in enumerate(zip(one.lrs, one.losses, _smoothed_to_the_end(one), strict=True))
        ]
        return pandas.DataFrame(rows, columns=list(columns))

    def __repr__(self) -> str:
        from onecycle_sweeps.report import range_tests

        read = range_tests.in_words(self.judgement.rates, range_tests.READ)
        rules = range_tests.in_words(self.suggestions, range_tests.PEERS)
        lines = [self._in_words(), f"read from the curve: {read}", f"rules of other tools: {rules or 'none'}"]
        return "\n".join([*lines, *self._notes()])

    def _repr_html_(self) -> str:
        from onecycle_sweeps.report.range_tests import PEERS, READ

        kinds = (("", READ, self.judgement.rates), ("other tools' rule ", PEERS, self.suggestions))
        shown = [
            (prefix + name.replace("_", " "), f"{rates[name]:.3g}")
            for prefix, names, rates in kinds
            for name in names
            if name in rates
        ]
        page = Environment(autoescape=True).from_string(PAGE)
        return page.render(verdict=self._in_words(), rates=shown, lines=self._notes())

    def _in_words(self) -> str:
        from onecycle_sweeps.report.range_tests import verdict_in_words

        return verdict_in_words(self.judgement.rates, self.word)

    def _notes(self) -> Iterator[str]:
        if len(set(self.lr_scales)) > 1:
            yield f"factors of the param groups: {', '.join(f'{scale:.3g}' for scale in self.lr_scales)}"
        yield from (f"doubt: {doubt}" for doubt in self.doubts)
        if self.doubts:
            yield f"rates to try: {', '.join(f'{rate:g}' for rate in self.grid)}"


class Taken(NamedTuple):
    """A step of the ramp: the rate that was used, and the loss before the update."""

    lr: float
    loss: float


def find_max_lr(
    model: nn.Module | Callable[[int], Sequence[Any]],
    optimizer: Optimizer | None = None,
    loss_fn: Callable[..., Any] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    step: Callable[..., Any] | None = None,
    seeds: Sequence[int] | None = None,
    start_lr: float | None = None,
    end_lr: float | None = None,
    steps: int = 200,
    policy: Callable[..., Policy] = OneCycle,
    total_steps: int | None = None,
) -> Verdict:
    """Run a range test on a model, and leave model, optimizer and random generators as they were.

    The rate rises from start_lr to end_lr in `steps` steps, or until the loss diverges or is not finite. By default it
    rises to 10 for SGD and to 1 for other optimizers.

    A batch of the loader is (inputs, targets), a longer tuple whose last element is the targets, or a dict with the
    targets under labels, label, target or y. It is moved to the model's device, and the loss is
    loss_fn(model(inputs), targets). Without loss_fn the model gets the whole batch and returns its loss, as those of
    transformers do. The loader begins anew where it ends.

    step: computes a loss and its gradients and returns the loss; gradients are set to zero before it and the optimizer
        is stepped after it. With a loader it is called with each batch, as the loader gives it, and otherwise with
        nothing. What a step changes besides `model` and `optimizer` is not restored.
    seeds: with a function in the place of the model. It is called with each seed, after all generators were seeded, and
        returns (model, optimizer, loss_fn, loader) or (model, optimizer, step).
    policy, total_steps: what `Verdict.policy` makes: `policy(max_lr=..., total_steps=...)`.

    Param groups keep the ratios of their rates, or have the key `lr_scale`; max_lr is the highest rate of those
    without it.
    Raises ValueError for arguments that do not fit together, for a loss that is negative, and if the curve allows no
    verdict.
    """
    if not callable(policy) or (hasattr(policy, "total_steps") and not isinstance(policy, type)):
        raise ValueError(
            f"policy must be a class of policies, such as Cosine, which makes one of max_lr, got {policy!r}"
        )
    makers = _makers(model, optimizer, loss_fn, loader, step, seeds)
    tests, scales = [], (1.0,)
    with generators_restored(), counting("range test", steps * len(makers), "steps") as count:
        for make in makers:
            parts = make()
            ramp = _ramp(parts.optimizer, start_lr, end_lr, steps)
            with (
                generators_restored(parts.loader, parts.modules, parts.optimizer),
                restored(parts.modules, parts.optimizer),
            ):
                scales = _scale_groups(parts.optimizer)
                taken = [taken for taken, _ in until_diverged(_counted(_steps(parts, ramp), count))]
            tests.append(OneSeed([one.lr for one in taken], [one.loss for one in taken]))
    try:
        judgement = judge(tests)
    except ValueError as error:
        raise ValueError(_in_words_of_the_call(str(error))) from None
    rules = median_of_peers([peers(one.lrs, one.losses, steps) for one in tests])
    return Verdict(judgement, tuple(tests), rules, scales, policy, total_steps)


@dataclass(frozen=True)
class Parts:
    """What a range test trains: `step` computes loss and gradients of the next batch."""

    model: nn.Module
    optimizer: Optimizer
    step: Callable[..., Any]
    loader: Iterable[Any] | None
    modules: tuple[nn.Module, ...]


def _makers(
    model: Any, optimizer: Any, loss_fn: Any, loader: Any, step: Any, seeds: Sequence[int] | None
) -> list[Callable[[], Parts]]:
    """A function for each seed that makes the parts of its test. Raises ValueError for arguments that do not fit."""
    if isinstance(model, nn.Module):
        if seeds is not None:
            raise ValueError(
                "seeds must come with a function of a seed that makes the model and the optimizer, got a model: with "
                "the same weights the tests would differ too little"
            )
        return [lambda: _parts(model, optimizer, loss_fn, loader, step)]
    if not callable(model):
        raise ValueError(
            f"model must be a torch.nn.Module, or a function of a seed that makes one, got {kind_of(model)}"
        )
    if any(given is not None for given in (optimizer, loss_fn, loader, step)):
        raise ValueError("a function that makes the model must make the optimizer, loss_fn, loader or step as well")
    found = list(seeds) if isinstance(seeds, Iterable) else []
    if not found or len(set(found)) < len(found) or not all(isinstance(seed, Integral) for seed in found):
        raise ValueError(
            "seeds must be given with a function that makes the model, whole numbers that differ such as "
            f"seeds=(0, 1, 2), got {seeds!r}"
        )

    def parts(seed: int) -> Parts:
        seeding.seed_all(seed)
        found = model(seed)
        if not isinstance(found, tuple | list) or len(found) not in (3, 4):
            raise ValueError(
                "the function of a seed must return (model, optimizer, loss_fn, loader) or (model, optimizer, step), "
                f"got {kind_of(found)}"
            )
        made, with_optimizer, *rest = found
        loss_fn, loader, step = (None, None, *rest) if len(rest) == 1 else (*rest, None)
        return _parts(made, with_optimizer, loss_fn, loader, step)

    return [lambda seed=seed: parts(seed) for seed in found]


def _parts(model: Any, optimizer: Any, loss_fn: Any, loader: Any, step: Any) -> Parts:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {kind_of(model)}")
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer must be a torch.optim.Optimizer, got {kind_of(optimizer)}")
    if step is None and loader is None:
        raise ValueError("a loader, with loss_fn if the model does not return its loss, or step must be given")
    if step is not None and loss_fn is not None:
        raise ValueError("loss_fn and step exclude each other: step computes the loss itself")
    if loss_fn is not None and (isinstance(loss_fn, type) or not callable(loss_fn)):
        got = f"the class {loss_fn.__name__}" if isinstance(loss_fn, type) else kind_of(loss_fn)
        raise ValueError(f"loss_fn must be a function of outputs and targets, such as nn.CrossEntropyLoss(), got {got}")
    if loader is not None and not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise ValueError(f"loader must give batches, as a DataLoader or a list does, got {kind_of(loader)}")
    modules = (model, loss_fn) if isinstance(loss_fn, nn.Module) else (model,)
    if step is not None and loader is None:
        return Parts(model, optimizer, step, None, modules)
    batches = _endless(loader)
    if step is not None:
        return Parts(model, optimizer, lambda: step(next(batches)), loader, modules)
    device = next((p.device for group in optimizer.param_groups for p in group["params"]), torch.device("cpu"))
    return Parts(model, optimizer, lambda: _loss(model, loss_fn, _moved(next(batches), device)), loader, modules)


def _endless(loader: Any) -> Iterator[Any]:
    epoch = 0
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        epoch += 1
        if empty:
            raise ValueError(
                f"the loader has no batch in its {'first' if epoch == 1 else 'second'} pass: give one that can be "
                "iterated several times, such as a DataLoader or a list"
            )


def _moved(batch: Any, device: torch.device) -> Any:
    """The batch with each tensor on the device; containers keep their types."""
    if hasattr(batch, "to") and not isinstance(batch, nn.Module):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(_moved(value, device) for value in batch)
    return batch


def _called(model: nn.Module, inputs: Any) -> Any:
    if hasattr(inputs, "keys"):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _loss(model: nn.Module, loss_fn: Callable[..., Any] | None, batch: Any) -> Any:
    """The loss of a batch, whose gradients are computed."""
    if loss_fn is None:
        outputs = _called(model, batch)
        loss = outputs["loss"] if isinstance(outputs, dict) and "loss" in outputs else getattr(outputs, "loss", outputs)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(f"without loss_fn the model must return its loss or an output with one, got {_kind(loss)}")
    else:
        try:
            inputs, targets = apart(dict(batch) if hasattr(batch, "keys") else batch, None)
        except ValueError as error:
            raise ValueError(f"{str(error).replace('a sample', 'a batch')}; or give step") from None
        outputs = _called(model, inputs)
        if isinstance(outputs, dict):
            outputs = outputs.get("logits", outputs)
        loss = loss_fn(getattr(outputs, "logits", outputs), targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(f"the loss must be a tensor of one number, got {_kind(loss)}")
    if not loss.requires_grad:
        raise ValueError("the loss must depend on a parameter that requires a gradient: all that it uses are frozen")
    loss.backward()
    return loss


def _number(loss: Any) -> float:
    """The loss as a number. Raises ValueError for anything else."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        loss = loss.item()
    if isinstance(loss, bool) or not isinstance(loss, Real):
        raise ValueError(f"step must return the loss, one number, got {_kind(loss)}")
    return float(loss)


def _kind(loss: Any) -> str:
    return f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else kind_of(loss)


def _ramp(optimizer: Optimizer, start_lr: float | None, end_lr: float | None, steps: int) -> Ramp:
    is_sgd = any(isinstance(one, torch.optim.SGD) for one in nested_optimizers(optimizer))
    start, end = ENDS_OF_SGD if is_sgd else ENDS_OF_OTHERS
    try:
        return Ramp(start if start_lr is None else start_lr, end if end_lr is None else end_lr, steps)
    except ValueError as error:
        raise ValueError(str(error).replace("total_steps", "steps")) from None


def _scale_groups(optimizer: Optimizer) -> tuple[float, ...]:
    """Give each param group its share of the ramp's rate as `lr_scale`, so that the ratios of their rates stay."""
    groups = optimizer.param_groups
    # A scheduler that warms up has set the rates of its first step, and keeps the user's as initial_lr.
    key = "initial_lr" if all("initial_lr" in group for group in groups) else "lr"
    own = [float(group[key]) for group in groups if "lr_scale" not in group]
    highest = max(own, default=0.0)
    for group in groups:
        group.setdefault("lr_scale", float(group[key]) / highest if highest > 0 else 1.0)
    return tuple(float(group["lr_scale"]) for group in groups)


def _counted(steps: Iterator[Taken], count: Callable[[int], None]) -> Iterator[Taken]:
    for taken in steps:
        yield taken
        count(1)


@torch.enable_grad()
def _steps(parts: Parts, ramp: Ramp) -> Iterator[Taken]:
    """Train at the ramp's rates; each step that is drawn is one update."""
    model, optimizer = parts.model, parts.optimizer
    # Parts of a model in training mode may be in evaluation mode on purpose, such as frozen batch norms.
    if not model.training:
        model.train()
    if train := getattr(optimizer, "train", None):
        train()
    needs_closure = _needs_closure(optimizer)
    for index in range(ramp.total_steps):
        hyper = ramp(index)
        apply(optimizer, hyper)
        losses: list[float] = []

        def gradients(index: int = index, losses: list[float] = losses) -> Any:
            optimizer.zero_grad()
            rates = _rates(optimizer)
            with _no_update(optimizer):
                loss = parts.step()
            losses.append(_number(loss))
            if _rates(optimizer) != rates:
                raise ValueError(
                    f"step must not change the learning rate, but did at step {index}: leave out schedulers"
                )
            if index == 0 and not has_gradient(optimizer):
                raise ValueError(
                    "after the first batch no parameter of the optimizer has a gradient: make the optimizer of the "
                    "model's own parameters, and let a step of yours call loss.backward()"
                )
            return loss

        with _first_update(optimizer) if index == 0 else nullcontext():
            if needs_closure:
                optimizer.step(gradients)
            else:
                gradients()
                optimizer.step()
        yield Taken(hyper.lr, losses[0])


def _needs_closure(optimizer: Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def _rates(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


@contextmanager
def _no_update(optimizer: Optimizer) -> Iterator[None]:
    """Refuse an update by the user's own step, which would be one more than the ramp's."""

    def refuse(*_: Any) -> None:
        raise ValueError("step must not call optimizer.step(): find_max_lr updates after it")

    handles = [one.register_step_pre_hook(refuse) for one in that_update(optimizer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _first_update(optimizer: Optimizer) -> Iterator[None]:
    """Refuse an optimizer that takes no update although all gradients are finite, as accelerate's may.

    Without hooks nothing is known: a first update may be too small to change a weight.
    """
    taken: list[Any] = []
    handles = [one.register_step_post_hook(lambda *_: taken.append(None)) for one in that_update(optimizer)]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in trained[:1]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    same = all(torch.equal(p, own) for p, own in zip(trained, before, strict=False))
    if handles and same and not taken and all(p.grad is None or bool(p.grad.isfinite().all()) for p in trained):
        raise ValueError(
            "optimizer.step() took no update after the first step: where accelerate accumulates gradients, call "
            "accelerator.backward() for all batches of an update in one step, without accelerator.accumulate()"
        )


def _smoothed_to_the_end(one: OneSeed) -> list[float]:
    values = smoothed(one.lrs, one.losses)
    return values + [math.nan] * (len(one.lrs) - len(values))


def _in_words_of_the_call(text: str) -> str:
    """A message about a range test with the names of the call's arguments, which have no prefix."""
    return text.replace("range_test.", "").replace(" and, in mode linear, end_lr", "")
