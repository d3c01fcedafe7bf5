"""The rules of torch's optimizers for all members of a pack at once, on matrices with a row for each member."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from onecycle_sweeps.packs.weights import CannotPack, WeightMatrix
from onecycle_sweeps.policies import Hyper

Tensors = Sequence[Tensor]
# What a param group may have of its own; its momentum is the policy's or that of the first group.
OF_A_MEMBER = ("params", "lr", "momentum", "weight_decay", "lr_scale", "initial_lr")


class Update(Protocol):
    """An optimizer's rule for all members at once, on matrices with a row for each of them.

    `states` are the names of its states in torch's optimizer.
    """

    @property
    def states(self) -> tuple[str, ...]: ...

    def settings(self, hypers: Sequence[Hyper], step: int) -> list[list[float]]:
        """What changes from step to step, each with a number for each member; `step` counts from 1."""
        ...

    def __call__(
        self, weights: Tensor, gradients: Tensor, states: Sequence[Tensor], settings: Sequence[Tensor]
    ) -> None:
        """Update the weights and the states in place; the gradients are overwritten."""
        ...


@dataclass(frozen=True)
class SGDUpdate:
    """The rule of torch.optim.SGD; `decay` and `scale` are the weight decay and the factor of the rate."""

    decay: Tensor
    scale: Tensor
    nesterov: bool
    states: tuple[str, ...] = ("momentum_buffer",)

    def settings(self, hypers: Sequence[Hyper], step: int) -> list[list[float]]:
        """See Update."""
        return [[hyper.lr for hyper in hypers], [hyper.momentum or 0.0 for hyper in hypers]]

    def __call__(
        self, weights: Tensor, gradients: Tensor, states: Sequence[Tensor], settings: Sequence[Tensor]
    ) -> None:
        """See Update."""
        (buffer,), (rate, momentum) = states, settings
        gradients.addcmul_(weights, self.decay)
        buffer.mul_(momentum).add_(gradients)
        change = gradients.addcmul_(buffer, momentum) if self.nesterov else buffer
        weights.addcmul_(change, rate * self.scale, value=-1)


@dataclass(frozen=True)
class AdamUpdate:
    """The rule of torch.optim.Adam, or where the weight decay is `decoupled` of AdamW."""

    decay: Tensor
    scale: Tensor
    beta2: float
    epsilon: float
    decoupled: bool
    states: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def settings(self, hypers: Sequence[Hyper], step: int) -> list[list[float]]:
        """See Update."""
        momenta = [hyper.momentum or 0.0 for hyper in hypers]
        corrections = [1 - momentum**step for momentum in momenta]
        return [[hyper.lr for hyper in hypers], momenta, corrections, [(1 - self.beta2**step) ** 0.5] * len(hypers)]

    def __call__(
        self, weights: Tensor, gradients: Tensor, states: Sequence[Tensor], settings: Sequence[Tensor]
    ) -> None:
        """See Update."""
        (mean, square), (rate, beta1, first, second) = states, settings
        rate = rate * self.scale
        if self.decoupled:
            weights.mul_(1 - rate * self.decay)
        else:
            gradients.addcmul_(weights, self.decay)
        mean.lerp_(gradients, 1 - beta1)
        square.mul_(self.beta2).addcmul_(gradients, gradients, value=1 - self.beta2)
        weights.sub_(mean / (square.sqrt() / second).add_(self.epsilon) * (rate / first))


def update_of(optimizers: Sequence[torch.optim.Optimizer], rows: WeightMatrix) -> Update:
    """The rule of these optimizers; raises CannotPack where they differ, and for others than SGD, Adam and AdamW."""
    kinds, groups = {type(one) for one in optimizers}, [group for one in optimizers for group in one.param_groups]
    decay, scale = (
        rows.by_weight(optimizers, key, default) for key, default in (("weight_decay", 0.0), ("lr_scale", 1.0))
    )
    settings = [{key: value for key, value in group.items() if key not in OF_A_MEMBER} for group in groups]
    for one in settings:
        if "betas" in one:
            one["betas"] = one["betas"][1]
        if one != settings[0]:
            raise CannotPack("the optimizers differ in more than rate, momentum and weight decay")
    first = settings[0]
    if any(first.get(key) for key in ("dampening", "maximize", "amsgrad")):
        raise CannotPack("dampening, maximize and amsgrad are not packed")
    if kinds == {torch.optim.SGD}:
        return SGDUpdate(decay, scale, first["nesterov"])
    if kinds in ({torch.optim.Adam}, {torch.optim.AdamW}):
        decoupled = first.get("decoupled_weight_decay", kinds == {torch.optim.AdamW})
        return AdamUpdate(decay, scale, first["betas"], first["eps"], decoupled)
    raise CannotPack(f"packed are SGD, Adam and AdamW, not {', '.join(sorted(kind.__name__ for kind in kinds))}")
