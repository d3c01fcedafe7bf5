"""The comparison of a sweep's policies over their seeds, as plain data."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onecycle_sweeps.outcome import Outcome, read
from onecycle_sweeps.report.claims import Claims, claims_of
from onecycle_sweeps.report.groups import Group, by_group, group_name, standing
from onecycle_sweeps.report.published import compare_published, published_notes
from onecycle_sweeps.report.spread import Spread, spread
from onecycle_sweeps.report.stability_map import StabilityMap, stability_lines, stability_maps
from onecycle_sweeps.report.verdicts import PublishedRow
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Sweep
from onecycle_sweeps.trial_folder import DIVERGED, FAILED, FINISHED, LOST


@dataclass(frozen=True)
class Row:
    """One group of trials that differ in their seed alone; the spreads are over the seeds that finished.

    Accuracies are fractions. `steps_to_target` is over the finished seeds that reached it, `steps_to_target.count`
    of them, known to within `resolution` steps; `counts` says how many trials have which status. `also` are the names
    of groups that come to the same trials.
    """

    group: Group
    asked: int
    counts: Mapping[str, int]
    max_lrs: tuple[float, ...]
    final_accuracy: Spread | None
    best_accuracy: Spread | None
    val_loss: Spread | None
    test_accuracy: Spread | None
    steps_to_target: Spread | None
    resolution: int | None
    seconds: Spread | None
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the group's trials share, `onecycle epochs=5`, by all its names: `constant = same`."""
        return " = ".join([group_name(self.group), *self.also])

    @property
    def finished(self) -> int:
        return self.counts.get(FINISHED, 0)


@dataclass(frozen=True)
class RangeTest:
    """A range test of the sweep: its name, how it stands, and the rates it suggests (the verdict is max_lr).

    `word` is confident or ambiguous, None before there is a verdict.
    """

    name: str
    status: str
    suggestions: Mapping[str, float]
    word: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A sweep's rows, highest mean first, and what has to be said beside them; each pair is a trial's name and a text.

    The order of the rows is no claim: what the sweep shows is in `claims`.
    """

    rows: tuple[Row, ...]
    claims: Claims
    range_tests: tuple[RangeTest, ...]
    targets: tuple[float, ...]
    failures: tuple[tuple[str, str], ...]
    diverged: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    published: tuple[PublishedRow, ...] = ()
    maps: tuple[StabilityMap, ...] = ()
    stability: tuple[str, ...] = ()


def compare(sweep: Sweep, outcomes: Sequence[Outcome] | None = None) -> Comparison:
    """Compare a sweep's groups over their seeds; `outcomes` spares a second reading of the trials' folders.

    The best mean final val accuracy comes first. For this order alone a diverged trial counts as accuracy 0, so that
    one lucky seed does not lead; groups without a finished or diverged trial come last. A preset names the baseline of
    its claims, whether their budgets may differ, and the pairs of rows that its source speaks of.
    """
    facts = sweep.published
    baseline, budgets_may_differ = (facts.baseline, facts.budgets_may_differ) if facts else (None, False)
    outcomes = read(sweep) if outcomes is None else outcomes
    maps = stability_maps(outcomes)
    groups = sorted(by_group(outcomes).items(), key=lambda item: -standing(item[1]))
    rows = [_row(group, members) for group, members in groups]
    more = [(pair.row, pair.over) for pair in facts.pairs] if facts else []
    claims = claims_of(outcomes, baseline, budgets_may_differ, more)
    return Comparison(
        rows=tuple(rows),
        claims=claims,
        range_tests=tuple(_range_test(o) for o in outcomes if o.entry.kind == RANGE_TEST),
        targets=tuple(sorted({t for o in outcomes if (t := o.entry.target_accuracy) is not None})),
        failures=_causes(outcomes, FAILED, LOST),
        diverged=_causes(outcomes, DIVERGED),
        warnings=tuple((o.name, warning) for o in outcomes for warning in o.result.get("warnings", ())),
        notes=(*published_notes(sweep.published), *_notes(outcomes, rows)),
        published=compare_published(sweep, outcomes, claims.claims),
        maps=maps,
        stability=tuple(stability_lines(maps, sweep)),
    )


def _row(group: Group, members: Sequence[Outcome]) -> Row:
    finished = [o for o in members if o.finished]

    def over(metric: str) -> Spread | None:
        return spread([o.metrics[metric] for o in finished if metric in o.metrics])

    return Row(
        group=group,
        asked=len(members),
        counts=Counter(o.status for o in members),
        max_lrs=tuple(sorted({o.max_lr for o in members if o.max_lr is not None})),
        final_accuracy=over("final/val_accuracy"),
        best_accuracy=over("best/val_accuracy"),
        val_loss=spread([o.val_loss.values[-1] for o in finished if o.val_loss]),
        test_accuracy=over("final/test_accuracy"),
        steps_to_target=spread([steps for o in finished if (steps := o.steps_to_target) is not None]),
        resolution=max((gap for o in finished if (gap := o.evaluation_gap) is not None), default=None),
        seconds=over("seconds"),
        also=tuple(dict.fromkeys(name for o in members for name in o.entry.also)),
    )


def _range_test(outcome: Outcome) -> RangeTest:
    rates = {k.removeprefix("suggestion/"): v for k, v in outcome.metrics.items() if k.startswith("suggestion/")}
    return RangeTest(outcome.name, outcome.status, rates, outcome.result.get("verdict", {}).get("word"))


def _causes(outcomes: Iterable[Outcome], *statuses: str) -> tuple[tuple[str, str], ...]:
    return tuple((o.name, o.cause or "no cause recorded") for o in outcomes if o.status in statuses)


def _notes(outcomes: Sequence[Outcome], rows: Sequence[Row]) -> Iterable[str]:
    trained = [o.entry for o in outcomes if o.entry.kind == TRAIN]
    policies = {entry.varies["policy"] for entry in trained}
    one_test = len({entry.needs for entry in trained}) == 1 and all(entry.needs for entry in trained)
    if len(policies) > 1 and one_test and not any("max_lr_scale" in entry.varies for entry in trained):
        rates = {rate for row in rows for rate in row.max_lrs}
        rate = f"max_lr={rates.pop():.3g}" if len(rates) == 1 else "one rate"
        yield (
            f"All {len(policies)} policies shared {rate} from one range test, which need not be the best rate of each: "
            "max_lr_scale=0.3,1,3 tunes each policy on its own."
        )
