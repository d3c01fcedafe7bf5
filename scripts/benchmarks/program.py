"""This program's trials, nets, sweeps and stores, made without its command."""

import functools
import os
import shutil
import sqlite3
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import nn

from onecycle_sweeps import command_line, composing, sweep
from onecycle_sweeps.config import nodes
from onecycle_sweeps.journal import LR, MOMENTUM, TRAIN_LOSS
from onecycle_sweeps.planning import Planner, Request, Trial
from onecycle_sweeps.sweep import Sweep

# The metrics that the program logs at every step.
STEP_METRICS = (LR, MOMENTUM, TRAIN_LOSS)


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


def recorded_sweep(runs_dir: Path, uri: str, experiment: str, trials: Sequence[Trial]) -> Sweep:
    """A sweep of trials, recorded as the command records it, whose store is `uri`."""
    entries = sweep.entries(trials)
    made = Sweep(
        id=sweep.identity(entry.signature for entry in entries),
        runs_dir=runs_dir,
        command=tuple(sys.argv[1:]),
        cwd=str(runs_dir.parent),
        created=time.time(),
        git_commit=None,
        tracking_uri=uri,
        experiment=experiment,
        single=False,
        trials=entries,
    )
    made.save()
    return made


def result(steps: int, **metrics: float) -> dict[str, Any]:
    """The content of a finished training's result.json."""
    ended = {"status": "finished", "cause": None, "steps": steps, "warnings": [], "attempt": 1, "kind": "train"}
    return ended | {"finished": time.time(), "metrics": {"seconds": 1.0, **metrics}}


class Stores:
    """Fresh sqlite stores of MLflow: the schema takes seconds to make, so it is made once and copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def _empty(self) -> Path:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        from mlflow import MlflowClient

        path = self.folder / "empty.db"
        MlflowClient(f"sqlite:///{path}").search_experiments()
        return path

    def fresh(self) -> Path:
        """A new store without runs."""
        return Path(shutil.copy(self._empty, self.folder / f"{uuid.uuid4().hex}.db"))


def points(store: Path, metrics: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """For each run of a store that has any of these metrics: the steps of each, as often as they are there."""
    query = f"SELECT run_uuid, key, step FROM metrics WHERE key IN ({','.join('?' * len(metrics))}) ORDER BY step"
    found: dict[str, dict[str, list[int]]] = {}
    with closing(sqlite3.connect(store)) as connection:
        for run, metric, step in connection.execute(query, tuple(metrics)):
            found.setdefault(run, {}).setdefault(metric, []).append(step)
    return found
