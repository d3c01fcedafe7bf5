"""Real trials for the tests: composed from conf/ as the program does it, planned, and trained in a moment."""

import copy
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from onecycle_sweeps import journal, trial
from onecycle_sweeps.composing import Composer
from onecycle_sweeps.planning import Planner, Request, Trial
from onecycle_sweeps.trial import build
from onecycle_sweeps.trial_folder import TrialFolder

CONF = Path(__file__).parents[1] / "conf"
# 5 steps an epoch of the 1,437 digits, at a rate that needs no range test.
SHORT = ("epochs=2", "batch_size=256", "max_lr=0.1")
_undisturbed: dict[tuple[str, ...], dict[str, Any]] = {}
TIMES = ("seconds", "images_per_second", "samples_per_second")


def request(runs_dir: Path, *overrides: str) -> Request:
    """The request that the program composes from these overrides."""
    made = _request(overrides, os.environ.get("ONECYCLE_DATA"))
    return replace(made, config=copy.deepcopy(made.config) | {"runs_dir": str(runs_dir)})


@functools.cache
def _request(overrides: tuple[str, ...], _data: str | None) -> Request:
    return _composer().compose(overrides)


@functools.cache
def _composer() -> Composer:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """The whole config that these overrides compose, with Hydra's own node."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def planned(runs_dir: Path, *overrides: str) -> Trial:
    """The trial that these overrides ask for; raises ConfigError where it cannot be done."""
    return Planner(runs_dir).plan(request(runs_dir, *overrides))


def probed(runs_dir: Path, *jobs: Sequence[str]) -> list[Trial]:
    """The trials of a sweep of these jobs, with probes for those that have steps enough."""
    planner = Planner(runs_dir)
    return planner.with_probes([planner.plan(request(runs_dir, *overrides)) for overrides in jobs])


def made(runs_dir: Path, *overrides: str) -> TrialFolder:
    """A trial's folder as a command makes it before anything runs, and that of the range test it needs."""
    return create(runs_dir, planned(runs_dir, *overrides))


def create(runs_dir: Path, asked: Trial) -> TrialFolder:
    """The folder of a trial, and those of the trials that it needs."""
    for one in asked.chain:
        TrialFolder(runs_dir / one.signature).create(one.config)
    return TrialFolder(runs_dir / asked.signature)


def learner_of(folder: TrialFolder) -> Any:
    """The learner of a trial's first step, with the precision that the program chooses."""
    return build.begin(folder, folder.config(), (0.1, "config"))[1]


def stop_after(count: int) -> Callable[[], bool]:
    """Asks an attempt to leave once it has taken `count` steps."""
    asked = iter(range(1, count + 1))
    return lambda: next(asked, count) >= count


def in_one_go(runs_dir: Path, *overrides: str) -> dict[str, Any]:
    """What a trial comes to that is run without an interruption."""
    folder = made(runs_dir, *overrides)
    trial.run(folder)
    return outcome(folder)


def undisturbed(runs_dir: Path, *overrides: str) -> dict[str, Any]:
    """What a trial with these overrides comes to in one go, for comparison: it is run once in this process."""
    if overrides not in _undisturbed:
        _undisturbed[overrides] = in_one_go(runs_dir, *overrides)
    return _undisturbed[overrides]


def outcome(folder: TrialFolder) -> dict[str, Any]:
    """What must not depend on how often a trial was interrupted: weights, every series, and all metrics but times."""
    record, result = journal.read(folder.journal), folder.result()
    assert result is not None
    names = sorted({name for block in record.blocks for name in block.metrics})
    weights = torch.load(folder.path / "model.pt", weights_only=True)
    return {
        "weights": {name: tensor.tolist() for name, tensor in weights.items()},
        "series": {name: record.series(name) for name in names},
        "metrics": {name: value for name, value in result["metrics"].items() if name not in TIMES},
        "ended": {key: result[key] for key in ("status", "cause", "steps", "warnings")},
    }


def series(folder: TrialFolder, name: str) -> tuple[list[int], list[float]]:
    """The steps and values of one metric that a trial recorded."""
    return journal.read(folder.journal).series(name)


def names(folder: TrialFolder) -> set[str]:
    """The metrics that a trial recorded."""
    return {name for block in journal.read(folder.journal).blocks for name in block.metrics}
