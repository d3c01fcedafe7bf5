"""This program's trials, nets, sweeps and stores, made without its command."""

import functools
import shutil
import sqlite3
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import nn

from onecycle_sweeps import command_line, composing, sweep
from onecycle_sweeps.config import nodes
from onecycle_sweeps.journal import LR, MOMENTUM, TRAIN_LOSS, Journal
from onecycle_sweeps.planning import Planner, Request, Trial
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import TrialFolder

# The metrics that the program logs at every step.
STEP_METRICS = (LR, MOMENTUM, TRAIN_LOSS)
BLOCK = 100
# The steps at which each metric was logged.
Points = Mapping[str, Sequence[int]]


class Incomplete(Exception):
    """A side did not log every point that it claims to log."""


@functools.cache
def composed(*overrides: str) -> Any:
    """The config of some overrides, with Hydra's own node."""
    with initialize_config_dir(str(command_line.CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def planned(runs_dir: Path, *overrides: str) -> Trial:
    """The trial of some overrides."""
    config = composed(*overrides)
    content = composing.plain(config) | {"runs_dir": str(runs_dir)}
    return Planner(runs_dir).plan(Request(content, overrides, dict(config.hydra.runtime.choices)))


def net(node: Any, in_channels: int, num_classes: int) -> nn.Module:
    """The net of a config's `model` node in channels_last, always with the same first weights."""
    torch.manual_seed(0)
    model = nodes.build("model", node, in_channels=in_channels, num_classes=num_classes)
    return model.to(memory_format=torch.channels_last)


def recorded_sweep(folder: Path, uri: str, trials: Sequence[Trial]) -> Sweep:
    """A sweep of trials in `folder`/runs, recorded as the command records it, whose store is `uri`."""
    entries = sweep.entries(trials)
    made = Sweep(
        id=sweep.identity(entry.signature for entry in entries),
        runs_dir=folder / "runs",
        command=tuple(sys.argv[1:]),
        cwd=str(folder),
        created=time.time(),
        git_commit=None,
        tracking_uri=uri,
        experiment=folder.name,
        single=False,
        trials=entries,
    )
    made.save()
    return made


def sweep_of_seeds(folder: Path, uri: str, seeds: int) -> Sweep:
    """A recorded sweep of trials that differ in their seed, each with its folder."""
    overrides = [(f"seed={seed}", "max_lr=0.1", "policy=constant") for seed in range(seeds)]
    trials = [planned(folder / "runs", *words) for words in overrides]
    made = recorded_sweep(folder, uri, trials)
    for trial in trials:
        made.trial(trial.signature).create(trial.config)
    return made


def write(trials: Sequence[TrialFolder], steps: int, block_seconds: float = 0.0) -> None:
    """Write what trainings write at once, a block of each trial every so many seconds, then their results."""
    facts = {"max_lr": 0.1, "max_lr_from": "config", "total_steps": steps, "steps_per_epoch": steps}
    with ExitStack() as stack:
        journals = {}
        for trial in trials:
            stack.enter_context(trial.lock())
            trial.write("resolved", facts)
            journals[trial] = Journal(trial.journal, 1, 0)
        began = time.monotonic()
        for number, (first, stop) in enumerate(pairwise([*range(0, steps, BLOCK), steps]), 1):
            for trial, journal in journals.items():
                journal.append(first, {name: [step / steps for step in range(first, stop)] for name in STEP_METRICS})
                journal.append(stop - 1, {"val/loss": [1 / stop], "val/accuracy": [stop / steps]})
                trial.checkpoint.write_text(str(stop))
                journal.saved(stop)
            time.sleep(max(0.0, began + number * block_seconds - time.monotonic()))
        ended = {"status": "finished", "cause": None, "steps": steps, "warnings": [], "attempt": 1, "kind": "train"}
        metrics = {"seconds": 1.0, "final/val_accuracy": 1.0, "best/val_accuracy": 1.0}
        for trial, journal in journals.items():
            trial.write("result", ended | {"finished": time.time(), "metrics": metrics})
            journal.end("finished")


def fresh_store(folder: Path) -> Path:
    """A new sqlite store of MLflow without runs; its schema takes seconds to make, so it is copied."""
    return Path(shutil.copy(_empty_store(folder), folder / f"{uuid.uuid4().hex}.db"))


@functools.cache
def _empty_store(folder: Path) -> Path:
    from mlflow import MlflowClient

    path = folder / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def points(store: Path, metrics: Sequence[str]) -> dict[str, Points]:
    """For each run of a store that has any of these metrics: the steps of each, as often as they are there."""
    query = f"SELECT run_uuid, key, step FROM metrics WHERE key IN ({','.join('?' * len(metrics))}) ORDER BY step"
    found: dict[str, dict[str, list[int]]] = {}
    with closing(sqlite3.connect(store)) as connection:
        for run, metric, step in connection.execute(query, tuple(metrics)):
            found.setdefault(run, {}).setdefault(metric, []).append(step)
    return dict(found)


def only_run(store: Path, metrics: Sequence[str]) -> Points:
    """The steps of each metric in the one run of a store."""
    return next(iter(points(store, metrics).values()), {})


def check_store(store: Path, metrics: Sequence[str], runs: int, steps: int) -> None:
    """Raise Incomplete unless a store has that many runs, and each of them each step of each metric once."""
    found = points(store, metrics)
    if len(found) != runs:
        raise Incomplete(f"{store} has the steps of {len(found)} runs, and must have those of {runs}")
    for run, series in found.items():
        check_steps(f"run {run}", series, metrics, steps)


def check_steps(name: str, points: Points, metrics: Sequence[str], steps: int) -> None:
    """Raise Incomplete unless each metric has each step exactly once."""
    for metric in metrics:
        found = points.get(metric, ())
        if list(found) != list(range(steps)):
            raise Incomplete(f"{name} has {metric} of {len(set(found))} steps, and must have each of {steps} once")
