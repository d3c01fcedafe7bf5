"""A check of the schedule in any training loop: `watch` records what an optimizer uses, and says what went wrong."""

import gc
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR
from torch.optim.optimizer import Optimizer

from onecycle_sweeps.policies import Policy
from onecycle_sweeps.scheduler import used, with_hooks
from onecycle_sweeps.validation import kind_of, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
Kind = Literal["per epoch", "several times", "horizon", "bounce", "momentum", "resume", "groups", "rate"]
# Rates are equal within this share of themselves, or of the highest rate: torch's schedules are computed recursively.
RELATIVE, OF_THE_HIGHEST = 2e-6, 1e-6
# A schedule is looked for that runs up to this many times too fast, or up to this many steps ahead or behind.
MOST_TIMES, MOST_SHIFT = 64, 3
# A scheduler that is stepped less often than every 1.5 optimizer steps is stepped per epoch.
SELDOM = 1.5
# A scheduler whose end is that of the loop within this factor counts batches.
SIMILAR = 1.25
# A loop may take this share of its steps less or more: a GradScaler skips the first ones.
SKIPPED = 0.01


class ScheduleWarning(UserWarning):
    """A mistake in the schedule of a training loop."""


@dataclass(frozen=True)
class Mistake:
    """What went wrong with a schedule, in words, and its kind."""

    kind: Kind
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Positions:
    """One of torch's schedulers: its position at each optimizer step and after the last, and the end that it has."""

    name: str
    positions: tuple[int, ...]
    end: int | None
    swings: bool
    leaves_momentum: bool

    @property
    def times(self) -> int:
        """The steps that it takes at an optimizer step at which it moves, by their median; 0 if it never does."""
        moved = [b - a for a, b in pairwise(self.positions) if b > a]
        return int(np.median(moved)) if len(moved) > 1 else len(moved)

    @property
    def taken(self) -> int:
        """The steps that it has taken in all."""
        return max(0, self.positions[-1])


@dataclass(frozen=True)
class Observed:
    """What was seen of a loop.

    `rates` (steps, groups) and `momenta` (steps,) are those of each optimizer step; a momentum is NaN if there is none.
    `first_rates` are those of the groups as the watch began, `scales` their `lr_scale`. `loads` are the steps before
    which a state of the optimizer was loaded. `foreign` is the first step whose rate no scheduler had set, with that
    rate and the scheduler's. `is_over`: the loop has ended by itself.
    """

    rates: Floats
    momenta: Floats
    first_rates: tuple[float, ...]
    scales: tuple[float, ...]
    loads: tuple[int, ...]
    schedulers: tuple[Positions, ...]
    foreign: tuple[int, float, float] | None
    start: int
    is_over: bool

    @property
    def count(self) -> int:
        """The number of optimizer steps."""
        return len(self.rates)

    @property
    def reference(self) -> int:
        """The group whose rate is not scaled, as `scheduler.used` chooses it."""
        return next((group for group, scale in enumerate(self.scales) if scale == 1), 0)


def mistakes(seen: Observed, plan: Policy | int) -> list[Mistake]:
    """What is wrong with the schedule that was seen, at most one of each kind, the most telling first."""
    if not seen.count:
        return [one for one in [_length(seen, _steps_of(plan))] if one is not None]
    checks = [_flattened(seen), _loaded(seen), *_of_schedulers(seen, plan)]
    checks += [_off_policy(seen, plan), _momentum(seen, plan)] if callable(plan) else []
    checks += [_bounce(seen, _steps_of(plan)), _swing(seen), _length(seen, _steps_of(plan))]
    found: dict[Kind, Mistake] = {}
    for mistake in checks:
        if mistake is not None:
            found.setdefault(mistake.kind, mistake)
    # That the rate was not the planned one is no news beside the reason for it.
    if len(found) > 1 and set(found) & {"per epoch", "several times", "horizon", "bounce", "resume", "groups"}:
        found.pop("rate", None)
    return list(found.values())


def _steps_of(plan: Policy | int) -> int:
    return plan.total_steps if callable(plan) else plan


def _close(one: Floats, other: Floats) -> NDArray[np.bool_]:
    highest = max(float(np.max(np.abs(one), initial=0)), float(np.max(np.abs(other), initial=0)))
    return np.isclose(one, other, rtol=RELATIVE, atol=OF_THE_HIGHEST * highest)


def _planned(policy: Policy, steps: Sequence[int]) -> Floats:
    return np.array([policy(step).lr for step in steps])


def _flattened(seen: Observed) -> Mistake | None:
    """Groups that had different rates and get one from some step on."""
    groups = [group for group, scale in enumerate(seen.scales) if scale == 1]
    rates = np.vstack([seen.first_rates, seen.rates])[:, groups]
    if len(groups) < 2:
        return None
    one_rate = np.ptp(rates, axis=1) <= RELATIVE * np.abs(rates).max(axis=1)
    if one_rate[0] or not one_rate[-1]:
        return None
    at = len(one_rate) - int(np.argmin(one_rate[::-1]))
    # Groups whose rates meet at the end of a schedule, as at its lowest rate, stay there.
    if at > 1 and len(set(rates[at:, 0].tolist())) < 2:
        return None
    before = ", ".join(f"{rate:.3g}" for rate in rates[at - 1])
    return Mistake(
        "groups",
        f"the param groups had the rates {before}, and have one from step {at - 1} on, {rates[at, 0]:.3g}: "
        "give the scheduler a rate for each group, or PolicyScheduler groups with the key lr_scale",
    )


def _loaded(seen: Observed) -> Mistake | None:
    """A rate that is not the scheduler's, or the first one again after a state was loaded."""
    if seen.foreign is not None:
        step, rate, wanted = seen.foreign
        return Mistake(
            "resume",
            f"the rate of step {step} was {rate:.4g}, but the scheduler's is {wanted:.4g}: after a resume load the "
            "states of both scheduler and optimizer, and set rates in one place only",
        )
    rates = seen.rates[:, seen.reference]
    for step in (step for step in seen.loads if 1 < step < seen.count):
        begins_anew = _close(rates[step:], rates[: seen.count - step])[:3].all()
        if begins_anew and not _close(rates[step - 1 : step], rates[step : step + 1])[0]:
            return Mistake(
                "resume",
                f"after a state was loaded before step {step} the rate went from {rates[step - 1]:.4g} back to "
                f"that of step 0, {rates[step]:.4g}: load the scheduler's state as well",
            )
    return None


def _of_schedulers(seen: Observed, plan: Policy | int) -> Iterator[Mistake | None]:
    """What the positions of torch's schedulers tell."""
    total, done = _steps_of(plan), seen.start + seen.count
    for one in seen.schedulers:
        if one.times > 1:
            yield Mistake(
                "several times",
                f"{one.name} took {one.times} steps at each optimizer step, and so runs {one.times} times too fast: "
                "step it once after each optimizer step, not for each process or each batch of an accumulated step",
            )
        elif seen.start and one.end is not None and all(other.positions[0] <= 0 for other in seen.schedulers):
            yield Mistake(
                "resume",
                f"the loop resumed at step {seen.start}, but {one.name} began at its step 0: load its state_dict",
            )
        elif one.end is not None and seen.is_over:
            yield _missed(one, done, total)
        if one.leaves_momentum and seen.count > 1 and seen.momenta[0] > 0:
            yield Mistake(
                "momentum",
                f"{one.name} moved the rate, but the momentum stayed {seen.momenta[0]:g}: set cycle_momentum",
            )


def _missed(one: Positions, done: int, total: int) -> Mistake | None:
    """A scheduler that has not come to its end, or went beyond it, though the loop is over."""
    taken, end = one.taken, one.end or 0
    counts_batches = 1 / SIMILAR < end / total < SIMILAR
    if counts_batches and done >= SELDOM * max(taken, 1):
        return Mistake(
            "per epoch",
            f"{one.name} is planned for {end} steps and took {taken} in {done} optimizer steps: step it after each "
            "batch, not after each epoch",
        )
    if taken < end - 1 and done >= total:
        return Mistake(
            "horizon", f"{one.name} took only {taken} of its {end} steps: its horizon must be that of the loop"
        )
    if taken > end:
        back = " and swings back up" if one.swings else ""
        return Mistake(
            "horizon",
            f"{one.name} ends after {end} steps{back}, and took {taken}: its horizon must be that of the loop",
        )
    return None


def _off_policy(seen: Observed, policy: Policy) -> Mistake | None:
    """How the rates differ from the policy's, by the simplest explanation that fits all steps."""
    rates, start = seen.rates[:, seen.reference], seen.start
    end = min(seen.count, max(0, policy.total_steps - start))
    steps = range(start, start + seen.count)
    planned = _planned(policy, steps)
    follows = [bool(_close(seen.rates[:end, group], planned[:end]).all()) for group in range(seen.rates.shape[1])]
    if any(follows):
        return None
    wrong = int(np.argmin(_close(rates, planned)))
    whole = _planned(policy, range(min(policy.total_steps, start + MOST_TIMES * (seen.count + 1))))

    def fits(index: Callable[[int], int], since: int = 0) -> bool:
        """Whether each rate is that of another step of the policy, as far as that has steps."""
        steps = [(step, max(0, index(step))) for step in range(since, seen.count)]
        within = [(step, other) for step, other in steps if other < len(whole)]
        own, others = [step for step, _ in within], [other for _, other in within]
        return len(within) >= min(3, len(steps)) and bool(_close(rates[own], whole[others]).all())

    if wrong and fits(lambda s: s - wrong, wrong):
        return Mistake(
            "resume",
            f"from step {start + wrong} on the schedule began anew, at the rate {rates[wrong]:.4g} where "
            f"{planned[wrong]:.4g} was planned: load the scheduler's state when a training is resumed",
        )
    if start and fits(lambda s: s):
        return Mistake(
            "resume",
            f"the loop resumed at step {start}, but its schedule began at step 0: the rate was {rates[0]:.4g} where "
            f"{planned[0]:.4g} was planned; load the scheduler's state",
        )
    if wrong in seen.loads or (start and wrong == 0):
        return Mistake(
            "resume",
            f"after the resume at step {start + wrong} the rate was {rates[wrong]:.4g}, and {planned[wrong]:.4g} was "
            "planned",
        )
    if len(set(rates.tolist())) == 1:
        return Mistake(
            "per epoch", f"the rate stayed {rates[0]:.4g} at all {seen.count} steps: nothing stepped a schedule"
        )
    for length in _periods(rates):
        if fits(lambda s, length=length: start + s // length):
            return Mistake(
                "per epoch",
                f"the schedule moved only every {length} optimizer steps: step it after each batch, not after each "
                "epoch",
            )
    for times in range(2, MOST_TIMES + 1):
        if fits(lambda s, times=times: start + s * times):
            return Mistake(
                "several times",
                f"the schedule ran {times} times too fast: step it once after each optimizer step, not for each "
                "process or each batch of an accumulated step",
            )
    for shift in (sign * by for by in range(1, MOST_SHIFT + 1) for sign in (1, -1)):
        if fits(lambda s, shift=shift: start + s + shift):
            where = "ahead of" if shift > 0 else "behind"
            why = ": call optimizer.step() before scheduler.step()" if shift == 1 else ""
            return Mistake("rate", f"the schedule is {abs(shift)} steps {where} the plan{why}")
    return Mistake("rate", _first_difference(rates, planned, wrong, start))


def _first_difference(rates: Floats, planned: Floats, wrong: int, start: int) -> str:
    positive = planned > 0
    ratios = rates[positive] / planned[positive]
    if len(ratios) and np.ptp(ratios) <= 1e-4 * abs(ratios[0]):
        return f"the rate was {ratios[0]:.4g} times the planned one at each step"
    return f"the rate of step {start + wrong} was {rates[wrong]:.4g}, and {planned[wrong]:.4g} was planned"


def _periods(rates: Floats) -> list[int]:
    """Numbers of steps, above 1, at whose multiples alone the rate changes."""
    changes = np.flatnonzero(np.diff(rates)) + 1
    common = int(np.gcd.reduce(changes)) if len(changes) else 0
    return [length for length in range(2, common + 1) if common % length == 0]


def _momentum(seen: Observed, policy: Policy) -> Mistake | None:
    planned = [policy(seen.start + step).momentum for step in range(seen.count)]
    wanted = np.array([math.nan if momentum is None else momentum for momentum in planned])
    if np.isnan(wanted).any() or np.ptp(wanted) < 1e-3:
        return None
    span = f"{wanted[0]:.3g} to {wanted.min():.3g}"
    if np.isnan(seen.momenta).any():
        return Mistake("momentum", f"the policy moves the momentum from {span}, and the optimizer has none")
    if np.ptp(seen.momenta) < 1e-6 and len(set(seen.rates[:, seen.reference].tolist())) > 1:
        return Mistake("momentum", f"the momentum stayed {seen.momenta[0]:.3g}, and {span} was planned")
    end = min(seen.count, policy.total_steps - seen.start)
    rates_agree = _close(seen.rates[:end, seen.reference], _planned(policy, range(seen.start, seen.start + end))).all()
    wrong = np.abs(seen.momenta - wanted)[:end] > 1e-5
    if rates_agree and wrong.any():
        at = int(np.argmax(wrong))
        step = seen.start + at
        return Mistake(
            "momentum", f"the momentum of step {step} was {seen.momenta[at]:.4g}, and {wanted[at]:.4g} was planned"
        )
    return None


def _bounce(seen: Observed, total: int) -> Mistake | None:
    """A rate that rises again after the planned end."""
    last = total - seen.start - 1
    after = seen.rates[max(0, last) :, seen.reference]
    if last < 0 or len(after) < 2:
        return None
    highest = seen.rates[:, seen.reference].max()
    risen = after - np.minimum.accumulate(after) > OF_THE_HIGHEST * highest
    if not risen.any():
        return None
    return Mistake(
        "bounce",
        f"after the planned end at step {total} the rate rose again, from {after.min():.3g} to {after.max():.3g}: end "
        "the loop there, or plan for more steps",
    )


def _swing(seen: Observed) -> Mistake | None:
    """A cosine that went beyond its end, in a loop whose schedule is none that is known to rise again on purpose."""
    if any(not one.swings for one in seen.schedulers):
        return None
    rates = seen.rates[:, seen.reference]
    moved = rates[np.flatnonzero(np.diff(rates, prepend=np.nan))]
    lowest = int(np.argmin(moved)) if len(moved) else 0
    rise = moved[lowest : lowest + 1 + int(np.argmax(moved[lowest:]))] if len(moved) else moved
    fall = moved[: lowest + 1]
    if len(rise) < 5 or len(fall) < 5:
        return None
    height = min(np.ptp(rise), np.ptp(fall))
    steps_up, steps_down = np.diff(rise), -np.diff(fall)
    is_round = all(steps[nearest] < 0.5 * steps.max() for steps, nearest in ((steps_up, 0), (steps_down, -1)))
    if height < 0.5 * np.ptp(moved) or not is_round or steps_up.max() > 0.5 * np.ptp(rise):
        return None
    at = int(np.argmin(rates))
    return Mistake(
        "horizon",
        f"the rate fell to {rates[at]:.3g} at step {seen.start + at} and swung back up to {rise[-1]:.3g}: the horizon "
        "of the schedule must be that of the loop",
    )


def _length(seen: Observed, total: int) -> Mistake | None:
    done = seen.start + seen.count
    if not seen.is_over or abs(done - total) <= SKIPPED * total:
        return None
    return Mistake("horizon", f"the loop took {done} optimizer steps, and {total} were planned")


@dataclass
class Seen:
    """What `watch` sees: a context for the loop, and its result.

    `mistakes` can be asked at any time, also within the loop.
    """

    optimizer: Optimizer
    plan: Policy | int
    start: int = 0
    at_once: bool = False
    _rates: list[tuple[float, ...]] = field(default_factory=list, repr=False)
    _momenta: list[float] = field(default_factory=list, repr=False)
    _first_rates: tuple[float, ...] = field(default=(), repr=False)
    _loads: list[int] = field(default_factory=list, repr=False)
    _positions: dict[int, tuple[LRScheduler, list[int]]] = field(default_factory=dict, repr=False)
    _foreign: tuple[int, float, float] | None = field(default=None, repr=False)
    _handles: list[Any] = field(default_factory=list, repr=False)
    _said: set[Kind] = field(default_factory=set, repr=False)
    _off: int = field(default=0, repr=False)
    _is_over: bool = field(default=False, repr=False)

    def __enter__(self) -> Self:
        inner = with_hooks(self.optimizer)
        if inner is None:
            raise ValueError(f"{type(self.optimizer).__name__} calls no hooks, so that its steps cannot be watched")
        self._first_rates = self._rates_in_use()
        self._handles = [
            inner.register_step_pre_hook(lambda *_: self._record()),
            inner.register_load_state_dict_post_hook(lambda _: self._loads.append(len(self._rates))),
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
        """The mistakes seen so far; what only the end can tell is added when the loop has ended without an error."""
        return tuple(mistakes(self.observed, self.plan))

    @property
    def observed(self) -> Observed:
        """All that was seen so far."""
        found = [_positions_of(one, positions) for one, positions in self._positions.values()]
        # One that was left behind by an earlier training has nothing to do with this loop.
        moved = [one for one in found if one.positions and one.positions[0] != one.positions[-1]]
        width = len(self._rates[0]) if self._rates else len(self._first_rates)
        scales = tuple(float(group.get("lr_scale", 1)) for group in self.optimizer.param_groups[:width])
        return Observed(
            rates=np.array([rates[:width] for rates in self._rates]).reshape(-1, width),
            momenta=np.array(self._momenta),
            first_rates=self._first_rates[:width],
            scales=scales,
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
            ax.plot(steps, _planned(self.plan, steps), color=canvas.GREY, linewidth=4, label="planned")
        ax.axvline(_steps_of(self.plan), color=canvas.MUTED, linestyle=":", linewidth=1, label="planned end")
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

    def _record(self) -> None:
        rates = self._rates_in_use()
        hyper = used(self.optimizer)
        if not self._rates:
            self._find_schedulers()
        self._rates.append(rates)
        self._momenta.append(math.nan if hyper.momentum is None else hyper.momentum)
        self._note_positions()
        self._check_source(rates)
        if self.at_once and self._is_time(hyper.lr):
            self._say()

    def _is_time(self, rate: float) -> bool:
        """Whether to look for mistakes in the loop: more and more seldom, because each look takes all steps."""
        step = len(self._rates) - 1
        if callable(self.plan):
            planned = self.plan(self.start + step).lr
            self._off += not math.isclose(rate, planned, rel_tol=1e-4, abs_tol=1e-12)
            if self._off:
                return self._off >= 3 and (self._off & (self._off - 1)) == 0
        return step >= 3 and (step & (step - 1)) == 0

    def _find_schedulers(self) -> None:
        """Find torch's schedulers of this optimizer, which does not know them."""
        for one in _schedulers_of(self.optimizer, with_hooks(self.optimizer)):
            self._positions.setdefault(id(one), (one, []))

    def _note_positions(self) -> None:
        for one, positions in self._positions.values():
            positions.append(int(getattr(one, "last_epoch", 0)))

    def _check_source(self, rates: tuple[float, ...]) -> None:
        """Note the first step whose rate is not that of any scheduler."""
        if self._foreign is not None or not self._positions:
            return
        if not any(self._has_set(one, rates) for one, _ in self._positions.values()):
            self._find_schedulers()
            if not any(self._has_set(one, rates) for one, _ in self._positions.values()):
                last = next(iter(self._positions.values()))[0].get_last_lr()
                self._foreign = (self.start + len(self._rates) - 1, rates[0], float(last[0]))

    @staticmethod
    def _has_set(scheduler: LRScheduler, rates: tuple[float, ...]) -> bool:
        own = [float(rate) for rate in getattr(scheduler, "_last_lr", rates)]
        return all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-12) for a, b in zip(own, rates, strict=False))

    def _say(self) -> None:
        for mistake in self.mistakes:
            if mistake.kind not in self._said:
                self._said.add(mistake.kind)
                warnings.warn(mistake.message, ScheduleWarning, stacklevel=3)


def watch(optimizer: Optimizer, plan: Policy | int, *, start: int = 0, at_once: bool = False) -> Seen:
    """A context for a training loop that compares the rates which the optimizer uses with a plan.

    plan: a policy, or only the number of optimizer steps that the loop is to take.
    start: the step at which the loop begins, for one that is resumed.
    at_once: warn within the loop as soon as a mistake is seen, and not only at its end.

    Open it before the scheduler is made: then it also sees whether that overwrites the rates of param groups. At the
    end each mistake is a `ScheduleWarning`.
    Raises ValueError for a plan that is neither, and, when it is entered, for an optimizer that calls no hooks.
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


def _schedulers_of(*optimizers: Optimizer | None) -> Iterator[LRScheduler]:
    """All of torch's schedulers that hold one of the optimizers."""
    known = [optimizer for optimizer in optimizers if optimizer is not None]
    holders = gc.get_referrers(*known)
    # An object's attributes may be in a dict, which then holds the optimizer in the place of the object.
    attributes = [one for one in holders if type(one) is dict and any(one.get("optimizer") is own for own in known)]
    owners = gc.get_referrers(*attributes) if attributes else []
    yield from (one for one in (*holders, *owners) if issubclass(type(one), LRScheduler))


def _positions_of(scheduler: LRScheduler, positions: Sequence[int]) -> Positions:
    # Of transformers' schedules, which bind their settings, those by the cosine swing.
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
