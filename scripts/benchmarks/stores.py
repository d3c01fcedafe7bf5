"""sqlite stores of MLflow: made once, copied for each turn, and asked which points they hold."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from onecycle_sweeps.journal import LR, MOMENTUM, TRAIN_LOSS

OURS = (LR, MOMENTUM, TRAIN_LOSS)
LIGHTNING = ("lr-SGD", "lr-SGD-momentum", "train_loss")


def made(path: Path) -> Path:
    """A store with MLflow's schema and no run."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def points(store: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """The steps of each metric in a store that holds one run, as often as they are there."""
    with closing(sqlite3.connect(store)) as connection:
        query = "SELECT step FROM metrics WHERE key = ? ORDER BY step"
        return {name: [step for (step,) in connection.execute(query, (name,))] for name in names}


def distinct(store: Path, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """For each run that has any of these metrics, at how many steps it has each."""
    with closing(sqlite3.connect(store)) as connection:
        query = "SELECT run_uuid, key, COUNT(DISTINCT step) FROM metrics GROUP BY run_uuid, key"
        found: dict[str, dict[str, int]] = {}
        for run, key, count in connection.execute(query):
            if key in names:
                found.setdefault(run, {})[key] = count
        return found
