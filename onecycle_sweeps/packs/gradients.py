"""Losses and gradients of all members of a pack: by one mapped operation for all on a CPU, by branches on a GPU.

On a CPU, torch.func.vmap replaces the operations of all members by one operation on stacked tensors. On a GPU, vmap
would make a convolution for each member and rearrange memory between convolutions, so there each member's own
operations are a branch of the CUDA graph, and the branches run at the same time.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from onecycle_sweeps.cuda_graph import copy_all
from onecycle_sweeps.loop import Learner, Sums, Totals
from onecycle_sweeps.packs.weights import CannotPack, WeightMatrix
from onecycle_sweeps.samples.nested import changed, filled, tensors

# The samples that an unpacked evaluation takes at once are divided among the members, but each takes at least this
# many.
LEAST_EVALUATED = 128
# How far packed losses and outputs may be from unpacked ones, relative to their size, in fp32 and in bf16.
TOLERANCES = {False: 1e-3, True: 5e-2}
# How often a step is timed.
TIMED = 3
# The streams of a GPU on which branches run, and the share of its free memory that a pack may use.
BRANCHES, FREE_MEMORY = 16, 0.8
# A GPU is busy if its work takes this many times as long as starting it.
GOING_ON = 1.2

Batch = tuple[Any, Any]
# The losses, the sums of the measures, and the gradients as a matrix with a row for each member.
Found = tuple[Tensor, dict[str, Tensor], Tensor]


class Gradients(Protocol):
    """How the gradients of all members are computed, and whether all members can be evaluated together too.

    `counts` are those sums of a batch that are numbers, which are the same for all members and steps.
    """

    counts: dict[str, int]
    evaluates: bool

    def given(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The tensors that `compute` takes for a batch of each member."""
        ...

    def compute(self, form: Batch, given: Sequence[Tensor]) -> Found:
        """Losses, sums and gradients; `form` is a batch of the same structure as the members'."""
        ...

    def check(self, batches: Sequence[Batch], *, must_win: bool) -> None:
        """Raise CannotPack if computing them so fails, changes the trainings or, with `must_win`, saves no time."""
        ...

    def bind(self) -> None:
        """Make the buffers of the nets those that `compute` updates."""
        ...

    def sums_over(self, part: str) -> list[Mapping[str, Any]]:
        """The sums of each member's measures over a part of the data, as numbers."""
        ...


class Mapped:
    """One operation for all members, by torch.func.vmap."""

    def __init__(self, learners: Sequence[Learner], rows: WeightMatrix) -> None:
        self._learners, self._rows, self._first = learners, rows, learners[0]
        self.counts: dict[str, int] = {}
        self.evaluates = False
        every = [dict([*one.model.named_parameters(), *one.model.named_buffers()]) for one in learners]
        others = every[0].keys() - set(rows.names)
        self._others = {name: torch.stack([one[name].detach() for one in every]) for name in sorted(others)}
        self._gradients = torch.zeros_like(rows.weights)
        self._columns, leaves = rows.columns(self._gradients), rows.columns(rows.weights)
        self._leaves = {name: leaf.requires_grad_() for name, leaf in zip(rows.names, leaves, strict=True)}

    def given(self, batches: Sequence[Batch]) -> list[Tensor]:
        """See Gradients: tensors (members, ...)."""
        return [torch.stack(values) for values in zip(*(tensors([batch]) for batch in batches), strict=True)]

    def compute(self, form: Batch, given: Sequence[Tensor]) -> Found:
        """See Gradients."""
        ((inputs, targets),) = filled([form], given)
        with self._precision():
            losses, sums = self._map(self._training, 0, inputs, targets)
        # The members do not depend on each other, so the gradients of the sum are each one's own.
        leaves = list(self._leaves.values())
        found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
        copy_all(self._columns, found)
        return losses.detach(), {k: v.detach() for k, v in sums.items()}, self._gradients

    def bind(self) -> None:
        """See Gradients."""
        for place, learner in enumerate(self._learners):
            for name, rows in self._others.items():
                owner, _, last = name.rpartition(".")
                module = learner.model.get_submodule(owner)
                if last in module._buffers:
                    module._buffers[last] = rows[place]
                else:
                    module.get_parameter(last).data = rows[place]

    def check(self, batches: Sequence[Batch], *, must_win: bool) -> None:
        """See Gradients; also raises CannotPack if the losses are not those of each member's own net."""
        form, given = batches[0], self.given(batches)
        ((inputs, _),) = filled([form], given)
        copies = map(_copied, self._learners)
        with self._undisturbed():
            before = torch.get_rng_state()
            try:
                losses, *_ = self.compute(form, given)
            except Exception as error:
                raise CannotPack(f"a packed step fails: {type(error).__name__}: {error}") from error
            # A net that draws random numbers, as dropout does, draws others in a pack: its outputs are compared.
            draws, outputs = not torch.equal(before, torch.get_rng_state()), None
            try:
                outputs = self._outputs(inputs, 0)
                self._outputs(form[0], None)
                self.evaluates = True
            except RuntimeError:
                self.evaluates = False
            if not draws:
                found, wanted = losses, [one.gradients([own])[0] for one, own in zip(copies, batches, strict=True)]
            elif outputs is not None:
                found, wanted = outputs, [_outputs_of(one, own) for one, (own, _) in zip(copies, batches, strict=True)]
            else:
                raise CannotPack("the net draws random numbers, and its outputs cannot be compared with its own")
            pairs = zip(found, wanted, strict=True)
            distances = [float((one - other).double().norm() / other.double().norm()) for one, other in pairs]
            if max(distances) > TOLERANCES[self._first.bf16]:
                raise CannotPack(f"the packed net's results differ by {max(distances):.2g} of their size")
            if must_win:
                one = _copied(self._first)
                together = _seconds(lambda: self.compute(form, given))
                apart = len(batches) * _seconds(lambda: one.gradients([form]))
                if together > apart:
                    raise CannotPack(
                        f"a packed step takes {1000 * together:.3g} ms, its members' own {1000 * apart:.3g} ms"
                    )

    @torch.no_grad()
    def sums_over(self, part: str) -> list[Mapping[str, Any]]:
        """See Gradients."""
        totals, count, counts = Totals(), len(self._learners), self.counts
        with _evaluating(self._first):
            for inputs, targets in self._first.data.part_batches(part):
                size = max(-(-len(targets) // count), LEAST_EVALUATED)
                for at in range(0, len(targets), size):
                    piece = changed(inputs, lambda tensor, at=at, size=size: tensor[at : at + size])
                    with self._precision():
                        found = self._map(self._evaluation, None, piece, targets[at : at + size])
                    totals.add({**found, **self.counts})
        self.counts = counts
        read = totals.read()
        return [{k: v[place] if isinstance(v, list) else v for k, v in read.items()} for place in range(count)]

    @torch.no_grad()
    def _outputs(self, inputs: Any, dimension: int | None) -> Tensor:
        """The outputs in evaluation mode, for a batch of each member or, without a dimension, for one of all."""
        with _evaluating(self._first), self._precision():
            return self._map(lambda outputs, _: outputs, dimension, inputs, torch.zeros(len(self._learners)))

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """A context that leaves buffers and generators as they were."""
        before, self._others = self._others, {name: value.clone() for name, value in self._others.items()}
        try:
            with torch.random.fork_rng([]):
                yield
        finally:
            self._others = before

    def _training(self, outputs: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, sums = self._first.objective.training(outputs, targets)
        return loss, self._tensors_of(sums)

    def _evaluation(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        return self._tensors_of(self._first.objective.evaluation(outputs, targets))

    def _tensors_of(self, sums: Sums) -> dict[str, Tensor]:
        self.counts = _numbers_of(sums)
        return {name: value for name, value in sums.items() if isinstance(value, Tensor)}

    def _map(self, function: Callable[[Any, Any], Any], dimension: int | None, inputs: Any, targets: Any) -> Any:
        """The function of outputs and targets for each net; `dimension` is that of the members in the batch."""

        def one(of_net: Mapping[str, Tensor], inputs: Any, targets: Any) -> Any:
            positional = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
            named = inputs if isinstance(inputs, dict) else {}
            given = functional_call(self._first.model, dict(of_net), positional, named)
            return function(getattr(given, "logits", given), targets)

        every = {**self._leaves, **self._others}
        return vmap(one, (0, dimension, dimension), randomness="different")(every, inputs, targets)

    def _precision(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16) if self._first.bf16 else nullcontext()


class Branches:
    """Each member's own operations, on streams of a GPU that run side by side."""

    evaluates = False

    def __init__(self, learners: Sequence[Learner], rows: WeightMatrix) -> None:
        self._learners, self._rows = learners, rows
        self.counts: dict[str, int] = {}
        self._streams = [torch.cuda.Stream(rows.weights.device) for _ in learners[:BRANCHES]]
        self._gradients = torch.zeros_like(rows.weights)
        self._columns = [rows.columns(row) for row in self._gradients]

    def given(self, batches: Sequence[Batch]) -> list[Tensor]:
        """See Gradients: the tensors of all members, one after the other."""
        return tensors(batches)

    def compute(self, form: Batch, given: Sequence[Tensor]) -> Found:
        """See Gradients."""
        batches = filled([form] * len(self._learners), given)
        found: list[tuple[Tensor, Sums]] = []
        main = torch.cuda.current_stream(self._rows.weights.device)
        for stream in self._streams:
            stream.wait_stream(main)
        for place, (learner, (inputs, targets)) in enumerate(zip(self._learners, batches, strict=True)):
            with torch.cuda.stream(self._streams[place % len(self._streams)]):
                loss, sums = learner.objective.training(learner.outputs(inputs), targets)
                parameters = self._rows.parameters(place)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                copy_all(self._columns[place], gradients)
                found.append((loss.detach(), sums))
        for stream in self._streams:
            main.wait_stream(stream)
        self.counts = _numbers_of(found[0][1])
        names = [name for name in found[0][1] if name not in self.counts]
        return (
            torch.stack([loss for loss, _ in found]),
            {name: torch.stack([torch.as_tensor(sums[name]).detach() for _, sums in found]) for name in names},
            self._gradients,
        )

    def bind(self) -> None:
        """See Gradients: each net keeps its buffers."""

    def check(self, batches: Sequence[Batch], *, must_win: bool) -> None:
        """See Gradients; also raises CannotPack if the batches of all members do not fit into the GPU's memory."""
        one, device = _copied(self._learners[0]), self._rows.weights.device
        with torch.random.fork_rng([device]):
            one.gradients(batches[:1])
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            one.gradients(batches[:1])
            needed = len(batches) * (torch.cuda.max_memory_allocated(device) - before)
            cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            free = FREE_MEMORY * (torch.cuda.mem_get_info(device)[0] + cached)
            if needed > free:
                raise CannotPack(
                    f"a packed step needs {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB may be used"
                )
            if must_win and _busy(lambda: one.gradients(batches[:1]), device):
                raise CannotPack("one training keeps the GPU busy")

    def sums_over(self, part: str) -> list[Mapping[str, Any]]:
        """Not used, because each member is evaluated separately."""
        raise NotImplementedError


def _numbers_of(sums: Sums) -> dict[str, int]:
    return {name: value for name, value in sums.items() if not isinstance(value, Tensor)}


def _copied(learner: Learner) -> Learner:
    """A learner with a copy of the net, whose gradients can be computed without changing the given one."""
    net = copy.deepcopy(learner.model)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    return Learner(net, optimizer, learner.data, learner.objective, learner.seed, learner.bf16, learner.clip_norm)


def _seconds(work: Callable[[], Any]) -> float:
    """The shortest time that the work took in TIMED turns after an untimed one."""
    seconds = []
    for _ in range(TIMED + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _busy(work: Callable[[], Any], device: torch.device) -> bool:
    """Whether the GPU goes on computing for a while after work has been started several times: it is the bottleneck."""
    work()
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(TIMED * TIMED):
        work()
    started = time.perf_counter() - began
    torch.cuda.synchronize(device)
    return time.perf_counter() - began > GOING_ON * started


@contextmanager
def _evaluating(learner: Learner) -> Iterator[None]:
    training = learner.model.training
    learner.model.eval()
    try:
        yield
    finally:
        learner.model.train(training)


@torch.no_grad()
def _outputs_of(learner: Learner, inputs: Any) -> Any:
    with _evaluating(learner):
        return learner.outputs(inputs)
