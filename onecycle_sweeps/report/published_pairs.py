"""What a preset's source says of one row over another, beside what came of the two here."""

from collections.abc import Sequence
from dataclasses import dataclass

from onecycle_sweeps.config.preset import Pair
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.claims import VAL, Claim
from onecycle_sweeps.report.groups import Family
from onecycle_sweeps.report.pairing import BUDGET, Pairing
from onecycle_sweeps.report.sentences import p_value, signed, speed
from onecycle_sweeps.report.statistics import LEVEL
from onecycle_sweeps.report.verdicts import (
    AGREES,
    EXCEEDED,
    NOT_COMPARABLE,
    NOT_REPRODUCED,
    OPEN,
    REPRODUCED,
    PublishedRow,
    met,
    over,
    percent,
    unfinished,
)
from onecycle_sweeps.trial_folder import DIVERGED

Members = Sequence[Outcome]


@dataclass(frozen=True)
class Found:
    """By how much a row is ahead here, None while that is not known; `bound`: by so much at least.

    `doubt` says why the direction alone is not sure, None where it is.
    """

    value: float | None
    words: str
    doubt: str | None = None
    bound: bool = False


def compare_pair(
    pair: Pair, row: Members, other: Members, reasons: tuple[str, ...], claims: Sequence[Claim]
) -> PublishedRow:
    """What was published of two rows, which `reasons` make not comparable if there are any.

    It counts as reproduced where it is significant too: a gain where the sweep's claim about the two rows is, and a
    speed-up where its interval lies above 1.
    """
    claim = next((one for one in claims if {one.name, one.baseline} == {pair.row, pair.over}), None)
    pairing = Pairing(_family(pair.row, row), _family(pair.over, other))
    found = _gain(pairing, claim) if pair.gain is not None else _speed_up(pairing)
    unlike = {key: values for key, values in pairing.unlike().items() if key != BUDGET}
    reasons = (*reasons, *(f"{key}: {ours} against {theirs}" for key, (ours, theirs) in unlike.items()))
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
    elif found.doubt and verdict in (REPRODUCED, EXCEEDED):
        verdict = AGREES
    doubts = (found.doubt,) if found.doubt and verdict == AGREES else ()
    short = [f"{diverged} of {len(row)} seeds of {pair.row} diverged"] if diverged else []
    behind = (*reasons, *doubts, *short, *left, *pairing.at_chance())
    return PublishedRow(f"{pair.row} over {pair.over}", pair.what, _claimed(pair), found.words, verdict, behind)


def _family(name: str, members: Members) -> Family:
    return Family(name, (), {(): members}, ())


def _claimed(pair: Pair) -> str:
    if pair.gain is not None:
        return "at least as accurate" if pair.order_alone else f"{100 * pair.gain:+.2f} points"
    return "no later at the target" if pair.order_alone else f"{pair.speed_up:g} times fewer steps to the target"


def _gain(pairing: Pairing, claim: Claim | None) -> Found:
    """The mean of the differences by seed, as the sweep's claims have it."""
    difference = pairing.difference(VAL)
    ours, theirs = (over(side.members, lambda o: o.metrics.get(VAL)) for side in (pairing.family, pairing.baseline))
    if difference is None or ours is None or theirs is None:
        return Found(None, "no seed has finished in both yet")
    words = f"{signed(difference.mean)} points ({percent(ours)} against {percent(theirs)})"
    p = claim.p_adjusted if claim else None
    if p is None:
        return Found(difference.mean, words, "nothing can be claimed of the difference")
    return Found(difference.mean, words, f"p={p_value(p)}" if p >= LEVEL else None)


def _speed_up(pairing: Pairing) -> Found:
    """How many times fewer steps, as the sweep's claims have it."""
    found = pairing.speedup()
    if found is None:
        return Found(None, "no steps of both yet")
    sides = ((pairing.family, found.missed), (pairing.baseline, found.missed_baseline))
    never = [f"never reached by {missed} of {found.pairs} seeds of {side.name}" for side, missed in sides if missed]
    if found.missed or found.ratio is None:
        return Found(0.0, " and ".join(never))
    words = f"{speed(found)} times fewer steps, {'; '.join(['the geometric mean over the seeds', *never])}"
    if found.low is None or found.high is None:
        doubt = f"no interval can be estimated from {found.pairs} seed{'s' * (found.pairs > 1)}"
    else:
        doubt = None if found.low > 1 else f"95 % interval {found.low:.2f} to {found.high:.2f}"
    return Found(found.ratio, words, doubt, bound=found.bound is not None)
