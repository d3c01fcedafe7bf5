"""Warnings about a training's results, from its record; they change no result."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from onecycle_sweeps import journal
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.policies import Policy

# The train value is above chance from this share of the distance from chance to 1 on.
LEARNED = 0.25
# The val value is near chance up to this share of the train value's distance from chance.
NEAR = 0.2
# Fewer equal values in a row may be a coincidence.
IN_A_ROW = 3


class Evaluated(NamedTuple):
    """An evaluation: the 0-based step before it, the train value since the previous evaluation, and the val value."""

    step: int
    train: float
    val: float


def doubts(record: journal.Record, headline: Measure, chance: float | None, normed: bool) -> list[str]:
    """Warnings about a finished training's headline values; only fractions that are measured in training have rules.

    `chance` is the value of the best constant prediction, `normed` whether the net has batch norms.
    """
    if not headline.is_fraction or headline.goal == "min":
        return []
    steps, trained = record.series(headline.train)
    if not steps:
        return []
    evaluations = [Evaluated(*one) for one in zip(steps, trained, record.series(headline.val)[1], strict=True)]
    near = _near_chance(evaluations, headline.name, chance, normed) if chance is not None else []
    return [*near, *_equal(evaluations, headline.name)]


def _near_chance(evaluations: Sequence[Evaluated], name: str, chance: float, normed: bool) -> list[str]:
    near = [
        one
        for one in evaluations
        if one.train - chance >= LEARNED * (1 - chance) and one.val - chance <= NEAR * (one.train - chance)
    ]
    if not near:
        return []
    last = near[-1]
    advice = (
        "the running statistics of batch norms may lag behind the weights: try bn_recalibrate=true"
        if normed
        else "check that labels and inputs of both parts are prepared in the same way"
    )
    return [
        f"at {len(near)} of {len(evaluations)} evaluations, last after step {last.step}, val {name} is near chance "
        f"({last.val:.3f}, chance {chance:.3f}) while train {name} is {last.train:.3f}: {advice}"
    ]


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
