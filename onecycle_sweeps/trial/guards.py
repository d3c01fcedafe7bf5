"""Warnings about a training's results, derived from its record; they change no number."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from onecycle_sweeps import journal
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.policies import Policy

# The train value has left chance once it has covered this share of the way from chance to 1 ...
LEARNED = 0.25
# ... and the val value is near chance if it has covered at most this share of the train value's way.
NEAR = 0.2
# Fewer equal values in a row may be coincidence.
IN_A_ROW = 3


class Evaluated(NamedTuple):
    """An evaluation: the 0-based step it followed, the train value since the one before, and the val value."""

    step: int
    train: float
    val: float


def doubts(record: journal.Record, headline: Measure, chance: float | None, normed: bool) -> list[str]:
    """The warnings that a finished training's headline values call for; there are rules for fractions alone.

    `chance` is the value of always giving the same answer, `normed` whether the net has batch norms.
    """
    if not headline.is_fraction or headline.goal == "min":
        return []
    steps, trained = record.series(headline.train)
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
        "the batch norms' running statistics may lag behind the weights: try bn_recalibrate=true"
        if normed
        else "were the labels and the inputs of both parts made in the same way?"
    )
    return [
        f"at {len(near)} of {len(evaluations)} evaluations, last after step {last.step}, val {name} {last.val:.3f} "
        f"is near chance ({chance:.3f}) beside a train {name} of {last.train:.3f}: {advice}"
    ]


def _equal(evaluations: Sequence[Evaluated], name: str) -> list[str]:
    """A warning if train and val were equal too often in a row; both being 1.000 is no reason for doubt."""
    runs = [list(run) for same, run in groupby(evaluations, _are_equal) if same]
    longest = max(runs, key=len, default=[])
    if len(longest) < IN_A_ROW:
        return []
    last = longest[-1]
    return [
        f"train and val {name} are equal to three decimals at {len(longest)} evaluations in a row ({last.val:.3f} "
        f"after step {last.step}): is the same data in both parts, or does the net always give the same answer?"
    ]


def _are_equal(evaluated: Evaluated) -> bool:
    return round(evaluated.train, 3) == round(evaluated.val, 3) < 1


def off_plan(record: journal.Record, policy: Policy, momentum: float | None, count: int) -> list[str]:
    """A warning for the first of `count` steps whose recorded rate or momentum is not the policy's."""
    plan = [policy(step) for step in range(count)]
    planned = {journal.LR: [hyper.lr for hyper in plan]}
    if momentum is not None:
        planned[journal.MOMENTUM] = [momentum if hyper.momentum is None else hyper.momentum for hyper in plan]
    for name, values in planned.items():
        taken, recorded = record.series(name)
        if taken != list(range(count)):
            return [f"{name} was not recorded at each of {count} steps"]
        for step, (wanted, was) in enumerate(zip(values, recorded, strict=True)):
            if wanted != was:
                return [f"{name} at step {step} was {was}, where the policy plans {wanted}"]
    return []
