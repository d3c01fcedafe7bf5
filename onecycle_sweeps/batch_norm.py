"""Batch-norm statistics of the weights as they are: running averages lag behind weights that move fast."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from onecycle_sweeps.images import batches
from onecycle_sweeps.training import Learner

BATCHES = 100


def norms(learner: Learner) -> list[_BatchNorm]:
    """The net's batch norms that keep running statistics and are trained; those of a frozen body are not."""
    return [m for m in learner.model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]


@contextmanager
def recalibrated(learner: Learner) -> Iterator[None]:
    """Evaluate and save within it: each batch norm has its mean statistics over the first BATCHES training batches.

    The training goes on afterwards as if it had not been (torch.optim.swa_utils.update_bn, but undone and bounded):
    nothing is drawn at random but what follows from seed, epoch and sample.
    """
    kept = [(norm, norm.momentum, {k: v.clone() for k, v in norm.named_buffers()}) for norm in norms(learner)]
    if kept:
        _recalibrate(learner, [norm for norm, _, _ in kept])
    try:
        yield
    finally:
        for norm, momentum, buffers in kept:
            norm.momentum = momentum
            norm.load_state_dict(buffers, strict=False)


@torch.no_grad()
def _recalibrate(learner: Learner, stale: list[_BatchNorm]) -> None:
    """Average over batches of an epoch in train mode for the norms alone, so that dropout draws nothing."""
    learner.model.eval()
    for norm in stale:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    train = learner.data.train
    count = min(BATCHES, len(train) // learner.batch_size)
    for images, _ in islice(batches(train, learner.batch_size, learner.seed, 0, learner.data.augment), count):
        learner.scores(images)
    learner.model.train()
