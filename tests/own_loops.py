"""Training functions of a user's own, which configs name by `loop._target_`: right ones and some with a mistake."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset, TensorDataset

from nodes_code import PAUSE


class Noisy(Dataset[Any]):
    """40 points of two classes, with noise from all three generators in each reading."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        label = place % 2
        noise = 0.1 * (random.random() + np.random.standard_normal())
        return torch.randn(4) + (2.0 * label - 1) + noise, label


def net(width: int, dropout: float = 0.2) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2)
    )


def points() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    return torch.randn(40, 4, generator=drawn) + (2.0 * labels[:, None] - 1), labels


@torch.no_grad()
def found(model: nn.Module) -> dict[str, float]:
    inputs, labels = points()
    model.eval()
    scores = model(inputs)
    model.train()
    accuracy = (scores.argmax(1) == labels).float().mean()
    return {"loss": functional.cross_entropy(scores, labels).item(), "accuracy": float(accuracy)}


def train(
    run: Any,
    width: int = 8,
    saves: bool = True,
    accumulate: int = 1,
    own: bool = False,
    its_epochs: int | None = None,
    logs_all: bool = True,
) -> None:
    """What a careful user writes; `own` gives the loader a generator of its own.

    Without `logs_all` only the last loss of each step is logged.
    """
    model = net(width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(run.seed) if own else None
    loader = DataLoader(Noisy(), 4, shuffle=True, generator=generator)
    best = 0.0
    if saves and (state := run.restore()):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        best = state["best"]
    for _, (inputs, labels) in run.steps(optimizer, loader, epochs=its_epochs or run.epochs, accumulate=accumulate):
        loss = functional.cross_entropy(model(inputs), labels)
        (loss / accumulate).backward()
        if run.update_due:
            optimizer.step()
            optimizer.zero_grad()
        if logs_all or run.update_due:
            run.log(loss)
        if run.evaluation_due:
            now = found(model)
            best = max(best, now["accuracy"])
            run.evaluated(**now)
        if saves:
            run.checkpoint(model=model, optimizer=optimizer, best=best)
        time.sleep(PAUSE)
    torch.save(model.state_dict(), run.folder / "model.pt")


def mistaken(run: Any, mistake: str, at: int = 3) -> None:
    """A function with one mistake, made in step `at`."""
    model = net(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs, labels = points()
    loader: Any = DataLoader(TensorDataset(inputs, labels), 8)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    if mistake == "no steps":
        return
    if mistake == "stops":
        raise StopIteration
    if mistake == "stepped before":
        run.steps(optimizer, loader, epochs=2)
        optimizer.step()
    if mistake == "two lengths":
        run.steps(optimizer, loader, epochs=2, total_steps=3)
    if mistake == "two epochs":
        run.steps(optimizer, loader, total_steps=8, steps_per_epoch=4)
    if mistake == "no optimizer":
        run.steps(model, loader, epochs=2)
    if mistake == "no length":
        loader = iter(loader)
    if mistake == "too short":
        for _, (given, _) in run.steps(optimizer, iter(loader), total_steps=10):
            model(given).sum().backward()
            optimizer.step()
            run.log(0.5)
            run.evaluated(accuracy=0.5)
    if mistake == "steps twice":
        run.steps(optimizer, loader, epochs=2)
    rounds = 2 if mistake == "accumulates alone" else 1
    for step, (given, wanted) in run.steps(optimizer, loader, epochs=run.epochs, accumulate=rounds):
        if step == at and mistake == "stops early":
            break
        loss = functional.cross_entropy(model(given), wanted)
        loss.backward()
        if mistake == "zeroes before its updates":
            optimizer.zero_grad()
        here = step == at
        if not (here and mistake == "no update") and (run.update_due or mistake == "accumulates alone"):
            if here and mistake == "sets the rate":
                optimizer.param_groups[0]["lr"] = 0.5
            if here and mistake == "sets the momentum":
                optimizer.param_groups[0]["momentum"] = 0.5
            optimizer.step()
        if here and mistake == "two updates":
            optimizer.step()
        if here and mistake == "schedules":
            scheduler.step()
        if not (here and mistake == "no log"):
            run.log(loss)
        if here and mistake == "logs twice":
            run.log(loss)
        if here and mistake == "logs all losses":
            run.log(functional.cross_entropy(model(given), wanted, reduction="none"))
        if here and mistake == "leaves":
            break
        if here and mistake == "hides":
            with suppress(ValueError):
                optimizer.step()
        if here and mistake == "saves without restoring":
            run.checkpoint(model=model)
        if run.evaluation_due and mistake != "no evaluation":
            values = found(model)
            if mistake == "no headline":
                del values["accuracy"]
            if mistake == "per cent":
                values["accuracy"] *= 100
            if mistake == "no number":
                values["accuracy"] = torch.ones(2)  # type: ignore[assignment]
            if mistake == "odd name":
                values["acc@5"] = 0.5
            run.evaluated(**values)
            if mistake == "evaluates twice":
                run.evaluated(**values)
    if mistake == "goes on":
        optimizer.step()
    if mistake == "again":
        run.steps(optimizer, loader, epochs=2)
    if mistake == "logs after":
        run.log(1.0)


def saving(run: Any, what: Any) -> None:
    """A function that saves what cannot be loaded again."""
    run.restore()
    model = net(4)
    for _ in run.steps(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), total_steps=8):
        run.checkpoint(history=np.zeros(3) if what == "array" else what)


def scaled(run: Any, steps: int | None = None) -> None:
    """A function with a GradScaler, the third of whose updates has a gradient that is not finite.

    Its number of steps follows from run.epochs, unless it is given.
    """
    model = net(4, dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler, (inputs, labels) = torch.amp.GradScaler("cpu", init_scale=8.0), points()
    for step, _ in run.steps(optimizer, total_steps=steps or 5 * run.epochs):
        loss = functional.cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        if step == 2:
            next(model.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        run.log(loss)
        if run.evaluation_due:
            run.evaluated(**found(model))


def language(run: Any, text: str, width: int = 16) -> None:
    """Characters of a text file, without a loader, judged by the loss of the next character."""
    with open(text, encoding="utf-8") as file:
        codes = torch.tensor([ord(one) % 64 for one in file.read()])
    model = nn.Sequential(nn.Embedding(64, width), nn.Linear(width, 64))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in run.steps(optimizer, total_steps=30):
        places = torch.randint(len(codes) - 1, (32,))
        loss = functional.cross_entropy(model(codes[places]), codes[places + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss)
        if run.evaluation_due:
            with torch.no_grad():
                run.evaluated(loss=functional.cross_entropy(model(codes[:-1]), codes[1:]))


class Descent(torch.optim.SGD):
    """An optimizer whose step calls that of its parent, both of which torch gives hooks."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Wrapped(torch.optim.Optimizer):
    """An optimizer that has another one take its steps, on copies of its param groups."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__([dict(group) for group in inner.param_groups], inner.defaults)
        self.inner = inner

    def step(self, closure: Any = None) -> Any:
        for group, own in zip(self.inner.param_groups, self.param_groups, strict=True):
            group.update(own)
        return self.inner.step(closure)


class Sharp(torch.optim.Optimizer):
    """SAM as it is mostly written: an inner optimizer takes its updates, in methods of other names than `step`."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, settings)
        self.inner = torch.optim.SGD(self.param_groups, **settings)
        self.param_groups = self.inner.param_groups

    def step(self, closure: Any = None) -> Any:
        raise AssertionError("a closure is needed")

    def second_step(self) -> None:
        self.inner.step()


def unusual(run: Any, way: str) -> None:
    """A right function that does something in an unusual way."""
    inputs, labels = points()
    model = net(4, dropout=0.0)
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
    optimizer: Any = torch.optim.SGD(model.parameters(), **settings)
    if way == "closure":
        optimizer = torch.optim.LBFGS(model.parameters())
    if way == "subclass":
        optimizer = Descent(model.parameters(), **settings)
    if way == "rate in a tensor":
        optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1))
    if way == "scaled groups":
        groups = [
            {"params": model[0].parameters(), "lr_scale": 0.7},
            {"params": model[4].parameters(), "lr_scale": 0.1},
        ]
        optimizer = torch.optim.SGD(groups, **settings)
    if way == "later group":
        optimizer = torch.optim.SGD(model[:2].parameters(), **settings)
    if way == "wrapped":
        optimizer = Wrapped(optimizer)
    if way == "inner":
        optimizer = Sharp(model.parameters(), **settings)
    beside = torch.optim.Adam(model[4].parameters(), lr=1e-3) if way == "second optimizer" else None

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    for step, _ in run.steps(optimizer, total_steps=6 * run.epochs):
        if way == "later group" and step == 5:
            optimizer.add_param_group({"params": model[4].parameters(), "lr_scale": 0.1})
        if way == "evaluates before its updates" and run.evaluation_due:
            run.evaluated(**found(model))
        if way == "closure":
            loss = optimizer.step(closure)
        else:
            loss = closure()
            (optimizer.second_step if way == "inner" else optimizer.step)()
        if beside:
            beside.step()
        run.log(loss if way == "rate in a tensor" else loss.item())
        last = step == 11
        if (
            run.evaluation_due
            and way != "evaluates before its updates"
            and not (last and way == "evaluates after its loop")
        ):
            run.evaluated(**found(model))
        if last and way == "leaves its loop in the last step":
            break
    if way == "evaluates after its loop":
        run.evaluated(**found(model))


def exploding(run: Any, fails: bool = False) -> None:
    """A function whose loss is not finite from its sixth step on."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for step, _ in run.steps(optimizer, total_steps=40):
        optimizer.zero_grad()
        loss = (weight**2).sum() * (torch.inf if step == 5 else 1)
        loss.backward()
        optimizer.step()
        run.log(loss)
        if run.evaluation_due:
            run.evaluated(accuracy=0.5)
    if fails:
        raise ArithmeticError("the weights are not finite")


def with_nodes(
    run: Any, model: nn.Module, data: Any, objective: Any, optimizer: Callable[..., Any], clip_norm: Any
) -> None:
    """A function that takes the program's own parts by name, and loops over them itself."""
    stepped = optimizer(model)
    batches = data.train_batches(run.seed)
    for _ in run.steps(stepped, total_steps=run.epochs * 3):
        inputs, targets = next(batches)
        prepared = data.normalise(inputs) if hasattr(data, "normalise") and inputs.dtype == torch.uint8 else inputs
        loss, _ = objective.training(model(prepared), targets)
        stepped.zero_grad()
        loss.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        stepped.step()
        run.log(loss)
        if run.evaluation_due:
            run.evaluated(accuracy=0.5)


def blobs(run: Any) -> None:
    """A function whose loss falls and rises clearly, on whole batches."""
    inputs, labels = points()
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Some labels are wrong, so that large weights cost much.
    labels = torch.where(torch.arange(len(labels)) < 4, 1 - labels, labels)
    loader = [(inputs, labels)] * 4
    for _, (given, wanted) in run.steps(optimizer, loader, epochs=run.epochs):
        loss = functional.cross_entropy(model(given), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss)
        if run.evaluation_due:
            run.evaluated(accuracy=(model(given).argmax(1) == wanted).float().mean())


def density(run: Any) -> None:
    """A function whose loss, a negative log-likelihood, falls below 0."""
    inputs, _ = points()
    spread = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([spread], lr=0.1)
    for _ in run.steps(optimizer, total_steps=20 * run.epochs):
        loss = (spread + 0.5 * (0.01 * inputs / spread.exp()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss)
        if run.evaluation_due:
            run.evaluated(loss=loss.item())


def counting(run: Any, early: bool) -> None:
    """A function that counts its steps, and saves the count before or after it changes."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    count = (run.restore() or {"count": 0})["count"]
    for step, _ in run.steps(optimizer, total_steps=8):
        if early:
            run.checkpoint(count=count, step=step)
        count += 1
        loss = (weight**2).sum()
        loss.backward()
        run.log(loss)
        optimizer.step()
        optimizer.zero_grad()
        if not early:
            run.checkpoint(count=count, step=step)
        if run.evaluation_due:
            run.evaluated(accuracy=count / 8)


def yielding(run: Any, width: int = 8) -> Iterator[int]:
    """A generator function, which trains nothing when it is called."""
    train(run, width)
    yield 0


async def waiting(run: Any, width: int = 8) -> None:
    """An async function, which trains nothing when it is called."""
    train(run, width)


def without_parameters() -> None:
    """No function that a trial could call."""


class Shaken:
    """A transform that adds noise from a generator of its own."""

    def __init__(self, kind: str) -> None:
        self.generator = torch.Generator().manual_seed(0)
        drawn: dict[str, Callable[[], Any]] = {
            "torch": lambda: torch.randn(4, generator=self.generator),
            "numpy": np.random.default_rng(0).normal,
            "numpy of old": np.random.RandomState(0).normal,
            "python": partial(random.Random(0).gauss, 0, 1),
        }
        self.draw = drawn[kind]

    def __call__(self, point: Tensor) -> Tensor:
        return point + 0.1 * self.draw()


class Shuffled(Sampler[int]):
    """A sampler that orders samples by a generator of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Iterator[int]:
        return iter(self.rng.permutation(40).tolist())


class Holding(Dataset[Any]):
    """The 40 points, with noise from a generator that a transform holds."""

    def __init__(self, kind: str = "numpy") -> None:
        self.points, self.labels = points()
        self.transforms = [Shaken(kind)]

    def __len__(self) -> int:
        return 40

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transforms[0](self.points[place]).float(), int(self.labels[place])


KEPT = Holding()


def holding(run: Any, kind: str, workers: int = 0) -> None:
    """A right function whose loader reads the points through generators of its parts."""
    model = net(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if kind == "sampler":
        loader = DataLoader(TensorDataset(*points()), 4, sampler=Shuffled())
    elif kind == "of the module":
        loader = DataLoader(KEPT, 4)
    else:
        part = ConcatDataset([Subset(Holding(kind), range(20)), Subset(Holding(kind), range(20, 40))])
        more: dict[str, Any] = {"num_workers": workers, "persistent_workers": True} if workers else {}
        loader = DataLoader(part, 4, shuffle=True, **more)
    if state := run.restore():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for _, (inputs, labels) in run.steps(optimizer, loader, epochs=run.epochs):
        loss = functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss)
        if run.evaluation_due:
            run.evaluated(**found(model))
        run.checkpoint(model=model, optimizer=optimizer)
    torch.save(model.state_dict(), run.folder / "model.pt")
