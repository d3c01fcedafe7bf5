"""Published figures of a preset beside the results here, with a verdict on whether they were reproduced."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onecycle_sweeps import provenance
from onecycle_sweeps.config.preset import Figure as PublishedFigure
from onecycle_sweeps.config.preset import Pair, Published
from onecycle_sweeps.config.schema import NOT_IN_SIGNATURE, PLACE_OF_DATA
from onecycle_sweeps.measures import MINUS, Measure
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.claims import STEPS, Claim, Pairing, p_value, ratio_words, signed
from onecycle_sweeps.report.groups import CODE_SHOWN, Family, at_chance, few, headline_of
from onecycle_sweeps.report.statistics import LEVEL, Spread, spread
from onecycle_sweeps.sweep import TRAIN, Sweep
from onecycle_sweeps.trial_folder import DIVERGED

REPRODUCED, EXCEEDED = "reproduced", "reproduced, and exceeded"
AGREES = "direction agrees, not significant"
NOT_REPRODUCED, NOT_COMPARABLE, OPEN = "not reproduced", "not comparable", "open"
# Keys that a user may type without leaving the preset: what is swept, and where and how it runs.
OF_THE_PRESET = (
    *("experiment", "recipe", "seed", "evaluations_per_epoch", "hydra", "device", "precision", "deterministic"),
    *NOT_IN_SIGNATURE,
    *(f"data.{key}" for key in PLACE_OF_DATA if key != "path"),
)
COSTS = {
    "data=cifar10_jpeg": "JPEG is lossy",
    "data.val_fraction": "what is scored is not the official test set",
}
Members = Sequence[Outcome]


@dataclass(frozen=True)
class PublishedRow:
    """One published figure or claim: its value and ours in words, the verdict, and the reasons for it.

    `name` is that of the row, or of both rows of a pair.
    """

    name: str
    what: str
    published: str
    ours: str
    verdict: str
    reasons: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The row as a sentence of the report."""
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"published, {self.name} ({self.what}): {self.published}; here {self.ours}: {self.verdict}{why}"


def compare_published(sweep: Sweep, outcomes: Members, claims: Sequence[Claim]) -> tuple[PublishedRow, ...]:
    """A row for each figure and each pair that the sweep's preset states, if the sweep has their trials."""
    facts = sweep.published
    if facts is None:
        return ()
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.entry.kind == TRAIN:
            groups.setdefault(outcome.entry.varies["policy"], []).append(outcome)
    departures = tuple(_departures(sweep))
    figures = [
        _figure(name, figure, groups[name], _obstacles(facts, groups[name], departures))
        for name, figure in facts.rows.items()
        if name in groups
    ]
    pairs = [
        _pair(pair, row, other, _obstacles_of_pair(pair, facts, [*row, *other], departures, sweep.command), claims)
        for pair in facts.pairs
        if (row := groups.get(pair.row)) and (other := groups.get(pair.over))
    ]
    return (*figures, *pairs)


def published_notes(facts: Published | None) -> Iterator[str]:
    """The notes that precede a preset's figures."""
    if facts is None:
        return
    yield f"published figures: {facts.source}" + (f". {facts.note}" if facts.note else "")
    if not facts.run_here:
        yield "this preset is untested at its full size: its authors have not run it"


def _departures(sweep: Sweep) -> Iterator[str]:
    """The overrides in the sweep's command that depart from the preset."""
    for word in sweep.command:
        key, given, _ = word.lstrip("+~").partition("=")
        own = any(key == known or key.startswith((f"{known}.", f"{known}/")) for known in OF_THE_PRESET)
        if (given or word.startswith("~")) and not word.startswith("-") and not own:
            cost = COSTS.get(word) or COSTS.get(key)
            yield f"{word} was typed" + (f", and {cost}" if cost else "")


def _obstacles(facts: Published, members: Members, departures: tuple[str, ...]) -> tuple[str, ...]:
    """Why these trials cannot reproduce a figure of the source; empty if they can."""
    steps = sorted({o.result["steps_per_epoch"] for o in members if "steps_per_epoch" in o.result})
    asked = facts.steps_per_epoch
    other = [f"{n} steps an epoch, {asked} with the data of the source" for n in steps if asked not in (None, n)]
    return (*filter(None, [facts.comparable]), *departures, *other, *_mixed(members))


def _obstacles_of_pair(
    pair: Pair, facts: Published, members: Members, departures: tuple[str, ...], command: Sequence[str]
) -> tuple[str, ...]:
    """An order can be tested with another net or other data, but not if the user departed from the preset."""
    targets = [
        word for word in command if word.startswith(("target=", "target_accuracy=")) and pair.speed_up is not None
    ]
    found = (*departures, *_mixed(members)) if pair.order_alone else _obstacles(facts, members, departures)
    return (*found, *(f"{word} was typed" for word in targets))


def _mixed(members: Members) -> Iterator[str]:
    if changed := provenance.differing([o.resolved for o in members if o.ended]):
        yield f"{few(changed, CODE_SHOWN)} changed between these trials"


def _figure(name: str, figure: PublishedFigure, members: Members, obstacles: tuple[str, ...]) -> PublishedRow:
    headline, count = headline_of(members), len(members)
    value = _over(members, lambda o: o.final)
    diverged = sum(o.status == DIVERGED for o in members)
    ours = f"{value.text(headline)} over {value.count} of {count} seeds" if value else f"no {headline.name} yet"
    ours += f", {diverged} diverged" if diverged else ""
    left = _unfinished(members)
    if figure.diverges:
        low = value is None or value.mean <= figure.accuracy + figure.tolerance
        verdict = _judged(REPRODUCED if low else NOT_REPRODUCED, obstacles, left)
    else:
        verdict = _verdict(value.mean if value else None, figure.accuracy, figure.tolerance)
        verdict = _judged(verdict, obstacles, left, diverged)
    within = "diverged, " if figure.diverges else ""
    published = f"{within}{100 * figure.accuracy:.2f} %, to be met within {100 * figure.tolerance:g} points"
    return PublishedRow(name, figure.what, published, ours, verdict, (*obstacles, *left, *at_chance(name, members)))


@dataclass(frozen=True)
class _Lead:
    """By how much a row leads here, None if unknown; if `is_bound`, the true lead may be larger.

    `doubt` says why the direction is not certain, None if it is.
    """

    value: float | None
    words: str
    doubt: str | None = None
    is_bound: bool = False


def _pair(
    pair: Pair, row: Members, other: Members, obstacles: tuple[str, ...], claims: Sequence[Claim]
) -> PublishedRow:
    """The published relation of two rows beside ours.

    It is reproduced only if it is significant too: a gain by the sweep's claim about the two rows, a speed-up by an
    interval above 1.
    """
    claim = next((one for one in claims if {one.name, one.baseline} == {pair.row, pair.over}), None)
    pairing = Pairing(Family(pair.row, (), {(): row}, ()), Family(pair.over, (), {(): other}, ()))
    lead = _gain(pairing, claim, headline_of(row)) if pair.gain is not None else _speed_up(pairing)
    unlike = {key: values for key, values in pairing.unlike().items() if key != STEPS}
    obstacles = (*obstacles, *(f"{key}: {ours} against {theirs}" for key, (ours, theirs) in unlike.items()))
    diverged = sum(o.status == DIVERGED for o in row)
    wanted = pair.gain if pair.gain is not None else pair.speed_up or 1.0
    verdict = _verdict(lead.value, wanted, pair.tolerance, order=pair.order_alone, is_bound=lead.is_bound)
    left = _unfinished([*row, *other])
    verdict = AGREES if lead.doubt and verdict in (REPRODUCED, EXCEEDED) else verdict
    verdict = _judged(verdict, obstacles, left, diverged)
    doubts = (lead.doubt,) if lead.doubt and verdict == AGREES else ()
    short = [f"{diverged} of {len(row)} seeds of {pair.row} diverged"] if diverged else []
    reasons = (*obstacles, *doubts, *short, *left, *pairing.at_chance())
    return PublishedRow(f"{pair.row} over {pair.over}", pair.what, _published(pair), lead.words, verdict, reasons)


def _published(pair: Pair) -> str:
    if pair.gain is not None:
        return "at least as accurate" if pair.order_alone else f"{100 * pair.gain:+.2f} points".replace("-", MINUS)
    return "no later at the target" if pair.order_alone else f"{pair.speed_up:g} times fewer steps to the target"


def _gain(pairing: Pairing, claim: Claim | None, headline: Measure) -> _Lead:
    """The mean of the differences by seed, as in the sweep's claims."""
    difference = pairing.difference(headline.final_val)
    ours, theirs = (_over(side.members, lambda o: o.final) for side in (pairing.family, pairing.baseline))
    if difference is None or ours is None or theirs is None:
        return _Lead(None, "no seed has a finite value in both yet")
    words = f"{signed(headline, difference.mean)} points ({ours.text(headline)} against {theirs.text(headline)})"
    p = claim.p_adjusted if claim else None
    if p is None:
        return _Lead(difference.mean, words, "nothing can be claimed about the difference")
    return _Lead(difference.mean, words, f"p={p_value(p)}" if p >= LEVEL else None)


def _speed_up(pairing: Pairing) -> _Lead:
    """How many times fewer steps, as in the sweep's claims."""
    found = pairing.speedup()
    if found is None:
        return _Lead(None, "the steps of both are not known yet")
    sides = ((pairing.family, found.missed), (pairing.baseline, found.missed_baseline))
    never = [f"never reached by {missed} of {found.pairs} seeds of {side.name}" for side, missed in sides if missed]
    if found.missed or found.ratio is None:
        return _Lead(0.0, " and ".join(never))
    words = f"{ratio_words(found)} times fewer steps, {'; '.join(['the geometric mean over the seeds', *never])}"
    if found.low is None or found.high is None:
        doubt = f"no interval can be estimated from {found.pairs} seed{'s' * (found.pairs > 1)}"
    else:
        doubt = None if found.low > 1 else f"95 % interval {found.low:.2f} to {found.high:.2f}"
    return _Lead(found.ratio, words, doubt, is_bound=found.bound is not None)


def _verdict(
    value: float | None, published: float, tolerance: float, *, order: bool = False, is_bound: bool = False
) -> str:
    """Whether a value reaches a published one, up to rounding errors.

    With `order` only the order was claimed, which cannot be exceeded. With `is_bound` the true value may be above.
    """
    if value is None:
        return OPEN
    if not value >= published - tolerance - 1e-9:
        return OPEN if is_bound else NOT_REPRODUCED
    return EXCEEDED if value > published + tolerance + 1e-9 and not order else REPRODUCED


def _judged(verdict: str, obstacles: Sequence[str], left: Sequence[str], diverged: int = 0) -> str:
    """The verdict on the numbers, unless they cannot be compared, trials are left, or seeds diverged."""
    if obstacles:
        return NOT_COMPARABLE
    if left:
        return OPEN
    return NOT_REPRODUCED if diverged else verdict


def _over(members: Members, value_of: Callable[[Outcome], float | None]) -> Spread | None:
    """Mean and deviation of a value over the finished trials that have it."""
    return spread([found for o in members if o.finished and (found := value_of(o)) is not None])


def _unfinished(members: Members) -> tuple[str, ...]:
    """How many trials have neither finished nor diverged, if any."""
    left = sum(not o.ended for o in members)
    return (f"{left} of {len(members)} trials have not finished",) if left else ()
