"""Several trainings of one net whose steps are computed together: the same operations on stacked weights and batches.

A small net leaves most of a processor idle, because an operation takes longer to start than to compute. The members of
a pack differ in seed, policy and rate. Their weights are the rows of one matrix; each member keeps a net and an
optimizer of its own, whose weights and state are views of its row, so it can be saved or continue alone at any step.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from onecycle_sweeps.cuda_graph import Graph
from onecycle_sweeps.loop import Learner, StepTaken, Totals
from onecycle_sweeps.packs.gradients import Batch, Branches, Gradients, Mapped
from onecycle_sweeps.packs.weights import AdamUpdate, CannotPack, WeightMatrix, update_of
from onecycle_sweeps.policies import Policy
from onecycle_sweeps.scheduler import apply, used

# How many steps a pack takes before the capture, each as slow as its members' own. In the first the libraries set
# themselves up on the branches' streams, and the second is watched for what a graph would freeze.
EAGER_CALLS = 2


@dataclass(frozen=True)
class PackedLearner(Learner):
    """A member of a pack: its net and its optimizer are views of its row, and all members are evaluated together."""

    pack: Any = None
    place: int = 0

    def sums_over(self, part: str, meters: Mapping[str, Any]) -> Mapping[str, Any]:
        """The sums of the objective's measures over a part as numbers; `meters` are updated with its predictions."""
        if meters or not self.pack.evaluates:
            return super().sums_over(part, meters)
        return self.pack.sums_over(part)[self.place]


class PackedTotals(Totals):
    """The sums of one member's measures, which its pack adds up for all members, on top of those `before` the pack."""

    def __init__(self, pack: "Pack", place: int, before: Totals) -> None:
        super().__init__(before.state())
        self._pack, self._place = pack, place

    def add(self, sums: Mapping[str, Tensor | int]) -> None:
        """Do nothing: the pack has added the sums of its step."""

    def state(self) -> dict[str, Tensor | int]:
        """The sums, as a checkpoint keeps them."""
        since = self._pack.totals_of(self._place)
        return {name: self.sums.get(name, 0) + value for name, value in since.items()} or self.sums

    def clear(self) -> None:
        """Begin anew."""
        self.sums = {}
        self._pack.clear_totals(self._place)


class Pack:
    """Takes the steps of its members together, from step `start` on.

    The nets and optimizers of the given learners become views of its memory; from then on `learners` and `totals`
    replace the given ones. Raises CannotPack, and leaves everything as it was, if they cannot be packed, and with
    `must_win` also if their gradients take less time one after the other.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        policies: Sequence[Policy],
        totals: Sequence[Totals],
        start: int = 0,
        *,
        must_win: bool = False,
    ) -> None:
        check_alike(learners)
        if len({policy.total_steps for policy in policies}) > 1:
            raise CannotPack("the trainings differ in their number of steps")
        self._policies, self._index, self._data = policies, start, learners[0].data
        self._optimizers = [one.optimizer for one in learners]
        self._rows = WeightMatrix([one.model for one in learners])
        self._update = update_of(self._optimizers, self._rows)
        on_gpu = self._rows.weights.is_cuda
        self._gradients: Gradients = (Branches if on_gpu else Mapped)(learners, self._rows)
        batches = [next(one.data.train_batches(one.seed, start)) for one in learners]
        self._gradients.check(batches, must_win=must_win)
        self._states = [self._rows.of_states(self._optimizers, name) for name in self._update.states]
        self._rows.bind()
        self._gradients.bind()
        for place, optimizer in enumerate(self._optimizers):
            self._bind_states(optimizer, place)
        self._graph = Graph(eager_calls=EAGER_CALLS) if on_gpu else Graph(refused="the pack is not on a GPU")
        self._watched = [part for one in learners for part in (one.model, one.objective)]
        self._clip_norm = learners[0].clip_norm
        self._streams = [self._data.train_batches(one.seed, start) for one in learners]
        self._sums: dict[str, Tensor] = {}
        self._since = [0] * len(learners)
        self._evaluated: dict[str, list[Mapping[str, Any]]] = {}
        own = [field.name for field in fields(Learner)]
        self.learners = [
            PackedLearner(**{**{name: getattr(one, name) for name in own}, "data": self._data}, pack=self, place=place)
            for place, one in enumerate(learners)
        ]
        self.totals = [PackedTotals(self, place, before) for place, before in enumerate(totals)]

    def step(self) -> list[StepTaken]:
        """Take the next step of all members, and add its sums to `totals`; returns nothing after the last step."""
        if self._index == self._policies[0].total_steps:
            return []
        for optimizer, policy in zip(self._optimizers, self._policies, strict=True):
            apply(optimizer, policy(self._index))
        hypers = [used(optimizer) for optimizer in self._optimizers]
        batches = [next(stream) for stream in self._streams]
        weights = self._rows.weights
        settings = torch.tensor(self._update.settings(hypers, self._index + 1), dtype=weights.dtype).unsqueeze(-1)
        given = [*self._gradients.given(batches), settings.to(weights.device, non_blocking=True)]
        losses = self._graph.call(partial(self._compute, batches[0]), given, self._watched).clone()
        self._since = [count + 1 for count in self._since]
        self._evaluated = {}
        self._index += 1
        return [
            StepTaken(self._index - 1, hyper, loss, {}) for hyper, loss in zip(hypers, losses.unbind(), strict=True)
        ]

    def _compute(self, form: Batch, given: Sequence[Tensor]) -> Tensor:
        """Update the weights by a batch of each member; returns the losses from before the update."""
        *batch, settings = given
        losses, sums, gradients = self._gradients.compute(form, batch)
        with torch.no_grad():
            if self._clip_norm is not None:
                norms = gradients.norm(dim=1, keepdim=True)
                gradients.mul_((self._clip_norm / (norms + 1e-6)).clamp(max=1))
            self._update(self._rows.weights, gradients, self._states, settings.unbind())
            for name, value in sums.items():
                if name not in self._sums:
                    kind = torch.float64 if value.is_floating_point() else value.dtype
                    self._sums[name] = torch.zeros_like(value, dtype=kind)
                self._sums[name].add_(value)
        return losses

    def totals_of(self, place: int) -> dict[str, Tensor | int]:
        """The sums of a member's measures since they were cleared."""
        counts = {name: value * self._since[place] for name, value in self._gradients.counts.items()}
        return {name: value[place].clone() for name, value in self._sums.items()} | counts if self._since[place] else {}

    def clear_totals(self, place: int) -> None:
        """Begin a member's sums anew."""
        self._since[place] = 0
        for value in self._sums.values():
            value[place] = 0

    @property
    def evaluates(self) -> bool:
        """Whether all members are evaluated together."""
        return self._gradients.evaluates

    def sums_over(self, part: str) -> list[Mapping[str, Any]]:
        """The sums of each member's measures over a part, computed once for all of them after a step."""
        if part not in self._evaluated:
            self._evaluated[part] = self._gradients.sums_over(part)
        return self._evaluated[part]

    def _bind_states(self, optimizer: torch.optim.Optimizer, place: int) -> None:
        """Make the optimizer's state views of the member's row; torch's counters of steps are set when it is saved."""
        counted = isinstance(self._update, AdamUpdate)
        views = [self._rows.columns(state[place]) for state in self._states]
        parameters = self._rows.parameters(place)
        for number, parameter in enumerate(parameters):
            state: dict[str, Any] = {name: view[number] for name, view in zip(self._update.states, views, strict=True)}
            optimizer.state[parameter] = state

        def count(of: torch.optim.Optimizer) -> None:
            for state in of.state.values():
                state["step"] = torch.tensor(float(self._index))

        if counted:
            optimizer.register_state_dict_pre_hook(count)


def steps_from(box: list[StepTaken]) -> Generator[StepTaken, None, None]:
    """The steps of a member, each put into the box before it is drawn; ends when the box is empty."""
    while box:
        yield box.pop()


def check_alike(learners: Sequence[Learner]) -> None:
    """Raise CannotPack for learners of different nets or settings, and for what a pack does not have."""
    for learner in learners:
        if not learner.data.in_memory:
            raise CannotPack("the data are read or decoded in each epoch")
        if learner.closure != "none" or learner.accumulate != 1 or learner.mix or learner.averaged or learner.compiled:
            raise CannotPack(
                "accumulate, ema_decay, compile, mixup, cutmix and optimizers with a closure are not packed"
            )
        held = [
            (name, key)
            for name, one in learner.model.named_modules()
            for key, value in vars(one).items()
            if isinstance(value, Tensor)
        ]
        if held:
            raise CannotPack(
                f"the net has a tensor that is neither a parameter nor a buffer: {'.'.join(filter(None, held[0]))}"
            )
    if len({(one.bf16, one.clip_norm, *_form(one.model)) for one in learners}) > 1:
        raise CannotPack("the nets differ in more than the numbers in their weights")
    trained = {id(one) for group in learners[0].optimizer.param_groups for one in group["params"]}
    if trained != {id(one) for one in learners[0].model.parameters() if one.requires_grad}:
        raise CannotPack("the optimizer's weights are not the trained weights of the net")


def _form(net: nn.Module) -> list[tuple[Any, ...]]:
    """The modules, weights and buffers of a net, without their numbers."""
    modules = [(name, type(one)) for name, one in net.named_modules()]
    parameters = [(name, one.shape, one.dtype, one.requires_grad) for name, one in net.named_parameters()]
    return modules + parameters + [(name, one.shape, one.dtype) for name, one in net.named_buffers()]
