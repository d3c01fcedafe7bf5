"""What is wrong with the schedule of a training loop, by the rates and momenta that its optimizer used.

`mistakes` looks at what `watching` has recorded. It knows no optimizer, so its rules can be read and tested by numbers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onecycle_sweeps.policies import Policy

Floats = NDArray[np.float64]
Kind = Literal["per epoch", "several times", "horizon", "bounce", "momentum", "resume", "groups", "rate"]
# Two rates are equal if they differ by at most this share of themselves, or of the highest rate: torch computes its
# schedules recursively, with rounding errors.
RELATIVE, OF_THE_HIGHEST = 2e-6, 1e-6
# How many times too fast, and how many steps ahead or behind, a schedule may run for the mistake to be recognised.
MOST_TIMES, MOST_SHIFT = 64, 3
# A scheduler that is stepped less often than every 1.5 optimizer steps is stepped per epoch.
SELDOM = 1.5
# A scheduler counts batches if its length and that of the loop differ by less than this factor.
SIMILAR = 1.25
# A loop may take this share of its steps fewer or more than planned: a GradScaler skips the first ones.
SKIPPED = 0.01


@dataclass(frozen=True)
class Mistake:
    """What went wrong with a schedule, in words, and its kind."""

    kind: Kind
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Positions:
    """One of torch's schedulers: its position at each optimizer step and after the last one, and the step it ends at.

    swings: whether its rate rises again beyond its end, as a cosine does.
    leaves_momentum: whether it is a one-cycle schedule that does not cycle the momentum.
    """

    name: str
    positions: tuple[int, ...]
    end: int | None
    swings: bool
    leaves_momentum: bool

    @property
    def times(self) -> int:
        """How many steps it takes at each optimizer step at which it moves (the median); 0 if it never moves."""
        moved = [b - a for a, b in pairwise(self.positions) if b > a]
        return int(np.median(moved)) if len(moved) > 1 else len(moved)

    @property
    def taken(self) -> int:
        """How many steps it has taken altogether."""
        return max(0, self.positions[-1])


@dataclass(frozen=True)
class Foreign:
    """A step of a param group whose rate no scheduler had set, with that rate and the scheduler's."""

    step: int
    group: int
    rate: float
    wanted: float


@dataclass(frozen=True)
class Observed:
    """What was seen of a loop.

    rates, momenta: of each optimizer step and param group, (steps, groups); a momentum is NaN if the group has none.
    first_rates: the rate of each group when the watch began.
    scales: the `lr_scale` of each group.
    reference: the group that stands for all of them, unscaled if there is one.
    loads: the steps before which a state of the optimizer was loaded.
    foreign: the first rate that no scheduler had set.
    is_over: whether the loop has ended without an error.
    """

    rates: Floats
    momenta: Floats
    first_rates: tuple[float, ...]
    scales: tuple[float, ...]
    reference: int
    loads: tuple[int, ...]
    schedulers: tuple[Positions, ...]
    foreign: Foreign | None
    start: int
    is_over: bool

    @property
    def count(self) -> int:
        """The number of optimizer steps."""
        return len(self.rates)

    def of_group(self, group: int) -> str:
        """Which group a message is about; nothing where there is only one."""
        if len(self.scales) == 1:
            return ""
        scale = self.scales[group]
        return f" of param group {group}" + (f", which has lr_scale {scale:g}," if scale != 1 else "")


def mistakes(seen: Observed, plan: Policy | int) -> list[Mistake]:
    """What is wrong with the schedule that was seen, at most one of each kind, the most telling first."""
    if not seen.count:
        return [one for one in [_length(seen, steps_of(plan))] if one is not None]
    checks = [_unusable(seen), _flattened(seen), _loaded(seen), *_of_schedulers(seen, plan)]
    checks += [_off_policy(seen, plan), _momentum(seen, plan)] if callable(plan) else []
    checks += [_bounce(seen, steps_of(plan)), _swing(seen), _length(seen, steps_of(plan))]
    found: dict[Kind, Mistake] = {}
    for mistake in checks:
        if mistake is not None:
            found.setdefault(mistake.kind, mistake)
    # The other mistakes explain why the rate was not the planned one.
    if len(found) > 1 and set(found) & {"per epoch", "several times", "horizon", "bounce", "resume", "groups"}:
        found.pop("rate", None)
    return list(found.values())


def steps_of(plan: Policy | int) -> int:
    return plan.total_steps if callable(plan) else plan


def _close(one: Floats, other: Floats) -> NDArray[np.bool_]:
    highest = max(float(np.max(np.abs(one), initial=0)), float(np.max(np.abs(other), initial=0)))
    return np.isclose(one, other, rtol=RELATIVE, atol=OF_THE_HIGHEST * highest)


def planned_rates(policy: Policy, steps: Sequence[int]) -> Floats:
    return np.array([policy(step).lr for step in steps])


def _unusable(seen: Observed) -> Mistake | None:
    """A rate that is negative or not a number."""
    highest = float(np.max(np.abs(seen.rates), initial=0, where=np.isfinite(seen.rates)))
    wrong = ~(np.isfinite(seen.rates) & (seen.rates >= -OF_THE_HIGHEST * highest))
    if not wrong.any():
        return None
    step, group = (int(index) for index in np.argwhere(wrong)[0])
    return Mistake(
        "rate",
        f"the rate{seen.of_group(group)} at step {seen.start + step} was {seen.rates[step, group]:.4g}, with which "
        "torch trains on: a rate must be a finite number of at least 0",
    )


def _flattened(seen: Observed) -> Mistake | None:
    """Groups that had different rates, and have had the same one since some step."""
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
    before = ", ".join(_apart(*rates[at - 1], digits=3))
    return Mistake(
        "groups",
        f"the param groups had the rates {before}, and have one from step {at - 1} on, {rates[at, 0]:.3g}: "
        "give the scheduler a rate for each group, or PolicyScheduler groups with the key lr_scale",
    )


def _loaded(seen: Observed) -> Mistake | None:
    """A rate that is not the scheduler's, or a schedule that begins again after a state was loaded."""
    if seen.foreign is not None:
        rate, wanted = _apart(seen.foreign.rate, seen.foreign.wanted)
        return Mistake(
            "resume",
            f"the rate{seen.of_group(seen.foreign.group)} at step {seen.foreign.step} was {rate}, but the scheduler's "
            f"is {wanted}: after a resume load the states of both scheduler and optimizer, and set rates in one place "
            "only",
        )
    rates = seen.rates[:, seen.reference]
    for step in (step for step in seen.loads if 1 < step < seen.count):
        begins_anew = _close(rates[step:], rates[: seen.count - step])[:3].all()
        if begins_anew and not _close(rates[step - 1 : step], rates[step : step + 1])[0]:
            before, after = _apart(rates[step - 1], rates[step])
            return Mistake(
                "resume",
                f"after a state was loaded before step {step} the rate went from {before} back to that of step 0, "
                f"{after}: load the scheduler's state as well",
            )
    return None


def _of_schedulers(seen: Observed, plan: Policy | int) -> Iterator[Mistake | None]:
    """Mistakes that show in the positions of torch's schedulers."""
    total, done = steps_of(plan), seen.start + seen.count
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
        momentum = seen.momenta[0, seen.reference]
        if one.leaves_momentum and seen.count > 1 and momentum > 0:
            yield Mistake(
                "momentum", f"{one.name} moved the rate, but the momentum stayed {momentum:g}: set cycle_momentum"
            )


def _missed(one: Positions, done: int, total: int) -> Mistake | None:
    """A scheduler that has not reached its end, or has gone beyond it, when the loop is over."""
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
            "horizon", f"{one.name} took only {taken} of its {end} steps: plan it for as many as the loop has"
        )
    if taken > end:
        back = " and swings back up" if one.swings else ""
        return Mistake(
            "horizon",
            f"{one.name} ends after {end} steps{back}, but took {taken}: plan it for as many as the loop has",
        )
    return None


def _off_policy(seen: Observed, policy: Policy) -> Mistake | None:
    """How a group's rates differ from the policy's times its scale."""
    planned = planned_rates(policy, range(seen.start, seen.start + seen.count))
    end = min(seen.count, max(0, policy.total_steps - seen.start))
    wrong = _wrong_groups(seen.rates[:end], seen.scales, planned[:end])
    if not wrong:
        return None
    if len(wrong) < len(seen.scales):
        group = wrong[0]
        rates, wanted = seen.rates[:, group], seen.scales[group] * planned
        return Mistake("rate", _first_difference(rates, wanted, seen.start, seen.of_group(group)))
    return _explained(seen, policy, planned)


def _wrong_groups(rates: Floats, scales: Sequence[float], planned: Floats) -> list[int]:
    """The groups that do not follow the plan times their scale.

    Where an unscaled group follows the plan itself, another one may be a constant multiple of it, as a scheduler makes
    it that was given a rate for each group.
    """

    def follows(group: int, scale: float) -> bool:
        return bool(_close(rates[:, group], scale * planned).all())

    wrong = [group for group, scale in enumerate(scales) if not follows(group, scale)]
    if not any(scale == 1 and group not in wrong for group, scale in enumerate(scales)):
        return wrong
    highest = int(np.argmax(planned))
    ratios = rates[highest] / (planned[highest] or 1)
    return [group for group in wrong if scales[group] != 1 or not follows(group, ratios[group])]


def _explained(seen: Observed, policy: Policy, planned_of_all: Floats) -> Mistake:
    """How the rates of all groups differ from the policy's, by the simplest explanation that fits all steps."""
    rates, start, scale = seen.rates[:, seen.reference], seen.start, seen.scales[seen.reference]
    planned = scale * planned_of_all
    wrong = int(np.argmin(_close(rates, planned)))
    whole = scale * planned_rates(policy, range(min(policy.total_steps, start + MOST_TIMES * (seen.count + 1))))
    are_alike = all(_close(scale * seen.rates[:, g], own * rates).all() for g, own in enumerate(seen.scales))
    of_group = "" if are_alike else seen.of_group(seen.reference)
    found, wanted = _apart(rates[wrong], planned[wrong])

    def fits(index: Callable[[int], int], since: int = 0) -> bool:
        """Whether the rate of each step is the policy's at `index(step)`; steps beyond its end are left out.

        The first step whose rate is not the planned one must be among them.
        """
        steps = [(step, max(0, index(step))) for step in range(since, seen.count)]
        within = [(step, other) for step, other in steps if other < len(whole)]
        own, others = [step for step, _ in within], [other for _, other in within]
        return wrong in own and len(within) >= min(3, len(steps)) and bool(_close(rates[own], whole[others]).all())

    if wrong and fits(lambda s: s - wrong, wrong):
        return Mistake(
            "resume",
            f"from step {start + wrong} on the schedule began anew, at the rate {found} where {wanted} was planned: "
            "load the scheduler's state when a training is resumed",
        )
    if start and fits(lambda s: s):
        return Mistake(
            "resume",
            f"the loop resumed at step {start}, but its schedule began at step 0: at step {start + wrong} the rate was "
            f"{found} where {wanted} was planned; load the scheduler's state",
        )
    if wrong in seen.loads or (start and wrong == 0):
        return Mistake(
            "resume",
            f"after the resume at step {start + wrong} the rate{of_group} was {found}, and {wanted} was planned",
        )
    if len(set(rates.tolist())) == 1 and len(set(planned.tolist())) > 1:
        return Mistake(
            "per epoch",
            f"the rate{of_group} stayed {rates[0]:.4g} at all {seen.count} steps: nothing stepped a schedule",
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
    return Mistake("rate", _first_difference(rates, planned, start, of_group))


def _first_difference(rates: Floats, planned: Floats, start: int, of_group: str) -> str:
    """What to say of rates that are not the planned ones: their ratio if it is constant, or the first difference."""
    positive = planned > 0
    ratios = rates[positive] / planned[positive]
    if len(ratios) and ratios[0] != 1 and np.ptp(ratios) <= min(1e-4 * abs(ratios[0]), 0.1 * abs(ratios[0] - 1)):
        return f"the rate{of_group} was {_apart(ratios[0], 1)[0]} times the planned one at each step"
    wrong = int(np.argmin(_close(rates, planned)))
    found, wanted = _apart(rates[wrong], planned[wrong])
    return f"the rate{of_group} at step {start + wrong} was {found}, and {wanted} was planned"


def _apart(*numbers: float, digits: int = 4) -> list[str]:
    """The numbers as text, with as many digits as it takes for those that differ to look different."""
    texts = [f"{number:.{digits}g}" for number in numbers]
    # 17 digits tell any two numbers apart.
    if digits == 17 or len(set(texts)) == len(set(numbers)):
        return texts
    return _apart(*numbers, digits=digits + 1)


def _periods(rates: Floats) -> list[int]:
    """The lengths above 1 such that the rate changes only at multiples of the length."""
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
    stays = np.ptp(seen.momenta, axis=0) < 1e-6
    if stays.any() and len(set(seen.rates[:, seen.reference].tolist())) > 1:
        group = int(np.argmax(stays))
        own, of_group = seen.momenta[0, group], "" if stays.all() else seen.of_group(group)
        return Mistake("momentum", f"the momentum{of_group} stayed {own:.3g}, and {span} was planned")
    end = min(seen.count, policy.total_steps - seen.start)
    planned_lrs = seen.scales[seen.reference] * planned_rates(policy, range(seen.start, seen.start + end))
    rates_agree = _close(seen.rates[:end, seen.reference], planned_lrs).all()
    wrong = np.abs(seen.momenta - wanted[:, None])[:end] > 1e-5
    if rates_agree and wrong.any():
        at, group = (int(index) for index in np.argwhere(wrong)[0])
        of_group = "" if wrong[at].all() else seen.of_group(group)
        found, right = _apart(seen.momenta[at, group], wanted[at])
        return Mistake(
            "momentum", f"the momentum{of_group} at step {seen.start + at} was {found}, and {right} was planned"
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
    lowest, top = _apart(after.min(), after.max(), digits=3)
    return Mistake(
        "bounce",
        f"after the planned end at step {total} the rate rose again, from {lowest} to {top}: end the loop there, or "
        "plan for more steps",
    )


def _swing(seen: Observed) -> Mistake | None:
    """A cosine that went beyond its end, unless a scheduler is known whose rate rises again on purpose."""
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
        f"the rate fell to {rates[at]:.3g} at step {seen.start + at} and swung back up to {rise[-1]:.3g}: plan the "
        "schedule for as many steps as the loop has",
    )


def _length(seen: Observed, total: int) -> Mistake | None:
    done = seen.start + seen.count
    if not seen.is_over or abs(done - total) <= SKIPPED * total:
        return None
    return Mistake("horizon", f"the loop took {done} optimizer steps, and {total} were planned")
