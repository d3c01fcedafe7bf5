"""Gives a model, its optimizer and all random generators back as they were before something was tried with them."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from onecycle_sweeps import held_generators, seeding
from onecycle_sweeps.scheduler import nested_optimizers

Undo = Callable[[], None]


@contextmanager
def restored(modules: Iterable[nn.Module], optimizer: Optimizer) -> Iterator[None]:
    """A context after which modules and optimizer are bit for bit as before, also when it ends by an exception.

    That is parameters, buffers, gradients, requires_grad and training mode; the optimizer's state, param groups and
    attributes, and those of an optimizer that it wraps. The tensors stay the same objects. Inside, no parameter has a
    gradient, and the optimizer works on a copy of its state. Copies of weights are kept in the CPU's memory.
    """
    parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
    optimizers = nested_optimizers(optimizer)
    trained = [p for one in optimizers for group in one.param_groups for p in group["params"]]
    with ExitStack() as stack:
        for undo in chain(_of_modules(parts, trained), _of_optimizers(optimizers)):
            stack.callback(undo)
        yield


@contextmanager
def generators_restored(
    loader: Any = None, modules: Iterable[nn.Module] = (), optimizer: Optimizer | None = None
) -> Iterator[None]:
    """A context after which the generators of Python, numpy and torch, and those that the parts hold, are as before."""
    held = held_generators.of_loader(loader) | held_generators.of_net(nn.ModuleList(modules), optimizer=optimizer)
    with seeding.generators_kept(), held_generators.kept(held):
        yield


def _of_modules(parts: list[nn.Module], trained: list[Tensor]) -> Iterator[Undo]:
    parameters = list({id(p): p for p in (*(p for m in parts for p in m._parameters.values()), *trained)}.values())
    parameters = [parameter for parameter in parameters if parameter is not None]
    buffers = [buffer for module in parts for buffer in module._buffers.values() if buffer is not None]
    kept = [(one, one.detach(), _distinct(one.detach()).to("cpu", copy=True)) for one in (*parameters, *buffers)]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    attributes = [(m, m.training, dict(m._parameters), dict(m._buffers), _extra_state(m)) for m in parts]

    @torch.no_grad()
    def undo_values() -> None:
        for tensor, storage, values in kept:
            if tensor.data_ptr() != storage.data_ptr() or tensor.shape != storage.shape:
                tensor.data = storage
            _distinct(tensor).copy_(values)

    def undo_flags() -> None:
        for parameter, requires_grad, gradient in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient

    def undo_modules() -> None:
        for module, training, own_parameters, own_buffers, extra in attributes:
            module.training = training
            module._parameters.clear()
            module._parameters.update(own_parameters)
            module._buffers.clear()
            module._buffers.update(own_buffers)
            if extra is not None:
                module.set_extra_state(extra)

    # Undone last to first: modules get their own tensors back before these get their values.
    yield from (undo_values, undo_flags, undo_modules)
    for parameter in parameters:
        parameter.grad = None


def _distinct(tensor: Tensor) -> Tensor:
    """The tensor without the repetitions of an expanded one, which cannot be written to."""
    for dimension, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor


def _extra_state(module: nn.Module) -> Any:
    has_one = type(module).get_extra_state is not nn.Module.get_extra_state
    return copy.deepcopy(module.get_extra_state()) if has_one else None


def _of_optimizers(optimizers: list[Optimizer]) -> Iterator[Undo]:
    copies: dict[int, Any] = {}
    for optimizer in optimizers:
        yield _undo_attributes(optimizer, dict(vars(optimizer)))
        yield _undo_groups(optimizer.param_groups)
        # Two optimizers, of which one wraps the other, may share one state.
        if (state := vars(optimizer).get("state")) is not None:
            copied = copies.setdefault(id(state), defaultdict(dict))
            copied.update({key: copy.deepcopy(value) for key, value in state.items() if key not in copied})
            optimizer.state = copied


def _undo_attributes(optimizer: Optimizer, attributes: dict[str, Any]) -> Undo:
    def undo() -> None:
        vars(optimizer).clear()
        vars(optimizer).update(attributes)

    return undo


def _undo_groups(groups: list[dict[str, Any]]) -> Undo:
    before = [(group, dict(group)) for group in groups]
    tensors = [(one, one.clone()) for group in groups for one in group.values() if isinstance(one, Tensor)]

    def undo() -> None:
        groups[:] = [group for group, _ in before]
        for group, values in before:
            group.clear()
            group.update(values)
        with torch.no_grad():
            for tensor, value in tensors:
                tensor.copy_(value)

    return undo
