"""The trained weights of a pack's members as a matrix with a row for each, and the optimizers' rules on such rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn

from onecycle_sweeps.policies import Hyper

# In a row, the weights of each tensor begin at a multiple of this many numbers.
ALIGNED = 64
# The keys of a param group that may differ between members; its momentum is the policy's or the first group's.
OF_A_MEMBER = ("params", "lr", "momentum", "weight_decay", "lr_scale", "initial_lr")


class CannotPack(Exception):
    """The trainings cannot be computed together; the message says why."""


class WeightMatrix:
    """The matrix `weights`, whose rows become the weights of the nets with `bind`.

    Raises CannotPack for nets whose weights differ in number, shape or type.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        self._nets = nets
        self.names = [name for name, parameter in nets[0].named_parameters() if parameter.requires_grad]
        first = self.parameters(0)
        if len({(one.dtype, one.device) for place in range(len(nets)) for one in self.parameters(place)}) > 1:
            raise CannotPack("the weights differ in their type or device")
        self._shapes = [one.shape for one in first]
        # The dimensions of each tensor in the order in which its numbers lie in memory.
        self._orders = [sorted(range(one.ndim), key=lambda d, one=one: -one.stride(d)) for one in first]
        # Kernels of a GPU read weights from aligned addresses; what lies between the weights is zero and stays so.
        starts = accumulate((-(-shape.numel() // ALIGNED) * ALIGNED for shape in self._shapes), initial=0)
        *self._starts, self._length = starts
        self.weights = torch.stack(
            [self.filled([one.detach() for one in self.parameters(i)]) for i in range(len(nets))]
        )

    def parameters(self, place: int) -> list[nn.Parameter]:
        """A net's trained weights."""
        return [self._nets[place].get_parameter(name) for name in self.names]

    def filled(self, tensors: Sequence[Tensor]) -> Tensor:
        """A row with these tensors as its weights."""
        row = tensors[0].new_zeros(self._length)
        for column, tensor in zip(self.columns(row), tensors, strict=True):
            column.copy_(tensor)
        return row

    def columns(self, rows: Tensor) -> list[Tensor]:
        """Rows (..., weights) as one tensor (..., *shape) for each of a net's weights, in the same memory."""
        found = []
        for start, shape, order in zip(self._starts, self._shapes, self._orders, strict=True):
            flat = rows.detach()[..., start : start + shape.numel()]
            before = flat.ndim - 1
            stored = flat.unflatten(-1, [shape[dimension] for dimension in order]) if order else flat.squeeze(-1)
            back = [before + order.index(dimension) for dimension in range(len(order))]
            found.append(stored.permute(*range(before), *back))
        return found

    def of_states(self, optimizers: Sequence[torch.optim.Optimizer], name: str) -> Tensor:
        """The optimizers' states called `name` as a matrix like the weights; zero where an optimizer has none yet."""
        rows = torch.zeros_like(self.weights)
        for place, optimizer in enumerate(optimizers):
            for parameter, column in zip(self.parameters(place), self.columns(rows[place]), strict=True):
                if (value := optimizer.state.get(parameter, {}).get(name)) is not None:
                    column.copy_(value)
        return rows

    def by_weight(self, optimizers: Sequence[torch.optim.Optimizer], key: str, default: float) -> Tensor:
        """A setting of param groups as a matrix: one column where it is the same for all weights of each net."""
        values, first = [], self.parameters(0)
        for place, optimizer in enumerate(optimizers):
            of = {id(one): group.get(key, default) for group in optimizer.param_groups for one in group["params"]}
            values.append([of[id(parameter)] for parameter in self.parameters(place)])
        if all(len(set(row)) == 1 for row in values):
            return self.weights.new_tensor([[row[0]] for row in values])
        return torch.stack(
            [self.filled([one.new_full(one.shape, of) for one, of in zip(first, row, strict=True)]) for row in values]
        )

    def bind(self) -> None:
        """Make the weights of each net views of its row."""
        for place in range(len(self._nets)):
            for parameter, view in zip(self.parameters(place), self.columns(self.weights[place]), strict=True):
                parameter.grad, parameter.data = None, view


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
    raise CannotPack(f"only SGD, Adam and AdamW are packed, not {', '.join(sorted(kind.__name__ for kind in kinds))}")
