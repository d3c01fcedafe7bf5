"""The program's trials and sweeps, made without its command."""

import functools
import sys
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from onecycle_sweeps import arguments, settings, sweep
from onecycle_sweeps.plan import Planner, Request, Trial
from onecycle_sweeps.sweep import Sweep


@functools.cache
def composed(*overrides: str) -> Any:
    """The config that these overrides compose, with Hydra's own node."""
    with initialize_config_dir(str(arguments.CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def planned(runs_dir: Path, *overrides: str) -> Trial:
    """The trial that the program makes of these overrides."""
    config = composed(*overrides)
    content = settings.plain(config) | {"runs_dir": str(runs_dir)}
    return Planner(runs_dir).plan(Request(content, overrides, dict(config.hydra.runtime.choices)))


def recorded_sweep(runs_dir: Path, store: Path, *trials: Trial) -> Sweep:
    """A sweep of trials as a command would record it, to be shipped to an sqlite store."""
    entries = sweep.entries(trials)
    made = Sweep(
        id=sweep.identity(entry.signature for entry in entries),
        runs_dir=runs_dir,
        command=tuple(sys.argv[1:]),
        cwd=str(runs_dir.parent),
        created=time.time(),
        git_commit=None,
        tracking_uri=f"sqlite:///{store}",
        experiment="benchmark",
        single=False,
        trials=entries,
    )
    made.save()
    return made
