"""Trials that belong together: those of a group differ in their seed only, those of a family also in their rate."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onecycle_sweeps import measures, provenance
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.sweep import PROBE, RANGE_TEST, TRAIN, Group
from onecycle_sweeps.sweep import group_name as group_name

RATES = ("max_lr_scale", "max_lr", "policy.max_lr")
# How many changed files and libraries a line names.
CODE_SHOWN = 3
TRANSFORMS = ("data.augment", "data.evaluation")
# Whether there is a result, the negative share of seeds without a value, and the mean of the others.
Score = tuple[bool, float, float]


@dataclass(frozen=True)
class Family:
    """Groups that differ in their rate only, in the order typed, and the group with the best rate.

    `setting` is what families must share to be compared: epochs and data, and where policies vary, the model.
    """

    name: str
    setting: Group
    rates: Mapping[Group, Sequence[Outcome]]
    picked: Group

    @property
    def members(self) -> Sequence[Outcome]:
        """The trials at the picked rate."""
        return self.rates[self.picked]

    @property
    def tried(self) -> int:
        """How many rates have a result; a divergence is one."""
        return sum(any(outcome.ended for outcome in members) for members in self.rates.values())

    @property
    def learned(self) -> bool:
        """Whether a trial finished at the picked rate; otherwise no rate is the best."""
        return any(outcome.finished for outcome in self.members)

    def is_called(self, name: str) -> bool:
        """Whether the family or one of its groups has this name."""
        return name in (self.name, *map(group_name, self.rates))


def measures_of(outcomes: Iterable[Outcome]) -> tuple[Measure, ...]:
    """What a sweep's trials are measured by, headline first: the measures of the first that has begun."""
    return measures.of_trial(next((outcome.resolved for outcome in outcomes if outcome.resolved), None))


def headline_of(outcomes: Iterable[Outcome]) -> Measure:
    """The measure that a sweep's trials are judged by."""
    return measures_of(outcomes)[0]


def compared_metric(outcomes: Sequence[Outcome]) -> str:
    """The metric that is compared: of the test set if all finished trainings have it, else of the validation set."""
    finished = [outcome for outcome in outcomes if outcome.entry.kind == TRAIN and outcome.finished]
    headline = headline_of(outcomes)
    on_test = finished and all(headline.final_test in outcome.metrics for outcome in finished)
    return headline.final_test if on_test else headline.final_val


def by_group(outcomes: Iterable[Outcome]) -> dict[Group, list[Outcome]]:
    """The trainings by everything that varies except the seed, in order of first appearance."""
    groups: dict[Group, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.entry.kind == TRAIN:
            groups.setdefault(outcome.entry.group, []).append(outcome)
    return groups


def families(outcomes: Sequence[Outcome]) -> list[Family]:
    """The families in order of first appearance, each with the rate that has the best `score`.

    Among rates with equal scores, as happens with few validation samples, the lowest mean validation loss wins.
    """
    groups = by_group(outcomes)
    several_policies = len({value for group in groups for key, value in group if key == "policy"}) > 1
    found: dict[tuple[Group, Group], dict[Group, list[Outcome]]] = {}
    for group, members in groups.items():
        setting = tuple(item for item in group if _is_setting(item[0], several_policies))
        own = tuple(item for item in group if item not in setting and item[0] not in RATES)
        found.setdefault((own, setting), {})[group] = members

    def promise(members: Sequence[Outcome]) -> tuple[Score, float]:
        losses = [loss for o in members if (loss := o.final_loss) is not None]
        mean = sum(losses) / len(losses) if losses else math.inf
        return score(members), -math.inf if math.isnan(mean) else -mean

    return [
        Family(group_name(own), setting, rates, max(rates, key=lambda group: promise(rates[group])))
        for (own, setting), rates in found.items()
    ]


def ranked(found: Sequence[Family]) -> list[Family]:
    """The families that have finished trials at their picked rate, best first by `score`."""
    return sorted((one for one in found if one.learned), key=lambda one: score(one.members), reverse=True)


def score(members: Sequence[Outcome]) -> Score:
    """What ranks groups, higher is better: by the mean final headline measure of the seeds that ended.

    A seed that diverged counts with the measure's worst value. Without a finite one, a group with a smaller share of
    such seeds comes first, and the mean is over the other seeds. A group without a result is last.
    """
    headline = headline_of(members)
    finals = [o.metrics.get(headline.final_val, math.nan) for o in members if o.ended]
    values = [value if math.isfinite(value) else headline.worst for value in finals]
    known = [value for value in values if math.isfinite(value)]
    # To the digits of float32, so that equal values that went through it are equal.
    mean = float(f"{sum(known) / len(known):.7g}") if known else 0.0
    share = (len(values) - len(known)) / len(values) if values else 0.0
    return bool(values), -share, mean if headline.goal == "max" else -mean


def _is_setting(key: str, several_policies: bool) -> bool:
    if key == "epochs" or (key.partition(".")[0] == "data" and key not in TRANSFORMS):
        return True
    return several_policies and key.partition(".")[0] in ("data", "model")


def ran_alike(outcomes: Sequence[Outcome]) -> bool:
    """Whether the seconds of the finished trainings can be compared.

    All were trained by this sweep in one attempt, on one machine, on the same device, with the same number of threads,
    and in the same precision.
    """
    done = [outcome for outcome in outcomes if outcome.entry.kind == TRAIN and outcome.finished]
    places = {
        (
            *sorted({attempt.host for attempt in o.history}),
            *(o.resolved.get(k) for k in ("device", "threads", "precision")),
        )
        for o in done
    }
    return len(places) == 1 and not any(outcome.entry.reused or outcome.attempts > 1 for outcome in done)


def few(values: Sequence[str], most: int) -> str:
    """The values in a list; of many the first `most`, and how many there are."""
    return ", ".join(values[:most]) + (f", … ({len(values)} in all)" if len(values) > most else "")


def in_settings(named: Iterable[tuple[str, str | None]]) -> list[str]:
    """Each name once, with the settings that it is named for: `onecycle (epochs=5, epochs=10)`."""
    settings: dict[str, list[str]] = {}
    for name, setting in named:
        settings.setdefault(name, []).extend([setting] if setting else [])
    return [f"{name} ({', '.join(within)})" if within else name for name, within in settings.items()]


def at_chance(name: str, members: Sequence[Outcome]) -> Iterator[str]:
    """The seeds of a group that are no better than chance: `seed 3 of constant stayed at chance (49.17 %)`."""
    low = {o.entry.varies["seed"]: o.headline.text(o.final or 0.0) for o in members if o.chance is not None}
    if low:
        yield f"seed{'s' * (len(low) > 1)} {', '.join(low)} of {name} stayed at chance ({', '.join(low.values())})"


def not_finite(name: str, members: Sequence[Outcome], metric: str) -> Iterator[str]:
    """The finished seeds of a group whose metric is no finite number: `seed 3 of constant ended with accuracy nan`."""
    found = {seed: f"{value}" for seed, value in finals(members, metric).items() if not math.isfinite(value)}
    if found:
        yield (
            f"seed{'s' * (len(found) > 1)} {', '.join(found)} of {name} ended with {metric} "
            f"{', '.join(dict.fromkeys(found.values()))}"
        )


def finals(members: Sequence[Outcome], metric: str) -> dict[str, float]:
    """The metric of each seed that finished and has it."""
    return {o.entry.varies["seed"]: o.metrics[metric] for o in members if o.finished and metric in o.metrics}


def picks(found: Sequence[Family], headline: Measure, *, on_val: bool) -> Iterator[str]:
    """The picked rates and a line for each doubt about a pick; nothing if each family has one rate.

    `on_val` says whether claims compare the metric that picked the rates.
    """
    tuned = [family for family in found if len(family.rates) > 1]
    if not tuned:
        return
    picked = [family for family in tuned if family.learned]
    if picked:
        named = in_settings((f"{f.name} {_rate(f.picked)}", group_name(f.setting)) for f in picked)
        yield f"Each policy at its best rate by mean final val {headline.name}: {', '.join(named)}."
    for family in tuned:
        if not family.learned and family.tried:
            yield f"{_name(family)} has no best rate: no seed finished at any of them."
    if picked and on_val:
        remedy = (
            "with data.val_fraction=0.1 the rates are picked on samples held out of the training set, and the test set "
            "is quoted."
            if can_hold_out(family.members for family in picked)
            else "the picked rates with other seeds and another data.split_seed would remove this doubt."
        )
        yield (
            f"The quoted {headline.name} also picked the rates, so it is optimistic, most of all for a policy that "
            f"does about equally well at several rates: {remedy}"
        )
    elif picked and len({family.tried for family in found}) > 1:
        yield (
            "The rates were picked on other samples than those quoted, but from the same trainings, and a policy that "
            "tried more rates had more of them to pick from: other seeds at the picked rates would remove this doubt."
        )
    edges = [(family, edge) for family in picked if (edge := _edge(family))]
    if at_edge := in_settings((f"{family.name} took the {edge}", group_name(family.setting)) for family, edge in edges):
        yield f"A rate beyond those tried may be better still: {', '.join(at_edge)}."
    for family in tuned:
        if short := [f"{_rate(group)} ({lacks})" for group in family.rates if (lacks := _unfinished(family, group))]:
            yield f"Rates of {_name(family)} that lack seeds, so that the pick may change: {', '.join(short)}."


def can_hold_out(found: Iterable[Sequence[Outcome]]) -> bool:
    """Whether data.val_fraction would leave a test part to judge: data without an official one hold out val already."""
    return not any((members[0].config.get("data") or {}).get("val_fraction") for members in found if members)


def _name(family: Family) -> str:
    return family.name + (f" ({group_name(family.setting)})" if family.setting else "")


def _rate(group: Group) -> str:
    return group_name(tuple(item for item in group if item[0] in RATES))


def _edge(family: Family) -> str | None:
    """Whether the picked rate is the lowest or the highest of the rates that were used."""
    used = {
        group: max((o.max_lr for o in members if o.max_lr is not None), default=None)
        for group, members in family.rates.items()
    }
    known, picked = {rate for rate in used.values() if rate is not None}, used[family.picked]
    if picked is None or len(known) < 2:
        return None
    return "highest" if picked == max(known) else "lowest" if picked == min(known) else None


def _unfinished(family: Family, group: Group) -> str | None:
    members = family.rates[group]
    missing = sum(not outcome.ended for outcome in members)
    return f"{missing} of {len(members)} have no result" if missing else None


def mixed_code(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lines on trials of one sweep that different code produced: trainings, library versions, and range tests."""
    trained = sorted(
        (o for o in outcomes if o.entry.kind == TRAIN and o.ended), key=lambda o: o.result.get("finished", 0)
    )
    if changed := provenance.differing([o.resolved for o in trained]):
        newest: dict[str, str] = {}
        for outcome in trained:
            newest |= _code(outcome.resolved)
        older = [o for o in trained if any(newest[key] != value for key, value in _code(o.resolved).items())]
        yield (
            f"{few(changed, CODE_SHOWN)} changed after {_with_seeds(older)} had been trained, so the trials come from "
            "different code: the same command with rerun=true trains all of them again."
        )
    known = [o.resolved["versions"] for o in trained if "versions" in o.resolved]
    for package in dict.fromkeys(name for versions in known for name in versions):
        if len(found := dict.fromkeys(versions[package] for versions in known if package in versions)) > 1:
            yield f"The trials were trained with {package} {' and '.join(found)}."
    finders = {o.entry.signature: o for o in outcomes if o.entry.kind in (RANGE_TEST, PROBE)}
    tuned = [(o, finders[o.entry.needs]) for o in trained if o.entry.needs in finders]
    for kind in (RANGE_TEST, PROBE):
        since = [(o, provenance.differing([o.resolved, one.resolved])) for o, one in tuned if one.entry.kind == kind]
        if names := list(dict.fromkeys(name for _, changed in since for name in changed)):
            later = _with_seeds([outcome for outcome, changed in since if changed])
            yield (
                f"{few(names, CODE_SHOWN)} changed between the {kind.replace('_', ' ')} and {later}: their rate comes "
                "from other code; rerun=true finds it again."
            )


def _code(resolved: Mapping[str, Any]) -> dict[str, str]:
    """The files and libraries behind a result, without torch."""
    libraries = {target: value for target, value in resolved.get("code", {}).items() if not value.startswith("torch ")}
    return libraries | resolved.get("files", {})


def _with_seeds(outcomes: Sequence[Outcome]) -> str:
    """Trainings by group and seeds: `onecycle (seeds 0, 1)`."""
    found: list[str] = []
    for group, members in by_group(outcomes).items():
        seeds = sorted((o.entry.varies["seed"] for o in members), key=int)
        found.append(f"{group_name(group)} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})")
    return " and ".join(found)
