"""What a preset's source published beside what came of it here, and whether the one meets the other."""

from collections.abc import Iterator, Sequence

from onecycle_sweeps import provenance
from onecycle_sweeps.config.preset import Figure, Pair, Published
from onecycle_sweeps.config.schema import NOT_IN_SIGNATURE, PLACE_OF_DATA
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.claims import Claim
from onecycle_sweeps.report.pairing import at_chance
from onecycle_sweeps.report.published_pairs import compare_pair
from onecycle_sweeps.report.verdicts import (
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
from onecycle_sweeps.sweep import TRAIN, Sweep
from onecycle_sweeps.trial_folder import DIVERGED

# Keys that a user may type without leaving the preset: what is swept, and where and how it runs.
OF_THE_PRESET = (
    *("experiment", "recipe", "seed", "evaluations_per_epoch", "hydra", "device", "precision", "deterministic"),
    *NOT_IN_SIGNATURE,
    *(f"data.{key}" for key in PLACE_OF_DATA if key != "path"),
)
COSTS = {
    "data=cifar10_jpeg": "JPEG costs accuracy",
    "data.val_fraction": "what is scored is not the official test set",
}


def compare_published(sweep: Sweep, outcomes: Sequence[Outcome], claims: Sequence[Claim]) -> tuple[PublishedRow, ...]:
    """A row for each figure and each pair that the sweep's preset states, as far as the sweep has their trials."""
    facts = sweep.published
    if facts is None:
        return ()
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.entry.kind == TRAIN:
            groups.setdefault(outcome.entry.varies["policy"], []).append(outcome)
    elsewhere = tuple(_elsewhere(sweep))
    figures = [
        _figure(name, figure, groups[name], _reasons(facts, groups[name], elsewhere))
        for name, figure in facts.rows.items()
        if name in groups
    ]
    pairs = [
        compare_pair(
            pair, row, other, _reasons_of_a_pair(pair, facts, [*row, *other], elsewhere, sweep.command), claims
        )
        for pair in facts.pairs
        if (row := groups.get(pair.row)) and (other := groups.get(pair.over))
    ]
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
            cost = COSTS.get(word) or COSTS.get(key)
            yield f"{word} was typed" + (f", and {cost}" if cost else "")


def _reasons(facts: Published, members: Sequence[Outcome], elsewhere: tuple[str, ...]) -> tuple[str, ...]:
    """Why a figure of the source cannot be met by these trials; none if it can."""
    steps = sorted({o.result["steps_per_epoch"] for o in members if "steps_per_epoch" in o.result})
    asked = facts.steps_per_epoch
    other = [f"{n} steps an epoch, {asked} with the data of the source" for n in steps if asked not in (None, n)]
    return (*filter(None, [facts.comparable]), *elsewhere, *other, *_mixed(members))


def _reasons_of_a_pair(
    pair: Pair, facts: Published, members: Sequence[Outcome], elsewhere: tuple[str, ...], command: Sequence[str]
) -> tuple[str, ...]:
    """An order can be tested with another net or other data, but not where the user has left the preset."""
    targets = [word for word in command if word.startswith("target_accuracy=") and pair.speed_up is not None]
    found = (*elsewhere, *_mixed(members)) if pair.order_alone else _reasons(facts, members, elsewhere)
    return (*found, *(f"{word} was typed" for word in targets))


def _mixed(members: Sequence[Outcome]) -> Iterator[str]:
    if changed := provenance.differing([o.resolved for o in members if o.ended]):
        yield f"{', '.join(changed)} changed between these trials"


def _figure(name: str, figure: Figure, members: Sequence[Outcome], reasons: tuple[str, ...]) -> PublishedRow:
    accuracy, count = over(members, lambda o: o.metrics.get("final/val_accuracy")), len(members)
    diverged = sum(o.status == DIVERGED for o in members)
    ours = f"{percent(accuracy)} over {accuracy.count} of {count} seeds" if accuracy else "no accuracy yet"
    ours += f", {diverged} diverged" if diverged else ""
    left = unfinished(members)
    if reasons:
        verdict = NOT_COMPARABLE
    elif left:
        verdict = OPEN
    elif figure.diverges:
        low = accuracy is None or accuracy.mean <= figure.accuracy + figure.tolerance
        verdict = REPRODUCED if low else NOT_REPRODUCED
    elif diverged:
        verdict = NOT_REPRODUCED
    else:
        verdict = met(accuracy.mean if accuracy else None, figure.accuracy, figure.tolerance)
    within = "diverged, " if figure.diverges else ""
    published = f"{within}{100 * figure.accuracy:.2f} %, to be met within {100 * figure.tolerance:g} points"
    return PublishedRow(name, figure.what, published, ours, verdict, (*reasons, *left, *at_chance(name, members)))
