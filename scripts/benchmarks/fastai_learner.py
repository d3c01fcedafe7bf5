"""A work as a fastai Learner, which fastai.callback.schedule gives fit_one_cycle and lr_find."""

from functools import partial
from typing import Any

import torch
from fastai.basics import DataLoaders, Learner, OptimWrapper  # pyright: ignore[reportMissingImports]
from fastai.callback import schedule as schedule  # pyright: ignore[reportMissingImports]
from torch.nn.functional import cross_entropy

from benchmarks.loops import SGD_SETTINGS, loader, validation_loader
from benchmarks.work import Work


def learner(work: Work) -> Any:
    """A learner on the work's batches, with torch's SGD, which is fastai's fastest."""
    optimizer: Any = partial(OptimWrapper, opt=torch.optim.SGD, **SGD_SETTINGS)
    loaders = DataLoaders(loader(work), validation_loader(work))
    return Learner(loaders, work.net(), loss_func=cross_entropy, opt_func=optimizer, path=work.runs_dir.parent)
