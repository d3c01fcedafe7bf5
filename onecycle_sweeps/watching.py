"""A check of the schedule in any training loop: `watch` records what an optimizer uses, and warns of mistakes."""

import gc
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR
from torch.optim.optimizer import Optimizer

from onecycle_sweeps.policies import Policy
from onecycle_sweeps.schedule_mistakes import (
    Foreign,
    Kind,
    Mistake,
    Observed,
    Positions,
    mistakes,
    planned_rates,
    steps_of,
)
from onecycle_sweeps.scheduler import momentum_of, nested_optimizers, reference, scale_of, that_update, with_hooks
from onecycle_sweeps.validation import kind_of, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ScheduleWarning(UserWarning):
    """A mistake in the schedule of a training loop."""


@dataclass
class Seen:
    """The context that `watch` returns, and what it has seen; `mistakes` can be read at any time."""

    optimizer: Optimizer
    plan: Policy | int
    start: int = 0
    at_once: bool = False
    _rates: list[tuple[float, ...]] = field(default_factory=list, repr=False)
    _momenta: list[tuple[float, ...]] = field(default_factory=list, repr=False)
    _first_rates: tuple[float, ...] = field(default=(), repr=False)
    _loads: list[int] = field(default_factory=list, repr=False)
    _positions: dict[int, tuple[LRScheduler, list[int]]] = field(default_factory=dict, repr=False)
    _foreign: Foreign | None = field(default=None, repr=False)
    _handles: list[Any] = field(default_factory=list, repr=False)
    _said: set[Kind] = field(default_factory=set, repr=False)
    _off: int = field(default=0, repr=False)
    _is_over: bool = field(default=False, repr=False)
    # The optimizer in whose step others are nested: a class may call that of its parent, or of one that it wraps.
    _stepping: Optimizer | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        inner = with_hooks(self.optimizer)
        if inner is None:
            raise ValueError(f"{type(self.optimizer).__name__} calls no hooks, so that its steps cannot be watched")
        self._first_rates = self._rates_in_use()
        self._handles = [inner.register_load_state_dict_post_hook(lambda _: self._loads.append(len(self._rates)))]
        for one in that_update(inner):
            self._handles += [
                one.register_step_pre_hook(lambda of, *_: self._before_update(of)),
                one.register_step_post_hook(lambda of, *_: self._after_update(of)),
            ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._is_over = kind is None
        self._note_positions()
        self._say()

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """The mistakes seen so far; those that show only at the end are added after the loop, if it raised nothing."""
        return tuple(mistakes(self.observed, self.plan))

    @property
    def observed(self) -> Observed:
        """All that was seen so far."""
        found = [_positions_of(one, positions) for one, positions in self._positions.values()]
        # A scheduler that never moved is probably left over from an earlier training.
        moved = [one for one in found if one.positions and one.positions[0] != one.positions[-1]]
        width = len(self._rates[0]) if self._rates else len(self._first_rates)
        scales = tuple(scale_of(group) for group in self.optimizer.param_groups[:width])
        return Observed(
            rates=np.array([rates[:width] for rates in self._rates]).reshape(-1, width),
            momenta=np.array([momenta[:width] for momenta in self._momenta]).reshape(-1, width),
            first_rates=self._first_rates[:width],
            scales=scales,
            reference=reference(scales),
            loads=tuple(self._loads),
            schedulers=tuple(moved or found),
            foreign=self._foreign,
            start=self.start,
            is_over=self._is_over,
        )

    def __str__(self) -> str:
        """A line for each mistake, or that there is none so far."""
        lines = [str(mistake) for mistake in self.mistakes]
        return "\n".join(lines) or f"no mistake in {len(self._rates)} optimizer steps"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the planned rate, if the plan is a policy, and the rate that was used; returns matplotlib's axes."""
        from onecycle_sweeps.report import canvas

        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots(figsize=(7.5, 3.6), layout="constrained")
        seen = self.observed
        if callable(self.plan):
            steps = range(max(self.plan.total_steps, self.start + seen.count))
            ax.plot(steps, planned_rates(self.plan, steps), color=canvas.GREY, linewidth=4, label="planned")
        ax.axvline(steps_of(self.plan), color=canvas.MUTED, linestyle=":", linewidth=1, label="planned end")
        steps = range(self.start, self.start + seen.count)
        for group in range(seen.rates.shape[1]):
            name = "used" if seen.rates.shape[1] == 1 else f"used, group {group}"
            colour, dashes = canvas.COLOURS[group % 7], canvas.DASHES[group % 7]
            ax.plot(steps, seen.rates[:, group], label=name, **canvas.Style(colour, dashes).line())
        ax.set(xlabel=canvas.STEP, ylabel="learning rate", ylim=(0, None))
        if found := self.mistakes:
            ax.set_title("\n".join(_folded(str(one)) for one in found), fontsize=9, loc="left")
        ax.legend(frameon=False, fontsize=9)
        return ax

    def _rates_in_use(self) -> tuple[float, ...]:
        return tuple(float(group["lr"]) for group in self.optimizer.param_groups)

    def _before_update(self, one: Optimizer) -> None:
        # After a step that failed, this is still its optimizer: the loop's second try is the same step.
        if self._stepping is None:
            self._stepping = one
            self._record()

    def _after_update(self, one: Optimizer) -> None:
        if one is self._stepping:
            self._stepping = None

    def _record(self) -> None:
        rates = self._rates_in_use()
        momenta = map(momentum_of, self.optimizer.param_groups)
        if not self._rates:
            self._find_schedulers()
        self._rates.append(rates)
        self._momenta.append(tuple(math.nan if momentum is None else momentum for momentum in momenta))
        self._note_positions()
        self._check_source(rates)
        if self.at_once and self._is_time(rates):
            self._say()

    def _is_time(self, rates: tuple[float, ...]) -> bool:
        """Whether to look for mistakes after this step: less and less often, since each look goes through all steps."""
        step = len(self._rates) - 1
        if callable(self.plan):
            planned = self.plan(self.start + step).lr
            wanted = [planned * scale_of(group) for group in self.optimizer.param_groups]
            self._off += not _are_close(rates, wanted, 1e-4)
            if self._off:
                return self._off >= 3 and (self._off & (self._off - 1)) == 0
        return step >= 3 and (step & (step - 1)) == 0

    def _find_schedulers(self) -> None:
        """Find torch's schedulers that hold this optimizer; the optimizer itself does not know them."""
        for one in _schedulers_of(*nested_optimizers(self.optimizer)):
            self._positions.setdefault(id(one), (one, []))

    def _note_positions(self) -> None:
        for one, positions in self._positions.values():
            positions.append(int(getattr(one, "last_epoch", 0)))

    def _check_source(self, rates: tuple[float, ...]) -> None:
        """Note the first step whose rate is not that of any scheduler."""
        if self._foreign is not None or not self._positions:
            return
        if not self._is_set(rates):
            self._find_schedulers()
            if not self._is_set(rates):
                wanted = _last_rates(next(iter(self._positions.values()))[0], rates)
                pairs = enumerate(zip(rates, wanted, strict=False))
                group = next(group for group, (one, other) in pairs if not _are_close([one], [other], 1e-5))
                self._foreign = Foreign(self.start + len(self._rates) - 1, group, rates[group], wanted[group])

    def _is_set(self, rates: tuple[float, ...]) -> bool:
        """Whether a scheduler has set these rates."""
        return any(_are_close(_last_rates(one, rates), rates, 1e-5) for one, _ in self._positions.values())

    def _say(self) -> None:
        for mistake in self.mistakes:
            if mistake.kind not in self._said:
                self._said.add(mistake.kind)
                warnings.warn(mistake.message, ScheduleWarning, stacklevel=3)


def watch(optimizer: Optimizer, plan: Policy | int, *, start: int = 0, at_once: bool = False) -> Seen:
    """A context for a training loop that compares the rates which the optimizer uses with a plan.

    plan: a policy, or just the number of optimizer steps that the loop will take.
    start: the step at which the loop begins; above 0 for a training that is resumed.
    at_once: warn within the loop as soon as a mistake is seen, and not only at its end.

    Enter the context before making the scheduler, so that it also sees whether the scheduler overwrites the rates of
    param groups. At the end there is a `ScheduleWarning` for each mistake.
    Raises ValueError for any other plan, and on entering for an optimizer that does not call hooks.
    """
    steps = getattr(plan, "total_steps", None) if callable(plan) else plan
    if not whole(1).accepts(steps):
        raise ValueError(
            "plan must be a policy, or the number of optimizer steps of the loop, at least 1, got "
            f"{kind_of(plan)}: {plan}"
        )
    if not whole(0).accepts(start):
        raise ValueError(f"start must be a whole number of at least 0, got {start!r}")
    return Seen(optimizer, plan, start, at_once)


def _schedulers_of(*known: Optimizer) -> Iterator[LRScheduler]:
    """All of torch's schedulers that hold one of the optimizers."""
    holders = gc.get_referrers(*known)
    # An object may keep its attributes in a dict; the dict then refers to the optimizer, and the object to the dict.
    attributes = [one for one in holders if type(one) is dict and any(one.get("optimizer") is own for own in known)]
    owners = gc.get_referrers(*attributes) if attributes else []
    yield from (one for one in (*holders, *owners) if issubclass(type(one), LRScheduler))


def _last_rates(scheduler: LRScheduler, otherwise: Sequence[float]) -> list[float]:
    """The rates that a scheduler has set last, of each param group."""
    return [float(rate) for rate in getattr(scheduler, "_last_lr", otherwise)]


def _are_close(rates: Sequence[float], others: Sequence[float], tolerance: float) -> bool:
    return all(
        math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))
        for one, other in zip(rates, others, strict=False)
    )


def _positions_of(scheduler: LRScheduler, positions: Sequence[int]) -> Positions:
    # transformers' schedules are LambdaLRs of partial functions, whose keywords have the number of steps.
    bound = [one.keywords for one in getattr(scheduler, "lr_lambdas", ()) if isinstance(one, partial)]
    ends = [getattr(scheduler, "T_max", None), getattr(getattr(scheduler, "policy", None), "total_steps", None)]
    ends += [scheduler.total_steps if isinstance(scheduler, OneCycleLR) else None]
    ends += [keywords.get("num_training_steps") for keywords in bound]
    return Positions(
        name=type(scheduler).__name__,
        positions=tuple(positions),
        end=next((int(end) for end in ends if end is not None), None),
        swings=isinstance(scheduler, CosineAnnealingLR | LambdaLR),
        leaves_momentum=isinstance(scheduler, OneCycleLR) and not scheduler.cycle_momentum,
    )


def _folded(text: str, width: int = 105) -> str:
    return textwrap.fill(text, width)
