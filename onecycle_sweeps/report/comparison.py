"""The comparison of a sweep's groups over their seeds, as plain data for table, page and files."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onecycle_sweeps.measures import LOSS, Measure
from onecycle_sweeps.outcome import Outcome, read
from onecycle_sweeps.report.answer import answer, findings
from onecycle_sweeps.report.claims import Claims, claims_of
from onecycle_sweeps.report.groups import Group, by_group, group_name, measures_of, score
from onecycle_sweeps.report.reproduction import PublishedRow, compare_published, published_notes
from onecycle_sweeps.report.stability import StabilityMap, stability_lines, stability_maps
from onecycle_sweeps.report.statistics import Spread, spread
from onecycle_sweeps.sweep import PROBE, RANGE_TEST, TRAIN, Sweep
from onecycle_sweeps.trial_folder import DIVERGED, FAILED, FINISHED, LOST


@dataclass(frozen=True)
class Row:
    """A group of trials that differ only in their seed; the spreads are over the seeds that finished.

    `metrics` has those of the end by name, and the loss of the last evaluation. `steps_to_target` is over the finished
    seeds that reached the target, known to within `resolution` steps. `counts` has the number of `trials` by status.
    `also` are the names of groups that consist of the same trials.
    """

    group: Group
    trials: int
    counts: Mapping[str, int]
    max_lrs: tuple[float, ...]
    metrics: Mapping[str, Spread]
    steps_to_target: Spread | None
    resolution: int | None
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the group's trials share, `onecycle epochs=5`, with all its names: `constant = same`."""
        return " = ".join([group_name(self.group), *self.also])

    @property
    def finished(self) -> int:
        return self.counts.get(FINISHED, 0)


@dataclass(frozen=True)
class Comparison:
    """A sweep's outcomes, compared: rows, best mean first, claims, and the lines that accompany them.

    The order of the rows is no claim. Pairs are a trial's name and a text.
    """

    sweep: Sweep
    outcomes: tuple[Outcome, ...]
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    claims: Claims
    range_tests: tuple[Outcome, ...]
    probes: tuple[Outcome, ...]
    targets: tuple[float, ...]
    failures: tuple[tuple[str, str], ...]
    diverged: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    published: tuple[PublishedRow, ...] = ()
    maps: tuple[StabilityMap, ...] = ()
    stability: tuple[str, ...] = ()

    @property
    def headline(self) -> Measure:
        """The measure that trials are compared by."""
        return self.measures[0]

    @property
    def trainings(self) -> tuple[Outcome, ...]:
        """The outcomes of the trainings, which are compared."""
        return tuple(outcome for outcome in self.outcomes if outcome.entry.kind == TRAIN)

    @property
    def answer(self) -> str:
        """What the sweep shows, in a sentence or two."""
        return answer(self.sweep.choices, self.outcomes, self.claims)

    @property
    def findings(self) -> dict[str, str | float]:
        """The same as texts and numbers by name, for a search."""
        return findings(self.outcomes, self.claims)


def answer_at_a_glance(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """The answer of `compare`, from outcomes without their series."""
    facts = sweep.published
    claims = claims_of(outcomes, facts.baseline if facts else None, bool(facts and facts.budgets_may_differ))
    return answer(sweep.choices, outcomes, claims)


def compare(sweep: Sweep) -> Comparison:
    """Read the trials' folders and compare the groups over their seeds.

    The best mean final headline measure comes first. For this order only, a diverged trial counts with the measure's
    worst value, so that one lucky seed does not lead (see `score`); groups without a result come last. A preset
    names the baseline of its claims, whether their budgets may differ, and the pairs of rows that its source mentions.
    """
    facts = sweep.published
    baseline, budgets_may_differ = (facts.baseline, facts.budgets_may_differ) if facts else (None, False)
    outcomes = read(sweep)
    maps = stability_maps(outcomes)
    groups = sorted(by_group(outcomes).items(), key=lambda item: score(item[1]), reverse=True)
    rows = [_row(group, members) for group, members in groups]
    more = [(pair.row, pair.over) for pair in facts.pairs] if facts else []
    claims = claims_of(outcomes, baseline, budgets_may_differ, more)
    return Comparison(
        sweep=sweep,
        outcomes=outcomes,
        measures=measures_of(outcomes),
        rows=tuple(rows),
        claims=claims,
        range_tests=tuple(o for o in outcomes if o.entry.kind == RANGE_TEST),
        probes=tuple(o for o in outcomes if o.entry.kind == PROBE),
        targets=tuple(sorted({t for o in outcomes if (t := o.entry.target) is not None})),
        failures=_causes(outcomes, FAILED, LOST),
        diverged=_causes(outcomes, DIVERGED),
        warnings=tuple(_warnings(outcomes)),
        notes=(*published_notes(sweep.published), *_notes(outcomes, rows)),
        published=compare_published(sweep, outcomes, claims.claims),
        maps=maps,
        stability=tuple(stability_lines(maps, sweep)),
    )


def _row(group: Group, members: Sequence[Outcome]) -> Row:
    finished = [o for o in members if o.finished]
    ends = [o.metrics | ({} if o.final_loss is None else {LOSS.final_val: o.final_loss}) for o in finished]
    names = dict.fromkeys(name for metrics in ends for name in metrics)
    values = {name: spread([metrics[name] for metrics in ends if name in metrics]) for name in names}
    return Row(
        group=group,
        trials=len(members),
        counts=Counter(o.status for o in members),
        max_lrs=tuple(sorted({o.max_lr for o in members if o.max_lr is not None})),
        metrics={name: value for name, value in values.items() if value},
        steps_to_target=spread([steps for o in finished if (steps := o.steps_to_target) is not None]),
        resolution=max((gap for o in finished if (gap := o.evaluation_gap) is not None), default=None),
        also=tuple(dict.fromkeys(name for o in members for name in o.entry.also)),
    )


def _causes(outcomes: Iterable[Outcome], *statuses: str) -> tuple[tuple[str, str], ...]:
    return tuple((o.name, o.cause or "no cause recorded") for o in outcomes if o.status in statuses)


def _warnings(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    """The warnings of each trial, without a range test's own doubts where short trainings decide in its place."""
    decided = {o.entry.needs for o in outcomes if o.entry.kind == PROBE and o.finished}
    decided -= {o.entry.needs for o in outcomes if o.entry.kind == TRAIN}
    for outcome in outcomes:
        settled = outcome.result.get("verdict", {}).get("doubts", ()) if outcome.entry.signature in decided else ()
        for warning in (*outcome.started_again, *outcome.result.get("warnings", ())):
            if not any(doubt in warning for doubt in settled):
                yield outcome.name, warning


def _notes(outcomes: Sequence[Outcome], rows: Sequence[Row]) -> Iterable[str]:
    trained = [o.entry for o in outcomes if o.entry.kind == TRAIN]
    headlines = dict.fromkeys(o.headline.name for o in outcomes if o.entry.kind == TRAIN and o.resolved)
    if len(headlines) > 1:
        yield (
            f"The trainings are judged by different measures, {' and '.join(headlines)}, and are compared by the first "
            "only: run a sweep for each."
        )
    policies = {entry.varies["policy"] for entry in trained}
    one_test = len({entry.needs for entry in trained}) == 1 and all(entry.needs for entry in trained)
    if len(policies) > 1 and one_test and not any("max_lr_scale" in entry.varies for entry in trained):
        rates = {rate for row in rows for rate in row.max_lrs}
        rate = f"max_lr={rates.pop():.3g}" if len(rates) == 1 else "one rate"
        who = "Both" if len(policies) == 2 else f"All {len(policies)}"
        yield (
            f"{who} policies shared {rate} from one range test, which need not be the best rate of each: "
            "max_lr_scale=0.3,1,3 tunes each policy on its own."
        )
