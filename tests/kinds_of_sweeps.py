"""Sweeps of all kinds that a report is read for, made by hand: each is written into a folder."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import hand_made
from hand_made import entry, range_test_entry, training
from onecycle_sweeps.policies import Constant, OneCycle, Step
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep

STEPS, PER_EPOCH = 40, 10
RATES = {"minimum": 0.2, "steepest": 0.1, "valley": 0.01, "slide": 0.1, "divergence": 3.0, "max_lr": 0.2}
FALLING = [(10 ** (i / 20 - 4), 2.3 - i / 60 + (i % 3) / 20, 2.3 - i / 60) for i in range(100)]
RISING = [(0.03 * (i + 1), 2.3 - i / 60 + (i % 3) / 20, 2.3 - i / 60) for i in range(100)]
ENDS = range(PER_EPOCH - 1, STEPS, PER_EPOCH)


def trained(made: Sweep, one: Entry, final: float, rate: float = 0.3, loss: float = 0.3, **more: object) -> None:
    """A training of four epochs that ends with this accuracy and this loss."""
    policies = {"onecycle": OneCycle(rate, STEPS), "step": Step(rate, STEPS)}
    policy = policies.get(one.varies["policy"], Constant(rate, STEPS))
    shares = {step: (i + 1) / len(ENDS) for i, step in enumerate(ENDS)}
    resolved = {"steps_per_epoch": PER_EPOCH, "device": "cpu"} | more.pop("resolved", {})  # type: ignore[operator]
    training(
        made.trial(one.signature),
        accuracy={step: final * (0.5 + 0.5 * share) for step, share in shares.items()},
        loss={step: loss * (1 + 4 * (1 - share)) for step, share in shares.items()},
        lr=[policy(step).lr for step in range(STEPS)],
        momentum=[policy(step).momentum or 0.9 for step in range(STEPS)],
        max_lr=rate,
        resolved=resolved,
        **more,  # type: ignore[arg-type]
    )


def default(folder: Path, seeds: int = 3) -> Sweep:
    """Four policies at the rate of a range test."""
    policies = ("constant", "step", "clr", "onecycle")
    entries = [entry(f"{p}{seed}", p, seed) for p in policies for seed in range(seeds)]
    made = hand_made.sweep(folder, range_test_entry(), *entries)
    hand_made.range_test(made.trial("range"), FALLING, suggestions=RATES)
    for one in entries:
        place, seed = policies.index(one.varies["policy"]), int(one.varies["seed"])
        trained(made, one, 0.9 + 0.01 * place + 0.001 * ((seed + 2) * (place + 3) % 7))
    return made


def one_seed(folder: Path) -> Sweep:
    return default(folder, seeds=1)


def rates(folder: Path) -> Sweep:
    """Policies at rates four decades apart, the highest of which diverges."""
    scales = ("0.001", "0.01", "0.1", "1", "10")
    entries = [
        entry(f"{p}{scale}s{seed}", p, seed, {"max_lr_scale": scale})
        for p in ("constant", "onecycle")
        for scale in scales
        for seed in (0, 1)
    ]
    made = hand_made.sweep(folder, range_test_entry(), *entries)
    hand_made.range_test(made.trial("range"), FALLING, suggestions=RATES)
    for one in entries:
        scale = float(one.varies["max_lr_scale"])
        if scale == 10:
            diverged = {"status": "diverged", "cause": "the loss is nan", "accuracy": {9: 0.1}, "loss": {9: 2e6}}
            training(made.trial(one.signature), lr=[5.0] * 15, max_lr=5.0, **diverged)
        else:
            trained(made, one, 0.9 - 0.1 * abs(math.log10(scale)) + int(one.varies["seed"]) / 100, 0.5 * scale)
    return made


def groups(folder: Path) -> Sweep:
    """Thirty groups with long names."""
    decays = ("0", "1e-5", "1e-4", "1e-3", "1e-2")
    policies = ("constant", "step", "clr", "onecycle", "cosine", "linear")
    entries = [
        entry(f"{p}{decay}s{seed}", p, seed, {"optimizer.weight_decay": decay, "model.channels": "[16,32,64]"})
        for p in policies
        for decay in decays
        for seed in (0, 1)
    ]
    made = hand_made.sweep(folder, *entries)
    for i, one in enumerate(entries):
        trained(made, one, 0.7 + i * 37 % 61 / 300)
    return made


def budgets(folder: Path) -> Sweep:
    """Two policies in trainings of three lengths."""
    entries = [
        entry(f"{p}{e}s{seed}", p, seed, {"epochs": e})
        for p in ("constant", "onecycle")
        for e in ("1", "2", "4")
        for seed in range(2)
    ]
    made = hand_made.sweep(folder, *entries)
    for i, one in enumerate(entries):
        trained(made, one, 0.8 + int(one.varies["epochs"]) / 50 + i * 3 % 7 / 200)
    return made


def stability_map(folder: Path) -> Sweep:
    """Range tests over weight decay and momentum."""
    cells = [(decay, momentum) for decay in ("0", "1e-3", "1e-2") for momentum in ("0.8", "0.9", "0.95", "0.99")]
    entries = [
        Entry(f"range{i}", RANGE_TEST, {"optimizer.weight_decay": decay, "optimizer.momentum": momentum})
        for i, (decay, momentum) in enumerate(cells)
    ]
    made = hand_made.sweep(folder, *entries)
    for i, one in enumerate(entries):
        points = [(rate, loss + i / 50, 5.0 if rate > 5 / (i + 1) else smooth) for rate, loss, smooth in FALLING]
        hand_made.range_test(made.trial(one.signature), points, suggestions=RATES | {"max_lr": 0.5 / (i + 1)})
    return made


def range_tests(folder: Path) -> Sweep:
    """A linear range test that was evaluated on the way, and an exponential one."""
    entries = [Entry(mode, RANGE_TEST, {"range_test.mode": mode}) for mode in ("linear", "exp")]
    made = hand_made.sweep(folder, *entries)
    evaluated = {step: 0.5 + 0.4 * math.sin(step / 30) for step in range(9, 100, 10)}
    hand_made.range_test(made.trial("linear"), RISING, mode="linear", suggestions=RATES, evaluations=evaluated)
    hand_made.range_test(made.trial("exp"), FALLING, suggestions=RATES)
    return made


def regression(folder: Path) -> Sweep:
    """Errors of hundreds of thousands."""
    measures = {"measures": [{"name": "rmse", "goal": "min"}]}
    entries = [entry(f"{p}{seed}", p, seed) for p in ("constant", "onecycle") for seed in range(5)]
    made = hand_made.sweep(folder, *entries)
    for i, one in enumerate(entries):
        metrics = {"final/val_rmse": 123_456.0 + 1000 * i, "best/val_rmse": 123_000.0}
        trained(made, one, 0.5, rate=4.35e-4, loss=3e9 + 1e7 * i, resolved=measures, metrics=metrics)
    return made


def language_model(folder: Path) -> Sweep:
    """The loss is what is compared."""
    measures = {"measures": [{"name": "loss", "goal": "min"}]}
    entries = [
        entry(f"{p}{rate}s{seed}", p, seed, {"max_lr": rate})
        for p in ("constant", "cosine")
        for rate in ("1e-3", "3e-3")
        for seed in range(2)
    ]
    made = hand_made.sweep(folder, *entries)
    for i, one in enumerate(entries):
        loss = 1.4 + i / 50
        metrics = {"final/val_loss": loss, "best/val_loss": loss}
        trained(made, one, 0.5, float(one.varies["max_lr"]), loss, resolved=measures, metrics=metrics)
    return made


KINDS: Mapping[str, Callable[[Path], Sweep]] = {
    "default": default,
    "one seed": one_seed,
    "rates": rates,
    "groups": groups,
    "budgets": budgets,
    "troubles": hand_made.mixed,
    "stability map": stability_map,
    "range tests": range_tests,
    "regression": regression,
    "language model": language_model,
}
