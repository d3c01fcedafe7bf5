"""What a preset's source published beside what came of it here, and whether the one meets the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from onecycle_sweeps.plan import BYSTANDERS, PLACE_OF_DATA
from onecycle_sweeps.published import Figure, Pair, Published
from onecycle_sweeps.report.outcomes import Outcome
from onecycle_sweeps.report.spread import Spread, spread
from onecycle_sweeps.state import DIVERGED
from onecycle_sweeps.sweep import TRAIN, Sweep

REPRODUCED, EXCEEDED = "reproduced", "reproduced, and exceeded"
NOT_REPRODUCED, NOT_COMPARABLE, OPEN = "not reproduced", "not comparable", "open"
# Keys that a user may type without leaving the preset: what is swept, and where and how it runs.
OF_THE_PRESET = (
    *("experiment", "recipe", "seed", "evaluations_per_epoch", "hydra", "device", "precision", "deterministic"),
    *BYSTANDERS,
    *(f"data.{key}" for key in PLACE_OF_DATA if key != "path"),
)
COSTS = {"data=cifar10_jpeg": "JPEG costs accuracy"}


@dataclass(frozen=True)
class PublishedRow:
    """One published figure or claim: what it is, its value and ours in words, the verdict, and what stands behind it.

    `name` is the row's, or both rows' of a pair.
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
        return f"published, {self.name}: {self.what}: {self.published}; here {self.ours}: {self.verdict}{why}"


def compare_published(sweep: Sweep, outcomes: Sequence[Outcome]) -> tuple[PublishedRow, ...]:
    """A row for each figure and each pair that the sweep's preset states, as far as the sweep has their trials."""
    facts = sweep.published
    if facts is None:
        return ()
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.entry.kind == TRAIN:
            groups.setdefault(outcome.entry.varies["policy"], []).append(outcome)
    elsewhere = tuple(_elsewhere(sweep))
    figures = (
        _figure(n, f, groups[n], _reasons(facts, groups[n], elsewhere)) for n, f in facts.rows.items() if n in groups
    )
    pairs = (
        _pair(pair, groups[pair.row], groups[pair.over], facts, elsewhere)
        for pair in facts.pairs
        if pair.row in groups and pair.over in groups
    )
    return (*figures, *pairs)


def published_notes(facts: Published | None) -> Iterator[str]:
    """What has to be said of a preset before its figures."""
    if facts is None:
        return
    yield f"published figures: {facts.source}" + (f". {facts.note}" if facts.note else "")
    if not facts.run_here:
        yield "this preset ships untried at its full size: no run of its makers stands behind it"


def _elsewhere(sweep: Sweep) -> Iterator[str]:
    """The overrides in the sweep's command that lead away from the preset."""
    for word in sweep.command:
        key, given, _ = word.lstrip("+~").partition("=")
        own = any(key == known or key.startswith((f"{known}.", f"{known}/")) for known in OF_THE_PRESET)
        if (given or word.startswith("~")) and not word.startswith("-") and not own:
            yield f"{word} was typed" + (f", and {COSTS[word]}" if word in COSTS else "")


def _reasons(facts: Published, members: Sequence[Outcome], elsewhere: tuple[str, ...]) -> tuple[str, ...]:
    """Why a figure of the source cannot be met by these trials; none if it can."""
    steps = sorted({o.result["steps_per_epoch"] for o in members if "steps_per_epoch" in o.result})
    asked = facts.steps_per_epoch
    other = [f"{n} steps an epoch, {asked} with the data of the source" for n in steps if asked not in (None, n)]
    return (*filter(None, [facts.comparable]), *elsewhere, *other)


def _figure(name: str, figure: Figure, members: Sequence[Outcome], reasons: tuple[str, ...]) -> PublishedRow:
    accuracy, count = _over(members, lambda o: o.metrics.get("final/val_accuracy")), len(members)
    diverged = sum(o.status == DIVERGED for o in members)
    ours = f"{_percent(accuracy)} over {accuracy.count} of {count} seeds" if accuracy else "no accuracy yet"
    ours += f", {diverged} diverged" if diverged else ""
    if reasons:
        verdict = NOT_COMPARABLE
    elif figure.diverges:
        low = accuracy is None or accuracy.mean <= figure.accuracy + figure.tolerance
        verdict = OPEN if not diverged and accuracy is None else REPRODUCED if low else NOT_REPRODUCED
    elif diverged:
        verdict = NOT_REPRODUCED
    else:
        verdict = _met(accuracy.mean if accuracy else None, figure.accuracy, figure.tolerance)
    within = "diverged, " if figure.diverges else ""
    published = f"{within}{100 * figure.accuracy:.2f} %, to be met within {100 * figure.tolerance:g} points"
    return PublishedRow(name, figure.what, published, ours, verdict, (*reasons, *_unfinished(members)))


def _pair(
    pair: Pair, row: Sequence[Outcome], over: Sequence[Outcome], facts: Published, elsewhere: tuple[str, ...]
) -> PublishedRow:
    reasons = elsewhere if pair.order_alone else _reasons(facts, [*row, *over], elsewhere)
    if pair.gain is not None:
        value, ours = _gain(row, over)
        published = f"{100 * pair.gain:+.2f} points" if not pair.order_alone else "at least as accurate"
        wanted = pair.gain
    else:
        value, ours = _speed_up(row, over)
        wanted = pair.speed_up or 1.0
        published = f"{wanted:g} times fewer steps to the target" if not pair.order_alone else "no later at the target"
    diverged = sum(o.status == DIVERGED for o in row)
    short = (*([f"{diverged} of {pair.row} diverged"] if diverged else []), *_unfinished([*row, *over]))
    met = NOT_REPRODUCED if diverged else _met(value, wanted, pair.tolerance, order=pair.order_alone)
    verdict = NOT_COMPARABLE if reasons else met
    return PublishedRow(f"{pair.row} over {pair.over}", pair.what, published, ours, verdict, (*reasons, *short))


def _gain(row: Sequence[Outcome], over: Sequence[Outcome]) -> tuple[float | None, str]:
    one, other = (_over(members, lambda o: o.metrics.get("final/val_accuracy")) for members in (row, over))
    if one is None or other is None:
        return None, "no accuracy of both yet"
    gain = one.mean - other.mean
    return gain, f"{100 * gain:+.2f} points ({_percent(one)} against {_percent(other)})"


def _speed_up(row: Sequence[Outcome], over: Sequence[Outcome]) -> tuple[float | None, str]:
    """How many times fewer steps; seeds of `over` that never reached the target count with their whole run."""
    one, whole = ([o for o in members if o.finished] for members in (row, over))
    taken = [o.steps_to_target for o in one if o.steps_to_target is not None]
    needed = [o.steps_to_target or o.result.get("steps", 0) for o in whole]
    late = sum(o.steps_to_target is None for o in whole)
    if not needed or len(taken) < len(one) or not taken:
        return (
            None,
            f"the target was reached by {len(taken)} of {len(one)} and {len(whole) - late} of {len(whole)} seeds",
        )
    factor = fmean(needed) / fmean(taken)
    least = f"at least {factor:.1f}" if late else f"{factor:.1f}"
    never = f", {late} of {len(whole)} seeds never got there" if late else ""
    return factor, f"{least} times fewer steps ({fmean(taken):.0f} against {fmean(needed):.0f}{never})"


def _met(value: float | None, published: float, tolerance: float, *, order: bool = False) -> str:
    """Whether a value comes up to a published one; a tie within rounding errors does."""
    if value is None:
        return OPEN
    if value < published - tolerance - 1e-9:
        return NOT_REPRODUCED
    return EXCEEDED if value > published + tolerance and not order else REPRODUCED


def _over(members: Sequence[Outcome], measure: Callable[[Outcome], float | None]) -> Spread | None:
    return spread([found for o in members if o.finished and (found := measure(o)) is not None])


def _unfinished(members: Sequence[Outcome]) -> tuple[str, ...]:
    """How many trials have neither finished nor diverged, if any."""
    left = sum(not o.finished and o.status != DIVERGED for o in members)
    return (f"{left} of {len(members)} trials have not finished",) if left else ()


def _percent(value: Spread) -> str:
    deviation = "" if value.std is None else f" ± {100 * value.std:.2f}"
    return f"{100 * value.mean:.2f}{deviation} %"
