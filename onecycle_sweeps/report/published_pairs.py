"""What a preset's source says of one row over another, beside what came of the two here."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from onecycle_sweeps.published import Pair
from onecycle_sweeps.report.outcomes import Outcome
from onecycle_sweeps.report.verdicts import (
    NOT_COMPARABLE,
    NOT_REPRODUCED,
    OPEN,
    PublishedRow,
    met,
    over,
    percent,
    unfinished,
)
from onecycle_sweeps.state import DIVERGED

Members = Sequence[Outcome]


@dataclass(frozen=True)
class Found:
    """By how much a row is ahead here, None while that is not known; `bound`: by so much at least."""

    value: float | None
    words: str
    bound: bool = False


def compare_pair(pair: Pair, row: Members, other: Members, reasons: tuple[str, ...]) -> PublishedRow:
    """The claim about two rows, which `reasons` make not comparable if there are any."""
    found = _gain(row, other) if pair.gain is not None else _speed_up(row, other)
    diverged = sum(o.status == DIVERGED for o in row)
    wanted = pair.gain if pair.gain is not None else pair.speed_up or 1.0
    verdict = met(found.value, wanted, pair.tolerance, order=pair.order_alone, bound=found.bound)
    left = unfinished([*row, *other])
    if reasons:
        verdict = NOT_COMPARABLE
    elif left:
        verdict = OPEN
    elif diverged:
        verdict = NOT_REPRODUCED
    short = [f"{diverged} of {len(row)} seeds of {pair.row} diverged"] if diverged else []
    behind = (*reasons, *short, *left)
    return PublishedRow(f"{pair.row} over {pair.over}", pair.what, _claimed(pair), found.words, verdict, behind)


def _claimed(pair: Pair) -> str:
    if pair.gain is not None:
        return "at least as accurate" if pair.order_alone else f"{100 * pair.gain:+.2f} points"
    return "no later at the target" if pair.order_alone else f"{pair.speed_up:g} times fewer steps to the target"


def _gain(row: Members, other: Members) -> Found:
    ours, theirs = (over(members, lambda o: o.metrics.get("final/val_accuracy")) for members in (row, other))
    if ours is None or theirs is None:
        return Found(None, "no accuracy of both yet")
    gain = ours.mean - theirs.mean
    return Found(gain, f"{100 * gain:+.2f} points ({percent(ours)} against {percent(theirs)})")


def _speed_up(row: Members, other: Members) -> Found:
    """How many times fewer steps; seeds of `other` that never reached the target count with their whole run."""
    ours, theirs = ([o for o in members if o.finished] for members in (row, other))
    taken = [steps for o in ours if (steps := o.steps_to_target) is not None]
    needed = [o.steps_to_target or o.result.get("steps", 0) for o in theirs]
    late = sum(o.steps_to_target is None for o in theirs)
    if not ours or not theirs:
        return Found(None, "no steps of both yet")
    if len(taken) < len(ours):
        return Found(0.0, f"{len(ours) - len(taken)} of {len(ours)} seeds never reached the target")
    factor = fmean(needed) / fmean(taken)
    least = f"at least {factor:.1f}" if late else f"{factor:.1f}"
    never = f", {late} of {len(theirs)} seeds never got there" if late else ""
    words = f"{least} times fewer steps ({fmean(taken):.0f} against {fmean(needed):.0f}{never})"
    return Found(factor, words, late > 0)
