"""The comparison of a sweep's policies over their seeds, as plain data."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onecycle_sweeps.report.outcomes import Outcome, read
from onecycle_sweeps.report.published import compare_published, published_notes
from onecycle_sweeps.report.spread import Spread, spread
from onecycle_sweeps.report.stability_map import stability_lines, stability_maps
from onecycle_sweeps.report.verdicts import PublishedRow
from onecycle_sweeps.state import DIVERGED, FAILED, FINISHED, LOST
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Sweep

Group = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Row:
    """One group of trials that differ in their seed alone; the spreads are over the seeds that finished.

    Accuracies are fractions. `steps_to_target` is over the finished seeds that reached it, `steps_to_target.count`
    of them, known to within `resolution` steps; `counts` says how many trials have which status.
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

    @property
    def name(self) -> str:
        """What the group's trials share: `onecycle epochs=5`."""
        return group_name(self.group)

    @property
    def finished(self) -> int:
        return self.counts.get(FINISHED, 0)


@dataclass(frozen=True)
class RangeTest:
    """A range test of the sweep: its name, how it stands, and the rates it suggests (the verdict is max_lr)."""

    name: str
    status: str
    suggestions: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A sweep's rows, best first, and what has to be said beside them; each pair is a trial's name and a text."""

    rows: tuple[Row, ...]
    range_tests: tuple[RangeTest, ...]
    targets: tuple[float, ...]
    failures: tuple[tuple[str, str], ...]
    diverged: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    published: tuple[PublishedRow, ...] = ()
    stability: tuple[str, ...] = ()


def compare(sweep: Sweep, outcomes: Sequence[Outcome] | None = None) -> Comparison:
    """Compare a sweep's groups over their seeds; `outcomes` spares a second reading of the trials' folders.

    The best mean final val accuracy comes first. For this order alone a diverged trial counts as accuracy 0, so that
    one lucky seed does not lead; groups without a finished or diverged trial come last.
    """
    outcomes = read(sweep) if outcomes is None else outcomes
    rows = sorted((_row(group, members) for group, members in by_group(outcomes).items()), key=_rank)
    return Comparison(
        rows=tuple(rows),
        range_tests=tuple(_range_test(o) for o in outcomes if o.entry.kind == RANGE_TEST),
        targets=tuple(sorted({t for o in outcomes if (t := o.entry.target_accuracy) is not None})),
        failures=_causes(outcomes, FAILED, LOST),
        diverged=_causes(outcomes, DIVERGED),
        warnings=tuple((o.name, warning) for o in outcomes for warning in o.result.get("warnings", ())),
        notes=(*published_notes(sweep.published), *_notes(outcomes, rows)),
        published=compare_published(sweep, outcomes),
        stability=tuple(stability_lines(stability_maps(outcomes), sweep)),
    )


def by_group(outcomes: Iterable[Outcome]) -> dict[Group, list[Outcome]]:
    """The trainings by all that varies but the seed, groups and members in order of first appearance."""
    groups: dict[Group, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.entry.kind == TRAIN:
            groups.setdefault(outcome.entry.group, []).append(outcome)
    return groups


def group_name(group: Group) -> str:
    """A group's name: its policy, then every other key with its value."""
    return " ".join(value if key == "policy" else f"{key}={value}" for key, value in group)


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
    )


def _rank(row: Row) -> float:
    counted = row.finished + row.counts.get(DIVERGED, 0)
    if not counted:
        return math.inf
    total = row.final_accuracy.mean * row.final_accuracy.count if row.final_accuracy else 0.0
    return -total / counted if math.isfinite(total) else 0.0


def _range_test(outcome: Outcome) -> RangeTest:
    rates = {k.removeprefix("suggestion/"): v for k, v in outcome.metrics.items() if k.startswith("suggestion/")}
    return RangeTest(outcome.name, outcome.status, rates)


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
    alone = [row.name for row in rows if row.finished == 1]
    if alone:
        which = "One seed finished" if len(rows) == 1 else f"One seed finished of {', '.join(alone)}"
        if len(rows) > 1 and len(alone) == len(rows):
            which = "One seed each finished"
        yield f"{which}: from one seed nothing can be claimed. More seeds: seed=0,1,2 -m."
