"""Functions on a GPU that are captured as a CUDA graph and replayed, and a learner that computes its gradients by one.

In the step of a small net the GPU waits for Python to start its kernels; a replay starts all of them at once.
What Python decides during a step is frozen in a graph, so a net whose Python code makes decisions trains without one.
"""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onecycle_sweeps.loop import Learner, Sums
from onecycle_sweeps.samples.nested import filled, tensors
from onecycle_sweeps.terminal import in_one_line

log = logging.getLogger("onecycle_sweeps")
# How many ordinary calls precede the capture. In the first ones libraries set themselves up, which a capture does not
# permit; the last one is watched for what a graph would freeze.
EAGER_CALLS = 5
Pieces = Sequence[tuple[Any, Any]]


@dataclass
class Graph:
    """Calls a function of tensors: `eager_calls` times as usual, and then by replaying a graph, if one was captured.

    `refused` is why none was captured, as is always the case without a GPU; None otherwise.
    """

    refused: str | None = None
    eager_calls: int = field(default_factory=lambda: EAGER_CALLS)
    _calls: int = 0
    _graph: torch.cuda.CUDAGraph | None = None
    _read: list[Tensor] = field(default_factory=list)
    _written: Any = None

    def call(self, function: Callable[[Sequence[Tensor]], Any], given: Sequence[Tensor], parts: Sequence[Any]) -> Any:
        """What the function returns for these tensors; the next call overwrites what a graph has returned.

        The function must be the same in each call. `parts` are the objects that a call must not change.
        """
        if self.refused is None and self._graph is None:
            self._calls += 1
            if self._calls > self.eager_calls:
                self._capture(function, given)
            elif self._calls == self.eager_calls:
                return self._watched(function, given, parts)
        if self._graph is None or not _alike(given, self._read):
            return function(given)
        copy_all(self._read, given)
        self._graph.replay()
        return self._written

    def _watched(
        self, function: Callable[[Sequence[Tensor]], Any], given: Sequence[Tensor], parts: Sequence[Any]
    ) -> Any:
        if any(tensor.device.type != "cuda" for tensor in given):
            self._refuse("there are batches that are not on a GPU")
            return function(given)
        with watched(*parts) as seen:
            found = function(given)
        if seen:
            self._refuse(", ".join(seen))
        return found

    def _capture(self, function: Callable[[Sequence[Tensor]], Any], given: Sequence[Tensor]) -> None:
        device = given[0].device
        here = torch.cuda.current_device()
        generator = torch.cuda.default_generators[here if device.index is None else device.index]
        # Without a stream of the device, torch captures on the current device, which may be another one.
        own = None if device.index in (None, here) else torch.cuda.Stream(device)
        stream, before, graph = torch.cuda.current_stream(device), generator.clone_state(), torch.cuda.CUDAGraph()
        read = [tensor.clone() for tensor in given]
        try:
            with torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
                written = function(read)
        except (RuntimeError, AssertionError) as error:
            # A failed capture leaves its own stream and generator state behind.
            torch.cuda.set_stream(stream)
            generator.graphsafe_set_state(before)
            torch.cuda.synchronize(device)
            self._refuse(in_one_line(error))
            return
        self._graph, self._read, self._written = graph, read, written
        log.info("from call %d on the step is a CUDA graph", self._calls)

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        log.info("the step is not captured as a CUDA graph: %s", reason)


@dataclass(frozen=True)
class GraphedLearner(Learner):
    """A learner on a GPU whose gradients are computed by a graph; each step overwrites the sums of the one before."""

    graph: Graph = field(default_factory=Graph)

    def gradients(self, pieces: Pieces) -> tuple[Tensor, Sums]:
        """Compute the gradients of a batch; returns its mean loss and the sums of its measures."""
        parameters = list(self.model.parameters())

        def compute(given: Sequence[Tensor]) -> tuple[Tensor, Sums, list[Tensor | None]]:
            loss, sums = Learner.gradients(self, filled(pieces, given))
            return loss, sums, [parameter.grad for parameter in parameters]

        loss, sums, gradients = self.graph.call(compute, tensors(pieces), (self.model, self.objective))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss.clone(), sums


def copy_all(into: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Copy tensors into others on the same device, all those of one type in one operation."""
    for kind in dict.fromkeys(value.dtype for value in given):
        alike = [at for at, value in enumerate(given) if value.dtype == kind]
        targets, values = [into[at] for at in alike], [given[at] for at in alike]
        torch._foreach_copy_(targets, values)  # pyright: ignore[reportPrivateImportUsage]


@contextmanager
def watched(*parts: Any) -> Iterator[list[str]]:
    """A context that yields a list, and at its end puts into it what happened and would be frozen in a graph.

    These are calls that wait for the GPU, random draws on the CPU, and changes of the values in Python that the parts
    and their modules hold.
    """
    seen: list[str] = []
    held, drawn = _held(parts), _drawn()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with _warning_of_waits():
            yield seen
    waits = [one for one in warned if "synchronizing CUDA operation" in str(one.message)]
    for one in warned:
        if one not in waits and "Synchronization debug mode" not in str(one.message):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    seen += [f"{one.filename}:{one.lineno} waits for the GPU" for one in waits[:1]]
    if _drawn() != drawn:
        seen.append("the step draws random numbers on the CPU")
    after = _held(parts)
    if changes := [name for name in {**held, **after} if name not in held or not _same(held[name], after.get(name))]:
        seen.append(f"{changes[0]} changes in a step")


@contextmanager
def _warning_of_waits() -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _held(parts: Sequence[Any]) -> dict[str, Any]:
    """What the parts and their modules hold, by name, and the length of each list, dict and set."""
    owners = {
        f"{type(part).__name__}.{name}".rstrip("."): module
        for part in parts
        for name, module in (part.named_modules() if isinstance(part, torch.nn.Module) else [("", part)])
    }
    found: dict[str, Any] = {}
    for owner, module in owners.items():
        for name, value in {**getattr(module, "__dict__", {}), **getattr(module, "_buffers", {})}.items():
            found[f"{owner}.{name}"] = value
            if isinstance(value, list | dict | set):
                found[f"the length of {owner}.{name}"] = len(value)
    return found


def _same(before: Any, after: Any) -> bool:
    parts = before if isinstance(before, tuple) else (before,)
    return before is after or (all(isinstance(part, int | float | str) for part in parts) and before == after)


def _drawn() -> tuple[Any, ...]:
    return random.getstate(), repr(np.random.get_state(legacy=False)), bytes(torch.get_rng_state().numpy())


def _alike(given: Sequence[Tensor], read: Sequence[Tensor]) -> bool:
    return len(given) == len(read) and all(
        one.shape == other.shape and one.dtype == other.dtype for one, other in zip(given, read, strict=True)
    )
