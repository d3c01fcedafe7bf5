"""Sweeps and trials made by hand: folders as a sweep leaves them, without a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import warm
from onecycle_sweeps import report
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry, Sweep
from onecycle_sweeps.trial_folder import TrialFolder

Points = Mapping[int, float]
ONECYCLE = "onecycle_sweeps.policies.OneCycle"


def sweep(tmp_path: Path, *entries: Entry) -> Sweep:
    """A recorded sweep of these trials."""
    made = Sweep(
        id="5weeb1d0",
        runs_dir=tmp_path / "runs",
        command=("policy=constant,onecycle", "-m"),
        cwd=str(tmp_path),
        created=0.0,
        git_commit=None,
        tracking_uri="sqlite:///mlflow.db",
        experiment="onecycle_sweeps",
        single=False,
        trials=entries,
        choices={"data": "digits", "model": "simple_cnn"},
    )
    made.save()
    return made


def page(made: Sweep) -> Path:
    """The page of a sweep as the report writes it; the figures beside it, which take far longer, stay empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "write", warm.empty_pictures)
        return report.write(report.compare(made))[0]


def entry(
    signature: str, policy: str, seed: int, varies: Mapping[str, str] | None = None, *, target: float | None = None
) -> Entry:
    """A training of a sweep whose rate comes from the range test `range`."""
    return Entry(signature, TRAIN, {"policy": policy, **(varies or {}), "seed": str(seed)}, "range", target)


def made_up(policy: str, seed: int, accuracy: float, varies: Mapping[str, str] | None = None, **more: float) -> Outcome:
    """A finished training as a report sees it, without a folder; `more` are metrics like `test_accuracy`."""
    signature = f"{policy}{seed}"
    metrics = {"final/val_accuracy": accuracy, **{f"final/{name}": value for name, value in more.items()}}
    one, folder = entry(signature, policy, seed, varies), TrialFolder(Path(signature))
    return Outcome(one, folder, "finished", attempts=1, result={"metrics": metrics})


def range_test_entry(**varies: str) -> Entry:
    return Entry("range", RANGE_TEST, varies)


def a_result(**fields: Any) -> dict[str, Any]:
    """The content of a result.json: these fields, and usual values of the others."""
    usual = {"kind": "train", "status": "finished", "cause": None, "metrics": {}, "steps": 0, "warnings": []}
    return usual | {"attempt": 1, "finished": 0.0} | fields


def training(
    folder: TrialFolder,
    *,
    status: str = "finished",
    cause: str | None = None,
    accuracy: Points | None = None,
    loss: Points | None = None,
    lr: Sequence[float] = (0.1, 0.2, 0.3, 0.2, 0.1),
    momentum: Sequence[float] | None = (0.95, 0.9, 0.85, 0.9, 0.95),
    max_lr: float = 0.3,
    resolved: Mapping[str, Any] | None = None,
    **result: Any,
) -> None:
    """A trial's folder: evaluations by step, and a result that agrees with them unless `status` is not an end."""
    accuracy, loss = accuracy or {}, loss or {}
    if status == "finished" and accuracy:
        # It was evaluated after its last step.
        lr = (*lr, *[lr[-1]] * (max(accuracy) + 1 - len(lr)))
        steps = max(accuracy) + 1
    else:
        steps = len(lr)
    folder.create({"task": "train", "seed": 0, "evaluations_per_epoch": 1, "policy": {"_target_": ONECYCLE}})
    fixed = {"max_lr": max_lr, "max_lr_from": "range_test:range", "total_steps": len(lr)}
    folder.write("resolved", fixed | dict(resolved or {}))
    book = Journal(folder.journal, folder.attempts() + 1, 0)
    columns = {"schedule/lr": lr, "train/loss": [1.0] * len(lr)}
    book.append(0, columns | ({"schedule/momentum": momentum} if momentum else {}))
    for name, points in (("val/accuracy", accuracy), ("val/loss", loss)):
        for step, value in points.items():
            book.append(step, {name: [value]})
    if status in ("finished", "diverged"):
        metrics: dict[str, float] = {"seconds": 1.0}
        if status == "finished":
            final = list(accuracy.values())[-1]
            metrics |= {"final/val_accuracy": final, "best/val_accuracy": max(accuracy.values())}
        metrics |= result.pop("metrics", {})
        ended = {"status": status, "cause": cause, "metrics": metrics, "steps": steps, "steps_per_epoch": steps}
        folder.write("result", a_result(**ended, attempt=folder.attempts()) | result)
        book.end(status, cause)
    if status == "failed":
        folder.write("failure", {"cause": cause, "attempt": 1, "time": 0.0})
        book.end(status, cause)
    if status == "stopped":
        book.end(status, cause)


def range_test(
    folder: TrialFolder,
    *runs: Sequence[tuple[float, float, float]],
    mode: str = "exp",
    suggestions: Mapping[str, float] | None = None,
    evaluations: Points | None = None,
) -> None:
    """A range test's folder from the (lr, loss, smoothed loss) of each step, one list per seed; accuracies by step."""
    start, end = runs[0][0][0] if runs else 1e-5, max((point[0] for run in runs for point in run), default=10.0)
    config = {"mode": mode, "start_lr": start, "end_lr": end, "steps": 100, "seeds": list(range(len(runs)))}
    folder.create({"task": "range_test", "range_test": config})
    book = Journal(folder.journal, 1, 0)
    step = 0
    for run in runs:
        lrs, losses, smoothed = ([point[i] for point in run] for i in range(3))
        book.append(step, {"schedule/lr": lrs, "train/loss": losses, "range/loss_smoothed": smoothed})
        step += len(run)
    for evaluated, accuracy in (evaluations or {}).items():
        book.append(evaluated, {"val/accuracy": [accuracy]})
    if suggestions is not None:
        metrics = {f"suggestion/{rule}": rate for rule, rate in suggestions.items()} | {"seconds": 1.0}
        folder.write("resolved", {"max_lr": None, "total_steps": step})
        folder.write("result", a_result(kind="range_test", metrics=metrics, steps=step))
    book.end("finished" if suggestions is not None else "failed")


def two_policies(tmp_path: Path) -> Sweep:
    """Two policies with two seeds each, all of which reached their target."""
    entries = [entry(f"{p}{s}", p, s, target=0.5) for p in ("constant", "onecycle") for s in range(2)]
    whole = sweep(tmp_path, *entries)
    for seed, one in enumerate(entries):
        training(whole.trial(one.signature), accuracy={4: 0.9 + seed / 100})
    return whole


def mixed(tmp_path: Path) -> Sweep:
    """onecycle: three seeds finished; clr: finished, diverged, failed; step: one finished; wsd: waiting, lost."""
    entries = [
        range_test_entry(),
        *(entry(f"clr{seed}", "clr", seed, target=0.9) for seed in range(3)),
        *(entry(f"one{seed}", "onecycle", seed, target=0.9) for seed in range(3)),
        entry("step0", "step", 0, target=0.9),
        *(entry(f"wsd{seed}", "wsd", seed, target=0.9) for seed in range(2)),
    ]
    made = sweep(tmp_path, *entries)
    range_test(made.trial("range"), [(0.1, 2.0, 2.0), (1.0, 1.0, 1.5)], suggestions={"max_lr": 0.3})
    finals, losses = (0.90, 0.92, 0.94), (0.3, 0.2, 0.1)
    for seed, (final, loss) in enumerate(zip(finals, losses, strict=True)):
        points = {1: 0.5, 3: 0.95 if seed == 1 else 0.6, 4: final}
        metrics = {"seconds": 10.0 + seed, "final/test_accuracy": final - 0.1}
        training(made.trial(f"one{seed}"), accuracy=points, loss={1: 2.0, 4: loss}, metrics=metrics)
    training(made.trial("clr0"), accuracy={1: 0.5, 4: 0.93}, loss={4: 0.2})
    training(made.trial("clr1"), status="diverged", cause="the loss is nan at step 2", accuracy={1: 0.95})
    training(made.trial("clr2"), status="failed", cause="the disk is full", accuracy={1: 0.95})
    training(made.trial("step0"), accuracy={1: 0.4, 4: 0.8}, loss={4: 0.6}, warnings=["schedule/lr is off"])
    training(made.trial("wsd1"), status="killed")
    return made
