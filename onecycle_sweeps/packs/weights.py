"""The trained weights of several nets of one kind as a matrix with a row for each net."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

# The weights of a tensor begin at a multiple of so many numbers.
ALIGNED = 64


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
        """WeightMatrix (..., weights) as tensors (..., *shape) of the weights, in the same memory."""
        found = []
        for start, shape, order in zip(self._starts, self._shapes, self._orders, strict=True):
            flat = rows.detach()[..., start : start + shape.numel()]
            before = flat.ndim - 1
            stored = flat.unflatten(-1, [shape[dimension] for dimension in order]) if order else flat.squeeze(-1)
            back = [before + order.index(dimension) for dimension in range(len(order))]
            found.append(stored.permute(*range(before), *back))
        return found

    def of_states(self, optimizers: Sequence[torch.optim.Optimizer], name: str) -> Tensor:
        """The states of a name as a matrix like the weights; zero where an optimizer has none yet."""
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
