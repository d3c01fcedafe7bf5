"""fastai: fit_one_cycle and lr_find."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastai.basics import DataLoaders, Learner, OptimWrapper  # pyright: ignore[reportMissingImports]

# Gives a Learner its fit_one_cycle and lr_find.
from fastai.callback import schedule as schedule  # pyright: ignore[reportMissingImports]
from torch.nn.functional import cross_entropy

from benchmarks.costs import Cost
from benchmarks.peers import SGD_SETTINGS
from benchmarks.program import Points
from benchmarks.stopwatch import stopwatch
from benchmarks.work import Work
from onecycle_sweeps.range_test import Ramp

LOGGED = ("losses", "lr")


def train(work: Work) -> tuple[Cost, Points]:
    """fit_one_cycle without a progress bar; the Recorder keeps rates, momenta and losses in memory."""
    learner = _learner(work)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, work.max_lr, moms=(0.95, 0.85, 0.95))
    cost, recorder = stopwatch.read(work.steps), learner.recorder
    return cost, {"losses": range(len(recorder.losses)), "lr": range(len(recorder.hps["lr"]))}


def range_test(work: Work, ramp: Ramp) -> Callable[[], int]:
    """lr_find without its plot."""
    learner = _learner(work)

    def search() -> int:
        with learner.no_bar():
            learner.lr_find(ramp.start_lr, ramp.end_lr, ramp.total_steps, show_plot=False)
        return len(learner.recorder.losses)

    return search


def _learner(work: Work) -> Any:
    """A Learner with torch's SGD, which is faster than fastai's."""
    optimizer: Any = partial(OptimWrapper, opt=torch.optim.SGD, **SGD_SETTINGS)
    loaders = DataLoaders(work.loader(), work.validation_loader())
    return Learner(loaders, work.net(), loss_func=cross_entropy, opt_func=optimizer, path=work.runs_dir.parent)
