"""The result of a sweep as one table: each family at its best rate, beside the baseline, with interval and p-value."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from onecycle_sweeps.measures import LOSS, MINUS, Measure
from onecycle_sweeps.report import tables
from onecycle_sweeps.report.canvas import Style
from onecycle_sweeps.report.claims import Claim, p_value, ratio_words, signed, target_words, unsigned
from onecycle_sweeps.report.comparison import Comparison, Row
from onecycle_sweeps.report.figures import ShownGroups
from onecycle_sweeps.report.groups import RATES, Family, compared_metric, families, group_name, ran_alike, ranked

# What a claim shows, in the words of the table.
SHOWN = {
    "no difference shown": "not told apart",
    "nothing can be claimed": "no claim",
    "no seed finished in both": "no pair",
    "no seed is finite in both": "no pair",
    "better where it did not diverge": "better, where finished",
    "better where it is finite": "better, where finite",
}
# Claims of these kinds are told by their numbers alone.
PLAIN_KINDS = ("better", "worse", "no difference shown")


@dataclass(frozen=True)
class Standing:
    """A row of the table: a family and its claim against the baseline of its setting, or a claim on two others."""

    family: Family | None
    row: Row | None
    claim: Claim | None
    style: Style | None = None
    is_baseline: bool = False

    @property
    def name(self) -> str:
        if self.family is None:
            assert self.claim
            return f"{self.claim.name} {MINUS} {self.claim.baseline}"
        also = f" = {' = '.join(self.row.also)}" if self.row and self.row.also else ""
        return self._varied.get("policy", self.family.name) + also

    @property
    def _varied(self) -> dict[str, str]:
        return dict(self.family.picked) if self.family else {}

    def varied(self, key: str) -> str:
        """The value of a key that varies among families; empty for a claim on others."""
        return self._varied.get(key, "")


@dataclass(frozen=True)
class SettingRows:
    """The rows of one setting (`epochs=5`; empty if settings do not vary), best first, then claims on other pairs."""

    setting: str
    standings: tuple[Standing, ...]


def parts_of(comparison: Comparison, groups: ShownGroups) -> tuple[SettingRows, ...]:
    """A part for each setting, in order of first appearance."""
    found = families(comparison.outcomes)
    rows = {row.group: row for row in comparison.rows}
    order = {id(family): place for place, family in enumerate(ranked(found))}
    parts: list[SettingRows] = []
    for setting in dict.fromkeys(family.setting for family in found):
        name = group_name(setting)
        claims = [claim for claim in comparison.claims.claims if (claim.budget or "") == name]
        baseline = claims[0].baseline if claims else None
        against = {claim.name: claim for claim in claims if claim.baseline == baseline}
        sharing = sorted(
            (family for family in found if family.setting == setting), key=lambda f: order.get(id(f), len(found))
        )
        standings = [
            Standing(
                family,
                rows[family.picked],
                against.get(family.name),
                groups.styles[family.picked],
                is_baseline=family.name == baseline,
            )
            for family in sharing
        ]
        others = [Standing(None, None, claim) for claim in claims if claim.baseline != baseline]
        parts.append(SettingRows(name, (*standings, *others)))
    return tuple(parts)


def columns(comparison: Comparison, parts: Sequence[SettingRows]) -> list[tuple[str, Callable[[Standing], str]]]:
    """The table's columns for which there are data: each header, and what a row has in it."""
    standings = [standing for part in parts for standing in part.standings]
    return list(_columns(comparison, standings))


def caption(comparison: Comparison) -> str:
    """How to read the table."""
    headline, claims = comparison.headline, comparison.claims.claims
    order = f"in order of final val {headline.name}, which is not itself a claim"
    text = f"Mean ± standard deviation over the finished seeds, {order}."
    if any(len(family.rates) > 1 for family in families(comparison.outcomes)):
        text += " Each policy at its best rate."
    text += tables.places_without_mean(comparison)
    if any(claim.tested for claim in claims):
        adjusted = ", interval and p-value adjusted by Holm's method" if max(c.tested for c in claims) > 1 else ""
        text += f" Differences are paired by seed and tested by a paired t-test{adjusted}."
    if any(claim.difference and claim.difference.detectable is not None for claim in claims):
        text += " Detectable: the smallest true difference that this many pairs would show with 80 % power."
    if any(claim.speedup for claim in claims):
        text += (
            " Speed-ups are geometric means over the same seeds, not adjusted; a seed that never reached the target "
            "counts with its whole run, which makes the speed-up a bound."
        )
    return text + tables.resolution(comparison)


def notes(comparison: Comparison) -> list[str]:
    """The claims that need words beside their numbers: of an unusual kind, or with remarks."""
    return [c.sentence for c in comparison.claims.claims if c.kind not in PLAIN_KINDS or c.remarks]


def _columns(comparison: Comparison, standings: Sequence[Standing]) -> Iterator[tuple[str, Callable[[Standing], str]]]:
    headline = comparison.headline
    rows = [one.row for one in standings if one.row]
    claims = [one.claim for one in standings if one.claim]
    yield "policy", lambda one: one.name
    yield from ((_wrapped(key), partial(Standing.varied, key=key)) for key in own_keys(standings))
    yield "max_lr", lambda one: _of_row(one, tables.rates)
    yield "seeds", lambda one: _of_row(one, tables.seeds)
    on_test = compared_metric(comparison.outcomes) == headline.final_test
    first, second = (headline.final_test, headline.final_val) if on_test else (headline.final_val, headline.final_test)
    for metric in (first, second):
        if any(metric in row.metrics for row in rows):
            yield _value("test" if metric == headline.final_test else "final val", headline, metric)
    if claims:
        baselines = {claim.baseline for claim in claims[:1]}
        of = f"minus\n{_wrapped(baselines.pop())}"
        yield of + ("\n(points)" if headline.is_fraction else ""), lambda one: _of_claim(one, difference_words)
        yield "95 % interval", lambda one: _of_claim(one, interval_words)
        yield "p", lambda one: _of_claim(one, p_words)
        yield (
            "shown",
            lambda one: "baseline" if one.is_baseline else _of_claim(one, lambda c: SHOWN.get(c.kind, c.kind)),
        )
        if any(claim.difference and claim.difference.detectable is not None for claim in claims):
            yield "detectable", lambda one: _of_claim(one, detectable_words)
    if any(claim.speedup for claim in claims):
        yield "speed-up", lambda one: _of_claim(one, speedup_words)
    if comparison.targets:
        words = target_words(headline, comparison.targets[0]) if len(comparison.targets) == 1 else "target"
        yield f"steps to\n{words}", lambda one: _of_row(one, tables.steps)
    if ran_alike(comparison.outcomes):
        yield (
            "seconds",
            lambda one: _of_row(one, lambda row: tables.spread_words(row.metrics.get("seconds"), "{:.1f}".format)),
        )


def own_keys(standings: Sequence[Standing]) -> list[str]:
    """The keys that tell families apart beside their policy, whose columns follow the first."""
    families = [one.family for one in standings if one.family]
    keys = dict.fromkeys(key for family in families for key, _ in family.picked)
    settings = {key for family in families for key, _ in family.setting}
    return [key for key in keys if key not in ("policy", *RATES, *settings)]


def _wrapped(key: str) -> str:
    """A key or a family's name as a header that wraps at its dots and spaces."""
    return key.replace(".", ".\n").replace(" ", "\n")


def _value(split: str, measure: Measure, metric: str) -> tuple[str, Callable[[Standing], str]]:
    show: Mapping[bool, Callable[[Row], str]] = {
        True: lambda row: tables.spread_words(row.metrics.get(metric), tables.loss_words),
        False: lambda row: tables.measured(row.metrics.get(metric), measure),
    }
    return f"{split}\n{measure.label}", lambda one: _of_row(one, show[measure == LOSS])


def _of_row(one: Standing, show: Callable[[Row], str]) -> str:
    return show(one.row) if one.row else ""


def _of_claim(one: Standing, show: Callable[[Claim], str]) -> str:
    return show(one.claim) if one.claim else ""


def difference_words(claim: Claim) -> str:
    """The mean difference with its sign, or that there is none."""
    found = claim.difference
    return signed(claim.headline, found.mean) if found and math.isfinite(found.mean) else tables.NOTHING


def interval_words(claim: Claim) -> str:
    """The interval of the difference."""
    found = claim.difference
    if found is None or found.low is None or found.high is None:
        return tables.NOTHING
    return f"{signed(claim.headline, found.low)} to {signed(claim.headline, found.high)}"


def p_words(claim: Claim) -> str:
    """The p-value."""
    return tables.NOTHING if claim.p_adjusted is None else p_value(claim.p_adjusted)


def detectable_words(claim: Claim) -> str:
    """The smallest difference that would have been found."""
    found = claim.difference
    return unsigned(claim.headline, found.detectable) if found and found.detectable is not None else tables.NOTHING


def speedup_words(claim: Claim) -> str:
    """The speed-up to the target."""
    found = claim.speedup
    return f"{ratio_words(found)}x" if found and found.ratio is not None else tables.NOTHING
