"""Warnings about a training's results, from its record; they change no result."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from onecycle_sweeps import journal
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.policies import CLR, Policy, Step

# The train value is above chance from this share of the distance from chance to 1 on.
LEARNED = 0.25
# The val value is near chance up to this share of the train value's distance from chance.
NEAR = 0.2
# A running mean is hardly trained if it has at least this share of the weights of the first step.
UNTRAINED = 0.5
# Fewer equal values in a row may be a coincidence.
IN_A_ROW = 3


class Evaluated(NamedTuple):
    """An evaluation: the 0-based step before it, the train value since the previous evaluation, and the val value."""

    step: int
    train: float
    val: float


def doubts(
    record: journal.Record,
    headline: Measure,
    chance: float | None,
    normed: bool,
    train_chance: Callable[[], float | None] = lambda: None,
    ema_decay: float | None = None,
) -> list[str]:
    """Warnings about a finished training's headline values; only fractions that are measured in training have rules.

    `chance` is the value of the best constant prediction on the validation part, and `train_chance` computes that on
    the training part, which may have to be read for it; `normed` says whether the net has batch norms, and `ema_decay`
    is that of the running mean of the weights, if this is what is evaluated.
    """
    if not headline.is_fraction or headline.goal == "min":
        return []
    steps, trained = record.series(headline.train)
    if not steps:
        return []
    evaluations = [Evaluated(*one) for one in zip(steps, trained, record.series(headline.val)[1], strict=True)]
    near = [] if chance is None else _near_chance(evaluations, chance, train_chance)
    found: list[str] = []
    if near:
        last, name = near[-1], headline.name
        found = [
            f"at {len(near)} of {len(evaluations)} evaluations, last after step {last.step}, val {name} is near chance "
            f"({last.val:.3f}, chance {chance:.3f}) while train {name} is {last.train:.3f}: "
            f"{_advice(last.step, normed, ema_decay)}"
        ]
    return [*found, *_equal(evaluations, headline.name)]


def _near_chance(
    evaluations: Sequence[Evaluated], chance: float, train_chance: Callable[[], float | None]
) -> list[Evaluated]:
    """The evaluations near chance; the training part is only asked for its chance if by that of val there are any."""
    near = [one for one in evaluations if _is_near(one, chance, chance)]
    of_train = train_chance() if near else None
    return near if of_train is None else [one for one in near if _is_near(one, chance, of_train)]


def _is_near(one: Evaluated, chance: float, train_chance: float) -> bool:
    """Whether the val value is near its chance while the train value is far above its own."""
    learned = one.train - train_chance
    return learned >= LEARNED * (1 - train_chance) and learned > 0 and one.val - chance <= NEAR * learned


def _advice(step: int, normed: bool, ema_decay: float | None) -> str:
    # The mean begins with the weights after the first step, and each further step leaves `ema_decay` of what was there.
    if ema_decay is not None and (first := ema_decay**step) >= UNTRAINED:
        return (
            f"what is evaluated is the running mean of the weights, of which with ema_decay={ema_decay:g} the first of "
            f"{step + 1} steps still makes up {100 * first:.1f} %: a lower ema_decay or more steps leave it behind"
        )
    if normed:
        return "the running statistics of batch norms may lag behind the weights: try bn_recalibrate=true"
    return "check that labels and inputs of both parts are prepared in the same way"


def _equal(evaluations: Sequence[Evaluated], name: str) -> list[str]:
    """A warning if train and val values were equal several times in a row, unless both were 1.000."""
    runs = [list(run) for same, run in groupby(evaluations, _are_equal) if same]
    longest = max(runs, key=len, default=[])
    if len(longest) < IN_A_ROW:
        return []
    last = longest[-1]
    return [
        f"train and val {name} are equal to three decimals at {len(longest)} evaluations in a row ({last.val:.3f} "
        f"after step {last.step}): check that the parts have different data and that the predictions are not constant"
    ]


def _are_equal(evaluated: Evaluated) -> bool:
    return round(evaluated.train, 3) == round(evaluated.val, 3) < 1


def cut_short(policy: Policy) -> list[str]:
    """A warning about a schedule of a longer recipe: a first rise or drop that lies beyond the end of the training."""
    last = policy.total_steps - 1
    if isinstance(policy, CLR) and (rise := policy.step_sizes()[0]) > last:
        share = max(policy(step).lr for step in range(last + 1)) / policy.max_lr
        return [
            f"policy=clr came to {100 * share:.2g} % of max_lr={policy.max_lr:.3g} at most: its first rise takes "
            f"{rise} steps, and the training has {last + 1}"
        ]
    if not isinstance(policy, Step) or policy.gamma == 1 or policy(last).lr < policy(0).lr:
        return []
    first = policy.step_size * policy.steps_per_epoch if policy.step_size else policy.drops()[0]
    return [
        f"policy=step was the same as policy=constant: its first drop is due at step {first}, and the training has "
        f"{last + 1}"
    ]


def off_plan(record: journal.Record, policy: Policy, momentum: float | None, count: int) -> list[str]:
    """A warning about the first of `count` steps whose recorded rate or momentum is not the policy's."""
    plan = [policy(step) for step in range(count)]
    planned = {journal.LR: [hyper.lr for hyper in plan]}
    if momentum is not None:
        planned[journal.MOMENTUM] = [momentum if hyper.momentum is None else hyper.momentum for hyper in plan]
    for name, values in planned.items():
        taken, recorded = record.series(name)
        if taken != list(range(count)):
            return [f"{name} was not recorded at each of {count} steps"]
        for step, (wanted, found) in enumerate(zip(values, recorded, strict=True)):
            # The scales of param groups leave rounding errors.
            if not math.isclose(wanted, found, rel_tol=1e-12):
                return [f"{name} at step {step} was {found}, but the policy has {wanted}"]
    return []
