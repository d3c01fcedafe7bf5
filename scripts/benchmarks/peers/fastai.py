"""fastai: fit_one_cycle and lr_find, with torch's SGD, which is faster than fastai's."""

from functools import partial
from typing import Any

import torch
from fastai.basics import DataLoaders, Learner, OptimWrapper  # pyright: ignore[reportMissingImports]

# Gives a Learner its fit_one_cycle and lr_find.
from fastai.callback import schedule as schedule  # pyright: ignore[reportMissingImports]
from torch.nn.functional import cross_entropy

from benchmarks.peers import SGD_SETTINGS
from benchmarks.timing import Cost, stopwatch
from benchmarks.work import Points, Work
from onecycle_sweeps.range_test import Ramp


def train(work: Work) -> tuple[Cost, Points]:
    """fit_one_cycle without a progress bar; the Recorder keeps rates, momenta and losses in memory."""
    learner = _learner(work)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, work.config["max_lr"], moms=(0.95, 0.85, 0.95))
    cost, recorder = stopwatch.read(work.steps), learner.recorder
    return cost, {"losses": range(len(recorder.losses)), "lr": range(len(recorder.hps["lr"]))}


def range_test(work: Work, ramp: Ramp) -> tuple[Cost, Points]:
    """lr_find without its plot."""
    learner = _learner(work)
    search = partial(learner.lr_find, ramp.start_lr, ramp.end_lr, ramp.total_steps, show_plot=False)
    with learner.no_bar():
        cost = stopwatch.whole(search, work.steps)
    return cost, {"loss": range(len(learner.recorder.losses))}


def _learner(work: Work) -> Any:
    optimizer: Any = partial(OptimWrapper, opt=torch.optim.SGD, **SGD_SETTINGS)
    loaders = DataLoaders(*work.loaders())
    return Learner(loaders, work.net(), loss_func=cross_entropy, opt_func=optimizer, path=work.runs_dir.parent)
