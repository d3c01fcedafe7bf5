"""A sweep's answer in a sentence or two: what is best for which data and model, by how much, and how surely."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import groups
from onecycle_sweeps.report.claims import FROM_ONE_SEED, Claim, Claims, in_units, p_value, unsigned
from onecycle_sweeps.report.groups import Family, group_name
from onecycle_sweeps.report.range_tests import VERDICT, verdict
from onecycle_sweeps.report.statistics import Difference, detectable_effect, spread
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN
from onecycle_sweeps.trial_folder import DIVERGED, ENDED

# A difference that is worth more seeds: half a point, or one per cent of a measure that is no fraction.
POINTS, SHARE = 0.005, 0.01
MOST_SEEDS = 100


def answer(choices: Mapping[str, str], outcomes: Sequence[Outcome], claims: Claims) -> str:
    """The best family beside the baseline and beside the second, after the names of the sweep's data and model.

    If families are compared in several settings (epochs, data), the answer is that of the best family's setting.
    """
    ranked = groups.ranked(groups.families(outcomes))
    if not ranked:
        text = f"{_about(choices)}{_range_tests(outcomes)}"
        return text[:1].upper() + text[1:]
    best, *others = [family for family in ranked if family.setting == ranked[0].setting]
    where = f"at {group_name(best.setting)} " if best.setting else ""
    reached = f"{_about(choices)}{where}{best.name} reached {_value(best, outcomes)}"
    compared = {other.name: (other, found) for other in others if (found := _claim(claims.claims, best, other))}
    first = [*(name for name in compared if name == claims.baseline), *compared][:1]
    second = [name for name in [*compared][:1] if name not in first]
    if not first:
        seeds = sum(outcome.finished for outcome in best.members)
        return f"{reached} ({seeds} seed{'s' * (seeds != 1)})."
    gains = ""
    others_said: dict[tuple[str, str], list[str]] = {}
    for name in (*first, *second):
        other, claim = compared[name]
        if _better(claim) != best.name:
            others_said.setdefault(_undecided(claim, best), []).append(
                f"{name} ({_value_and_divergence(other, outcomes)})"
            )
        else:
            gains += f"{', ' if not gains else ' and '}{_gain(claim)} {name} ({_evidence(claim)})"
    sentences = [f"{before}{' or '.join(names)}{after}." for (before, after), names in others_said.items()]
    return " ".join([f"{reached}{gains}.", *sentences])


def findings(outcomes: Sequence[Outcome], claims: Claims) -> dict[str, str | float]:
    """The answer for a search: texts, and numbers in the measure's own units, by name; empty without a result.

    The gain is by how much the best mean is better than the baseline's or, if the baseline is best, than the second's.
    """
    ranked = groups.ranked(groups.families(outcomes))
    if not ranked:
        return {}
    best, *others = [family for family in ranked if family.setting == ranked[0].setting]
    compared = {other.name: found for other in others if (found := _claim(claims.claims, best, other))}
    over = claims.baseline if claims.baseline in compared else next(iter(compared), None)
    if over is None or (difference := compared[over].difference) is None:
        return {"best": best.name, "winner": "none shown"}
    claim = compared[over]
    headline = claim.headline
    towards_best = (1 if claim.name == best.name else -1) * (1 if headline.goal == "max" else -1)
    gain = towards_best * difference.mean
    facts: dict[str, str | float] = {
        "best": best.name,
        "winner": best.name if _better(claim) == best.name else "none shown",
        "gain": f"{in_units(headline, unsigned(headline, gain))} over {over}",
        "gain/mean": gain,
    }
    if difference.low is not None and difference.high is not None:
        low, high = sorted((towards_best * difference.low, towards_best * difference.high))
        facts["interval"] = f"{unsigned(headline, low)} to {unsigned(headline, high)}"
        facts |= {"gain/low": low, "gain/high": high}
    if claim.p_adjusted is not None:
        facts |= {"p": p_value(claim.p_adjusted), "gain/p": claim.p_adjusted}
    return facts


def _about(choices: Mapping[str, str]) -> str:
    """What was trained on what, as the beginning of a sentence; empty for a sweep that has not recorded it."""
    if loop := choices.get("loop"):
        return f"With {loop}, "
    model = f" with {choices['model']}" if "model" in choices else ""
    return f"On {choices['data']}{model}, " if "data" in choices else ""


def _range_tests(outcomes: Sequence[Outcome]) -> str:
    """The end of the answer where no training has a result."""
    found = [text for o in outcomes if o.entry.kind == RANGE_TEST and (text := verdict(o))]
    if not found or any(outcome.entry.kind != RANGE_TEST for outcome in outcomes):
        trained = [outcome for outcome in outcomes if outcome.entry.kind == TRAIN]
        ends = Counter(outcome.status for outcome in trained or outcomes)
        told = f": {', '.join(f'{count} {status}' for status, count in ends.items())}"
        return f"no {'training' if trained else 'range test'} has finished{' yet' if ends.keys() - {*ENDED} else told}."
    if len(found) == 1:
        return f"the range test suggests {found[0]}."
    if len(found) == 2:
        places = [o.entry.group for o in outcomes if verdict(o)]
        named = [f"{text} at {group_name(place)}" if place else text for text, place in zip(found, places, strict=True)]
        return f"the range tests suggest {'; '.join(named)}."
    rates = [o.suggestions[VERDICT] for o in outcomes if VERDICT in o.suggestions]
    return f"the {len(found)} range tests suggest max_lr from {min(rates):.3g} to {max(rates):.3g}."


def _value(family: Family, outcomes: Sequence[Outcome]) -> str:
    """The mean of a family's finished seeds by the metric that is compared: `90.05 %`, `rmse 54.2`."""
    metric, headline = groups.compared_metric(outcomes), groups.headline_of(outcomes)
    found = spread([o.metrics[metric] for o in family.members if o.finished and metric in o.metrics])
    if found is None:
        return "no final value"
    if not math.isfinite(found.mean):
        return f"no finite mean {headline.name}"
    text = headline.text(found.mean)
    return text if headline.name == "accuracy" else f"{headline.name} {text}"


def _value_and_divergence(family: Family, outcomes: Sequence[Outcome]) -> str:
    """The same with the number of seeds that diverged: they count in the order of the families, but not in the mean."""
    diverged = sum(outcome.status == DIVERGED for outcome in family.members)
    lost = f", {diverged} of {len(family.members)} seeds diverged" if diverged else ""
    return f"{_value(family, outcomes)}{lost}"


def _claim(claims: Sequence[Claim], one: Family, other: Family) -> Claim | None:
    """The claim on two families of one setting, whichever of them is the baseline."""
    names, budget = {one.name, other.name}, group_name(one.setting) or None
    return next((c for c in claims if {c.name, c.baseline} == names and c.budget == budget), None)


def _better(claim: Claim) -> str | None:
    """The side that the claim shows to be better."""
    if claim.kind == "worse":
        return claim.baseline
    return claim.name if claim.kind.startswith("better") else None


def _gain(claim: Claim) -> str:
    """By how much a side is better: `2.56 points above`, or `1.7 (3.1 %) below` after the measure's name."""
    found = claim.difference
    assert found
    share = found.relative
    if share is not None and claim.kind == "worse":
        # As a share of the side that is named, which here is not the claim's baseline.
        share = share / (1 + share) if share != -1 else None
    amount = unsigned(claim.headline, abs(found.mean))
    if claim.headline.is_fraction:
        amount = in_units(claim.headline, amount)
    elif share is not None:
        amount = f"{amount} ({100 * abs(share):.2g} %)"
    return f"{amount} {'above' if claim.headline.goal == 'max' else 'below'}"


def _evidence(claim: Claim) -> str:
    found = claim.difference
    assert found and found.low is not None and found.high is not None
    low, high = sorted((abs(found.low), abs(found.high)))
    interval = f"{unsigned(claim.headline, low)} to {unsigned(claim.headline, high)}"
    return f"95 % interval {interval}; {found.pairs} seeds"


def _undecided(claim: Claim, best: Family) -> tuple[str, str]:
    """Why the best is not shown to be better than another family, and what would show it: the texts around its name."""
    kind, found = claim.kind, claim.difference
    if kind == "not comparable":
        return "It is not comparable with ", f": they differ in {' and '.join(claim.unlike)}"
    if kind == "no verdict":
        return "There is no verdict on ", ", which was picked from a different number of rates"
    if kind == "no seed is finite in both":
        return f"No seed has a finite value in both {best.name} and ", ""
    if found is None:
        return f"No seed has finished in both {best.name} and ", ""
    if found.pairs == 1 and sum(outcome.finished for outcome in best.members) > 1:
        seed = "seed with finite values" if any(claim.not_finite) else "finished seed"
        return f"It has only one {seed} in common with ", ", from which nothing can be claimed"
    if found.pairs == 1:
        return f"{FROM_ONE_SEED} about its difference from ", "; add seeds, such as seed=0,1,2 -m"
    if _better(claim) is not None:
        return f"On the same seeds, however, {best.name} is worse than ", f" ({_evidence(claim)})"
    return "It cannot be told apart from ", "".join(_more_seeds(claim, found))


def _more_seeds(claim: Claim, found: Difference) -> Iterator[str]:
    """How many more seeds would show a difference that matters, or which smaller difference these seeds would show."""
    if not found.detectable:
        return
    base = abs(found.mean / found.relative) if found.relative else 0.0
    wanted = POINTS if claim.headline.is_fraction else SHARE * base
    if found.detectable <= wanted:
        yield f"; a difference of {in_units(claim.headline, unsigned(claim.headline, found.detectable))} would show"
        return
    deviation = found.detectable / detectable_effect(found.pairs, found.level)
    amount = in_units(claim.headline, unsigned(claim.headline, wanted))
    for seeds in range(found.pairs + 1, MOST_SEEDS + 1):
        if deviation * detectable_effect(seeds, found.level) <= wanted:
            more = seeds - found.pairs
            yield f"; {more} more seed{'s' * (more > 1)} would show a difference of {amount}"
            return
    if wanted:
        yield f"; even {MOST_SEEDS} seeds would be too few to show a difference of {amount}"
