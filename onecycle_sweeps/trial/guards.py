"""What makes a training's accuracies doubtful, seen in its record: warnings, which change no number."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from onecycle_sweeps import journal
from onecycle_sweeps.images import Split
from onecycle_sweeps.policies import Policy

# Of the way from chance to certainty that training accuracy must have come for it to be high ...
LEARNED = 0.25
# ... and of training's way that val accuracy must have come not to be near chance.
NEAR = 0.2
# Once or twice in a row they may agree by accident.
IN_A_ROW = 3


class Seen(NamedTuple):
    """An evaluation: the 0-based step it followed, the train accuracy since the one before, and the val accuracy."""

    step: int
    train: float
    val: float


def doubts(record: journal.Record, chance: float, normed: bool) -> list[str]:
    """The warnings that a finished training's accuracies call for.

    `chance` is the accuracy of always naming the most frequent class, `normed` whether the net has batch norms.
    """
    steps, learned = record.series(journal.TRAIN_ACCURACY)
    evaluations = [Seen(*one) for one in zip(steps, learned, record.series(journal.VAL_ACCURACY)[1], strict=True)]
    return [*_near_chance(evaluations, chance, normed), *_equal(evaluations)]


def chance(split: Split) -> float:
    """The share of a split's most frequent class."""
    return split.labels.index_select(0, split.index).bincount().max().item() / len(split)


def _near_chance(evaluations: Sequence[Seen], chance: float, normed: bool) -> list[str]:
    near = [
        seen
        for seen in evaluations
        if seen.train - chance >= LEARNED * (1 - chance) and seen.val - chance <= NEAR * (seen.train - chance)
    ]
    if not near:
        return []
    last = near[-1]
    advice = (
        "the batch norms' running statistics may lag behind the weights: bn_recalibrate=true tells"
        if normed
        else "are the labels and the images of both parts made alike?"
    )
    return [
        f"at {len(near)} of {len(evaluations)} evaluations, last after step {last.step}, val accuracy {last.val:.3f} "
        f"is near chance ({chance:.3f}) beside a train accuracy of {last.train:.3f}: {advice}"
    ]


def _equal(evaluations: Sequence[Seen]) -> list[str]:
    """Accuracies that are both 1.000 may well be equal."""
    runs = [list(run) for same, run in groupby(evaluations, _are_equal) if same]
    longest = max(runs, key=len, default=[])
    if len(longest) < IN_A_ROW:
        return []
    last = longest[-1]
    return [
        f"train and val accuracy are equal to three decimals at {len(longest)} evaluations in a row ({last.val:.3f} "
        f"after step {last.step}): is the same data in both parts, or does the net always answer alike?"
    ]


def _are_equal(seen: Seen) -> bool:
    return round(seen.train, 3) == round(seen.val, 3) < 1


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
        for step, (asked, was) in enumerate(zip(values, recorded, strict=True)):
            if asked != was:
                return [f"{name} at step {step} was {was}, where the policy plans {asked}"]
    return []
