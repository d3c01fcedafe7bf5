"""What a sweep shows: each family of its trials against the baseline, seed by seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import sentences
from onecycle_sweeps.report.groups import Family, families
from onecycle_sweeps.report.mixing import mixed
from onecycle_sweeps.report.pairing import BUDGET, Pairing, at_chance, is_called, pairings
from onecycle_sweeps.report.picking import picks
from onecycle_sweeps.report.statistics import LEVEL, Difference, Speedup, holm, holm_levels
from onecycle_sweeps.sweep import TRAIN
from onecycle_sweeps.trial_folder import DIVERGED

VAL, TEST = "final/val_accuracy", "final/test_accuracy"


@dataclass(frozen=True)
class Claim:
    """One family against the baseline at the same `budget` (`epochs=5`; None where nothing of the kind varies).

    `difference` is in fractions of 1, None without a seed that finished in both; `p_adjusted` is Holm's over all
    claims of the sweep, and so is the level of the difference's interval; `speedup` is None without a target_accuracy.
    """

    name: str
    baseline: str
    budget: str | None
    difference: Difference | None
    p_adjusted: float | None
    speedup: Speedup | None
    kind: sentences.Kind
    sentence: str


@dataclass(frozen=True)
class Claims:
    """What a sweep shows by its `measure` (a metric's name); each of `flags` is a line on what weakens it."""

    baseline: str | None
    measure: str
    claims: tuple[Claim, ...]
    flags: tuple[str, ...]
    sentence: str


def claims_of(
    outcomes: Sequence[Outcome],
    baseline: str | None = None,
    budgets_may_differ: bool = False,
    more: Sequence[tuple[str, str]] = (),
) -> Claims:
    """Compare each family with `baseline`, a family's or a group's name, by default the first typed.

    `more` names further pairs of families that are compared, the baseline second.

    Families are compared in the same setting alone: at equal epochs, on the same data. Trials of another number of
    steps, precision, kind of device or number of threads are not comparable, nor are trials that other code has made;
    with `budgets_may_differ` another number of steps is accepted, and said. Families that were picked from unlike
    numbers of rates by the accuracy that is compared get no verdict: the best of more rates is the better for it.
    """
    found, measure = families(outcomes), measure_of(outcomes)
    cases = _cases(list(pairings(found, baseline, more)), measure, budgets_may_differ)
    claims = [
        Claim(c.name, c.baseline, c.setting, c.difference, c.p_adjusted, c.speedup, c.kind, sentences.sentence(c))
        for c in cases
    ]
    return Claims(
        baseline=cases[0].baseline if cases else None,
        measure=measure,
        claims=tuple(claims),
        flags=(
            *_flags(outcomes, found, baseline, measure),
            *(line for case in cases for line in sentences.flags(case)),
        ),
        sentence=sentences.summary(cases, measure) or _alone(found),
    )


def measure_of(outcomes: Sequence[Outcome]) -> str:
    """The accuracy that is compared: on the test set where all finished trainings have it, else on the val set."""
    finished = [outcome for outcome in outcomes if outcome.entry.kind == TRAIN and outcome.finished]
    return TEST if finished and all(TEST in outcome.metrics for outcome in finished) else VAL


def _cases(pairs: Sequence[Pairing], measure: str, budgets_may_differ: bool) -> list[sentences.Case]:
    differences = [pairing.difference(measure) for pairing in pairs]
    unlikes = [pairing.unlike() for pairing in pairs]
    budgets = [unlike.pop(BUDGET, None) if budgets_may_differ else None for unlike in unlikes]
    rates = [_unlike_rates(pairing) if measure == VAL else None for pairing in pairs]
    values = [d.p if d and not (a or b) else None for d, a, b in zip(differences, unlikes, rates, strict=True)]
    tested = [p for p in values if p is not None]
    adjusted = iter(zip(holm(tested), holm_levels(tested), strict=True))
    cases: list[sentences.Case] = []
    for i, pairing in enumerate(pairs):
        p, level = next(adjusted) if values[i] is not None else (None, LEVEL)
        difference, steps = pairing.difference(measure, level), budgets[i]
        if difference and rates[i]:
            difference = replace(difference, low=None, high=None, p=None, detectable=None)
        left_out = [*pairing.left_out(), *pairing.at_chance()]
        cases.append(
            sentences.Case(
                name=pairing.family.name,
                baseline=pairing.baseline.name,
                setting=pairing.setting,
                difference=difference,
                p_adjusted=p,
                tested=len(tested),
                speedup=None if unlikes[i] else pairing.speedup(),
                target=pairing.target,
                unlike=unlikes[i],
                aside=[*left_out, *([f"steps: {steps[0]} against {steps[1]}"] if steps else [])],
                diverged=sum(outcome.status == DIVERGED for outcome in pairing.family.members),
                rates=rates[i],
            )
        )
    return cases


def _unlike_rates(pairing: Pairing) -> tuple[int, int] | None:
    """From how many rates each side was picked, where one was picked from more."""
    ours, theirs = pairing.family.tried, pairing.baseline.tried
    return (ours, theirs) if ours != theirs else None


def _flags(outcomes: Sequence[Outcome], found: Sequence[Family], baseline: str | None, measure: str) -> Iterator[str]:
    if baseline and found and not any(is_called(family, baseline) for family in found):
        yield f"The baseline {baseline} is not in this sweep: {found[0].name} was typed first and stands for it."
    if measure == VAL and any(TEST in outcome.metrics for outcome in outcomes):
        yield f"Not every finished trial has {TEST}: {VAL} is compared, and need not be of the same images."
    yield from mixed(outcomes)
    yield from picks(found, on_the_measure=measure == VAL)
    if len(found) == 1:
        yield from (f"{line}." for line in at_chance(found[0].name, found[0].members))


def _alone(found: Sequence[Family]) -> str:
    """What is said where nothing is compared."""
    finished = [outcome for family in found for outcome in family.members if outcome.finished]
    return f"{sentences.FROM_ONE_SEED}. More seeds: seed=0,1,2 -m." if len(finished) == 1 else ""
