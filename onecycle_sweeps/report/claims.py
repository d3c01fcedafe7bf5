"""What a sweep shows: each family of trials against the baseline, paired by seed, in numbers and in a sentence.

Trials of the same seed start from the same weights and see the same batches, so their differences are compared with a
paired t-test, adjusted for the number of claims by Holm's method.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from onecycle_sweeps import measures, provenance
from onecycle_sweeps.measures import MINUS, Measure, four_digits
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import groups
from onecycle_sweeps.report.groups import CODE_SHOWN, Family, few, group_name
from onecycle_sweeps.report.statistics import (
    LEVEL,
    Difference,
    Speedup,
    holm,
    holm_levels,
    paired_difference,
    speed_up,
)
from onecycle_sweeps.trial_folder import DIVERGED

STEPS = "steps"
# The bound of an interval that is closer to 0 than this is 0, but for the rounding errors of its computation.
NOUGHT = 1e-12
FROM_ONE_SEED = "From one seed nothing can be claimed"
Kind = Literal[
    "better",
    "better where it did not diverge",
    "better where it is finite",
    "worse",
    "no difference shown",
    "not comparable",
    "no verdict",
    "nothing can be claimed",
    "no seed finished in both",
    "no seed is finite in both",
]


@dataclass(frozen=True)
class Pairing:
    """A family and the baseline that it is compared with, in the same setting."""

    family: Family
    baseline: Family

    @property
    def _sides(self) -> tuple[Family, Family]:
        return self.family, self.baseline

    @property
    def setting(self) -> str | None:
        """What tells both apart from other pairings: `epochs=5`."""
        return group_name(self.family.setting) or None

    @property
    def target(self) -> float | None:
        """The target that all trials of both families share; None if they had none or different ones."""
        targets = {o.entry.target for side in self._sides for o in side.members}
        return targets.pop() if len(targets) == 1 else None

    @property
    def rates_tried(self) -> tuple[int, int] | None:
        """From how many rates each side was picked, if the numbers differ."""
        ours, theirs = self.family.tried, self.baseline.tried
        return (ours, theirs) if ours != theirs else None

    def difference(self, metric: str, level: float = LEVEL) -> Difference | None:
        """The family's metric minus the baseline's, over the seeds where both are finite; None if there are none."""
        ours, theirs = (
            {seed: value for seed, value in groups.finals(side.members, metric).items() if math.isfinite(value)}
            for side in self._sides
        )
        if not (shared := [seed for seed in ours if seed in theirs]):
            return None
        return paired_difference({s: ours[s] for s in shared}, {s: theirs[s] for s in shared}, level)

    def not_finite(self, metric: str) -> tuple[int, int]:
        """How many finished seeds of the family and of the baseline have a value that is not finite."""
        ours, theirs = (groups.finals(side.members, metric).values() for side in self._sides)
        return sum(not math.isfinite(one) for one in ours), sum(not math.isfinite(one) for one in theirs)

    def speedup(self) -> Speedup | None:
        """The speed-up over the seeds that ended in both; None without a common target."""
        arrivals = {seed: (one.arrival, other.arrival) for seed, (one, other) in self._shared().items()}
        ended = {seed: (one, other) for seed, (one, other) in arrivals.items() if one and other}
        if self.target is None or not ended:
            return None
        ours, theirs = ({seed: pair[side] for seed, pair in ended.items()} for side in (0, 1))
        return speed_up(ours, theirs)

    def unlike(self) -> dict[str, tuple[str, str]]:
        """Conditions that affect the result and differ between the pairs: values of the family and of the baseline."""
        found: dict[str, tuple[str, str]] = {}
        conditions = [tuple(map(_conditions, pair)) for pair in self._finished().values()]
        for key in (STEPS, "precision", "device", "threads"):
            ours, theirs = ([pair[side][key] for pair in conditions if key in pair[side]] for side in (0, 1))
            if ours and theirs and len({*ours, *theirs}) > 1:
                found[key] = (_listed(ours), _listed(theirs))
        # Trials at the other rates count too: they picked the rate that is compared.
        made = [[o.resolved for members in side.rates.values() for o in members if o.ended] for side in self._sides]
        if changed := provenance.differing([record for side in made for record in side]):
            ours, theirs = (dict.fromkeys(v for record in side for v in _versions(record, changed)) for side in made)
            found["code"] = (few(list(ours), CODE_SHOWN), few(list(theirs), CODE_SHOWN))
        return found

    def left_out(self, metric: str) -> Iterator[str]:
        """The trials that are in no pair for want of a finite result: `1 trial of clr diverged`."""
        for side in self._sides:
            counts = Counter(outcome.status for outcome in side.members if not outcome.finished)
            for status, count in sorted(counts.items()):
                yield f"{count} trial{'s' * (count > 1)} of {side.name} {status}"
            yield from (f"{line}: in no pair" for line in groups.not_finite(side.name, side.members, metric))
        seeds = {o.entry.varies["seed"] for side in self._sides for o in side.members}
        if unpaired := sorted(seeds - self._shared().keys()):
            yield f"seeds of one side only: {', '.join(unpaired)}"

    def at_chance(self) -> Iterator[str]:
        """The seeds of both families that are no better than chance."""
        for side in self._sides:
            yield from groups.at_chance(side.name, side.members)

    def _finished(self) -> dict[str, tuple[Outcome, Outcome]]:
        """The trials of each seed that finished in both."""
        return {seed: pair for seed, pair in self._shared().items() if all(outcome.finished for outcome in pair)}

    def _shared(self) -> dict[str, tuple[Outcome, Outcome]]:
        theirs = {outcome.entry.varies["seed"]: outcome for outcome in self.baseline.members}
        ours = {outcome.entry.varies["seed"]: outcome for outcome in self.family.members}
        return {seed: (outcome, theirs[seed]) for seed, outcome in ours.items() if seed in theirs}


def pairings(
    families: Sequence[Family], baseline: str | None = None, more: Sequence[tuple[str, str]] = ()
) -> Iterator[Pairing]:
    """Each family but the baseline, paired with the baseline of its setting.

    The baseline is the family or group called `baseline`, else the family typed first, in every setting that has it.
    The best family and the second best are a pair too. `more` names further pairs, the baseline second; they follow
    unless they are there already.
    """
    called = (family.name for family in families if baseline and family.is_called(baseline))
    first = next(called, families[0].name if families else None)
    for setting in dict.fromkeys(family.setting for family in families):
        sharing = [family for family in families if family.setting == setting]
        against = next((family for family in sharing if family.name == first), sharing[0])
        yield from (Pairing(family, against) for family in sharing if family is not against)
        named = {family.name: family for family in sharing}
        leading = [tuple(family.name for family in groups.ranked(sharing)[:2])]
        for one, other in dict.fromkeys(pair for pair in (*leading, *more) if len(pair) == 2):
            if one in named and other in named and against.name not in (one, other):
                yield Pairing(named[one], named[other])


@dataclass(frozen=True)
class Claim:
    """One family against the baseline at the same `budget` (`epochs=5`; None if nothing of the kind varies).

    `difference` is in the units of the `headline` measure, None without a seed that finished in both. `p_adjusted` is
    Holm's over the `tested` claims of the sweep; the difference's interval is adjusted in the same way. `speedup` is
    None without a `target`. `not_finite` counts the seeds of the family and of the baseline whose value is not finite,
    which are in no pair. `unlike` holds the conditions that forbid a comparison, `rates` the unequal numbers of
    rates that forbid a verdict, `diverged` the number of the family's diverged seeds; `remarks` end the sentence.
    `can_hold_out` says whether data.val_fraction would leave a test part to judge.
    """

    name: str
    baseline: str
    budget: str | None
    difference: Difference | None
    p_adjusted: float | None = None
    speedup: Speedup | None = None
    headline: Measure = measures.ACCURACY
    tested: int = 1
    target: float | None = None
    unlike: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    diverged: int = 0
    rates: tuple[int, int] | None = None
    can_hold_out: bool = True
    not_finite: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> Kind:
        if self.difference is None:
            return "no seed is finite in both" if any(self.not_finite) else "no seed finished in both"
        if self.unlike:
            return "not comparable"
        if self.rates:
            return "no verdict"
        if self.p_adjusted is None:
            return "nothing can be claimed"
        if self.p_adjusted >= LEVEL:
            return "no difference shown"
        if not self.headline.better(self.difference.mean, 0.0):
            return "worse"
        if self.diverged:
            return "better where it did not diverge"
        return "better where it is finite" if self.not_finite[0] else "better"

    @property
    def sentence(self) -> str:
        """The claim in words; differences of fractions are in points, which are hundredths."""
        parts = [self._verdict(), *([self._speedup(self.speedup)] if self.speedup else []), *self.remarks]
        return (f"{self.budget}: " if self.budget else "") + "; ".join(parts) + "."

    def flags(self) -> Iterator[str]:
        """A line for each condition that forbids a comparison."""
        where = f" at {self.budget}" if self.budget else ""
        for key, (ours, theirs) in self.unlike.items():
            each = f"each have {ours}" if ours == theirs else f"{ours} and {theirs}"
            yield f"{self.name} and {self.baseline}{where} differ in {key}: {each}"

    def _verdict(self) -> str:
        found, both = self.difference, f"{self.name} and {self.baseline}"
        if found is None:
            lacking = "has a finite value" if any(self.not_finite) else "has finished"
            return f"{self.name} against {self.baseline}: no seed {lacking} in both"
        mean = in_units(self.headline, signed(self.headline, found.mean), found.relative)
        if self.unlike:
            return f"not comparable: {both} differ in {' and '.join(self.unlike)}; {mean}{self._evidence(found)}"
        if self.rates:
            ours, theirs = self.rates
            return (
                f"no verdict on {both}: {mean} over {_seeds(found.pairs)}, but {self.name} is the best of {ours} "
                f"rate{'s' * (ours > 1)} and {self.baseline} of {theirs}, picked on the {self.headline.name} that is "
                "compared, which favours the one with more; a verdict needs as many rates for each"
                + (
                    ", other seeds at the picked rates, or data.val_fraction=0.1, which leaves the test set to judge"
                    if self.can_hold_out
                    else " or other seeds at the picked rates"
                )
            )
        if found.pairs == 1:
            return f"{FROM_ONE_SEED}: {self.name} against {self.baseline} {mean}"
        if found.p is None:
            differ = "do not differ in any" if not found.mean else f"differ by {mean} in each"
            return f"{both} {differ} of {found.pairs} seeds, so that nothing can be estimated or claimed"
        if self.kind == "no difference shown":
            return (
                f"no difference shown between {both}: {mean}{self._evidence(found)}; "
                f"minimum detectable difference: {self._detectable(found)}"
            )
        share = None if found.relative is None else abs(found.relative)
        by = in_units(self.headline, unsigned(self.headline, abs(found.mean)), share)
        word = "worse" if self.kind == "worse" else "better"
        return f"{self.name} is {word} than {self.baseline} by {by}{self._evidence(found, flipped=found.mean < 0)}"

    def _evidence(self, found: Difference, *, flipped: bool = False) -> str:
        if found.low is None or found.high is None:
            return f" ({_seeds(found.pairs)})"
        low, high = (-found.high, -found.low) if flipped else (found.low, found.high)
        interval = f"95 % interval {unsigned(self.headline, low)} to {unsigned(self.headline, high)}"
        if self.p_adjusted is None:
            return f" ({interval}, {_seeds(found.pairs)})"
        p = p_value(self.p_adjusted)
        adjusted = ", both after Holm" if self.tested > 1 else ""
        return f" ({interval}, p{p if p.startswith('<') else f'={p}'}{adjusted}, {_seeds(found.pairs)})"

    def _detectable(self, found: Difference) -> str:
        assert found.detectable is not None
        adjusted = ", after Holm" if self.tested > 1 else ""
        return f"{in_units(self.headline, unsigned(self.headline, found.detectable))} (80 % power{adjusted})"

    def _speedup(self, found: Speedup) -> str:
        target = target_words(self.headline, self.target or 0.0)
        missed = [(self.baseline, found.missed_baseline), (self.name, found.missed)]
        never = " and ".join(f"{_seeds(count)} of {name}" for name, count in missed if count)
        if found.ratio is None:
            return f"no speed-up to {target}: never reached by {never}"
        words = f"speed-up to {target}: {ratio_words(found)} in steps"
        if found.bound:
            return f"{words} ({_seeds(found.pairs)}; never reached by {never}, counted with the whole run)"
        adjusted = ", not adjusted" if self.tested > 1 else ""
        interval = "" if found.low is None else f"95 % interval {found.low:.2f} to {found.high:.2f}{adjusted}, "
        return f"{words} ({interval}{_seeds(found.pairs)})"


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
    """Compare each family with `baseline`, the name of a family or group, by default the first typed.

    `more` names further pairs of families to compare, the baseline second.

    Families are compared in the same setting only: at equal epochs, on the same data. Trials with another number of
    steps, precision, kind of device or number of threads are not comparable, nor are trials that other code produced;
    with `budgets_may_differ` another number of steps is accepted and mentioned. Families whose rates were picked from
    different numbers of rates by the metric that is compared get no verdict: the best of more rates is better for that
    alone.
    """
    families = groups.families(outcomes)
    metric, headline = groups.compared_metric(outcomes), groups.headline_of(outcomes)
    found = _claims(list(pairings(families, baseline, more)), metric, headline, budgets_may_differ)
    return Claims(
        baseline=found[0].baseline if found else None,
        measure=metric,
        claims=tuple(found),
        flags=(
            *_flags(outcomes, families, baseline, metric, headline),
            *(line for claim in found for line in claim.flags()),
        ),
        sentence=_summary(found, metric) or _uncompared(families),
    )


def _claims(pairs: Sequence[Pairing], metric: str, headline: Measure, budgets_may_differ: bool) -> list[Claim]:
    differences = [pairing.difference(metric) for pairing in pairs]
    unlikes = [pairing.unlike() for pairing in pairs]
    budgets = [unlike.pop(STEPS, None) if budgets_may_differ else None for unlike in unlikes]
    rates = [pairing.rates_tried if metric == headline.final_val else None for pairing in pairs]
    values = [d.p if d and not (a or b) else None for d, a, b in zip(differences, unlikes, rates, strict=True)]
    tested = [p for p in values if p is not None]
    adjusted = iter(zip(holm(tested), holm_levels(tested), strict=True))
    found: list[Claim] = []
    for i, pairing in enumerate(pairs):
        p, level = next(adjusted) if values[i] is not None else (None, LEVEL)
        difference, steps = pairing.difference(metric, level), budgets[i]
        if difference and rates[i]:
            difference = replace(difference, low=None, high=None, p=None, detectable=None)
        steps_differ = [f"steps: {steps[0]} against {steps[1]}"] if steps else []
        found.append(
            Claim(
                name=pairing.family.name,
                baseline=pairing.baseline.name,
                budget=pairing.setting,
                difference=difference,
                p_adjusted=p,
                speedup=None if unlikes[i] else pairing.speedup(),
                headline=headline,
                tested=len(tested),
                target=pairing.target,
                unlike=unlikes[i],
                remarks=(*pairing.left_out(metric), *pairing.at_chance(), *steps_differ),
                diverged=sum(outcome.status == DIVERGED for outcome in pairing.family.members),
                rates=rates[i],
                can_hold_out=groups.can_hold_out((pairing.family.members, pairing.baseline.members)),
                not_finite=pairing.not_finite(metric),
            )
        )
    return found


def _flags(
    outcomes: Sequence[Outcome], families: Sequence[Family], baseline: str | None, metric: str, headline: Measure
) -> Iterator[str]:
    if baseline and families and not any(family.is_called(baseline) for family in families):
        yield f"The baseline {baseline} is not in this sweep: {families[0].name}, which was typed first, replaces it."
    on_val = metric == headline.final_val
    if on_val and any(headline.final_test in outcome.metrics for outcome in outcomes):
        yield (
            f"Not every finished trial has {headline.final_test}: {metric} is compared instead, and need not be of the "
            "same samples."
        )
    yield from groups.mixed_code(outcomes)
    yield from groups.picks(families, headline, on_val=on_val)
    if len(families) == 1:
        only = families[0]
        yield from (f"{line}." for line in groups.at_chance(only.name, only.members))
        yield from (f"{line}." for line in groups.not_finite(only.name, only.members, metric))


def _summary(claims: Sequence[Claim], metric: str) -> str:
    """What all claims show together, a sentence for each baseline; empty without a claim."""
    against: dict[str, dict[Kind, list[tuple[str, str | None]]]] = {}
    for claim in claims:
        against.setdefault(claim.baseline, {}).setdefault(claim.kind, []).append((claim.name, claim.budget))
    return " ".join(
        f"Against {baseline} by {metric}, "
        + "; ".join(f"{kind}: {', '.join(groups.in_settings(names))}" for kind, names in by_kind.items())
        + "."
        for baseline, by_kind in against.items()
    )


def _uncompared(families: Sequence[Family]) -> str:
    """The sentence of a sweep in which nothing is compared."""
    finished = [outcome for family in families for outcome in family.members if outcome.finished]
    return f"{FROM_ONE_SEED}. More seeds: seed=0,1,2 -m." if len(finished) == 1 else ""


def ratio_words(found: Speedup) -> str:
    """A speed-up as a number, or as the bound that it is; a dash if there is none."""
    return "-" if found.ratio is None else f"{found.bound} {found.ratio:.2f}" if found.bound else f"{found.ratio:.2f}"


def p_value(p: float) -> str:
    """A p-value with two digits, or as many as show on which side of LEVEL it lies."""
    if p < 0.001:
        return "<0.001"
    return next(shown for digits in range(2, 18) if (float(shown := f"{p:.{digits}g}") < LEVEL) == (p < LEVEL))


def unsigned(headline: Measure, difference: float) -> str:
    """A difference in points with two decimals, or as many as show that it is not 0; no fraction: four digits."""
    if not headline.is_fraction:
        return four_digits(difference)
    value = 100 * difference
    decimals = 2 if abs(value) >= 0.005 or abs(difference) < NOUGHT else -math.floor(math.log10(abs(value)))
    return f"{value:z.{decimals}f}".replace("-", MINUS)


def signed(headline: Measure, difference: float) -> str:
    """A difference with its sign."""
    shown = unsigned(headline, difference)
    return shown if shown.startswith(MINUS) else f"+{shown}"


def in_units(headline: Measure, number: str, relative: float | None = None) -> str:
    """A number with the unit of the measure's differences; `relative` is the same as a share of the baseline."""
    if headline.is_fraction:
        return f"{number} points"
    sign = "+" if number[0] in f"+{MINUS}" else ""
    share = "" if relative is None else f" or {100 * relative:{sign}.2g} %".replace(" -", f" {MINUS}")
    return f"{number} in {headline.name}{share}"


def target_words(headline: Measure, target: float) -> str:
    """A target as it was typed, fractions in per cent: `90 %`."""
    return f"{headline.shown(target):g}{' %' if headline.is_fraction else ''}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _conditions(outcome: Outcome) -> dict[str, str]:
    """What the trial's first attempt fixed, as far as it is known; of a device only its kind."""
    fixed = outcome.resolved
    known = {key: str(fixed[key]) for key in ("precision", "threads") if key in fixed}
    known |= {"device": fixed["device"].partition(":")[0]} if "device" in fixed else {}
    return known | ({STEPS: str(fixed["total_steps"])} if "total_steps" in fixed else {})


def _versions(record: Mapping[str, Any], changed: Sequence[str]) -> Iterator[str]:
    """The hashes or versions of what changed, as a result's record has them."""
    known = record.get("code", {}) | record.get("files", {})
    yield from (f"{name} {known[name]}" for name in changed if name in known)


def _listed(values: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(values))
