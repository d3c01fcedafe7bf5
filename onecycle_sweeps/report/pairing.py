"""A family and its baseline, trial by trial of the same seed: these start from the same weights and batches."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onecycle_sweeps import provenance
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.groups import Family, group_name
from onecycle_sweeps.report.statistics import LEVEL, Difference, Speedup, paired_difference, speed_up

BUDGET = "steps"


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
        """What both share and other pairings do not: `epochs=5`."""
        return group_name(self.family.setting) or None

    @property
    def target(self) -> float | None:
        """The accuracy that all trials of both were to reach; None where they had none, or unlike ones."""
        targets = {o.entry.target_accuracy for side in self._sides for o in side.members}
        return targets.pop() if len(targets) == 1 else None

    @property
    def pairs(self) -> dict[str, tuple[Outcome, Outcome]]:
        """The trials of each seed that finished in both."""
        both = self._shared().items()
        return {seed: pair for seed, pair in both if all(outcome.finished for outcome in pair)}

    def difference(self, measure: str, level: float = LEVEL) -> Difference | None:
        """The family's measure less the baseline's, its interval at a level; None where no seed has it in both."""
        measured = {seed: pair for seed, pair in self.pairs.items() if all(measure in o.metrics for o in pair)}
        if not measured:
            return None
        ours, theirs = ({seed: pair[side].metrics[measure] for seed, pair in measured.items()} for side in (0, 1))
        return paired_difference(ours, theirs, level)

    def speedup(self) -> Speedup | None:
        """Over the seeds that ended in both; None without a target that both share."""
        arrivals = {seed: (one.arrival, other.arrival) for seed, (one, other) in self._shared().items()}
        ended = {seed: (one, other) for seed, (one, other) in arrivals.items() if one and other}
        if self.target is None or not ended:
            return None
        ours, theirs = ({seed: pair[side] for seed, pair in ended.items()} for side in (0, 1))
        return speed_up(ours, theirs)

    def unlike(self) -> dict[str, tuple[str, str]]:
        """What the paired trials differ in though it sways the result: values of the family, and of the baseline."""
        found: dict[str, tuple[str, str]] = {}
        facts = [tuple(map(_facts, pair)) for pair in self.pairs.values()]
        for key in (BUDGET, "precision", "device", "threads"):
            ours, theirs = ([pair[side][key] for pair in facts if key in pair[side]] for side in (0, 1))
            if ours and theirs and len({*ours, *theirs}) > 1:
                found[key] = (_listed(ours), _listed(theirs))
        # The trials at the other rates have picked the rate that is compared.
        made = [[o.resolved for members in side.rates.values() for o in members if o.ended] for side in self._sides]
        if changed := provenance.differing([record for side in made for record in side]):
            ours, theirs = (_listed([version for record in side for version in _of(record, changed)]) for side in made)
            found["code"] = (ours, theirs)
        return found

    def left_out(self) -> Iterator[str]:
        """What became of the trials that are in no pair for want of a result: `1 of clr diverged`."""
        for side in self._sides:
            counts = Counter(outcome.status for outcome in side.members if not outcome.finished)
            for status, count in sorted(counts.items()):
                yield f"{count} of {side.name} {status}"
        lone = {o.entry.varies["seed"] for side in self._sides for o in side.members}
        if lone := sorted(lone - self._shared().keys()):
            yield f"seeds that one of them alone was given: {', '.join(lone)}"

    def at_chance(self) -> Iterator[str]:
        """The seeds of both whose accuracy is about chance: `seed 3 of constant stayed at chance (49.17 %)`."""
        for side in self._sides:
            yield from at_chance(side.name, side.members)

    def _shared(self) -> dict[str, tuple[Outcome, Outcome]]:
        theirs = {outcome.entry.varies["seed"]: outcome for outcome in self.baseline.members}
        ours = {outcome.entry.varies["seed"]: outcome for outcome in self.family.members}
        return {seed: (outcome, theirs[seed]) for seed, outcome in ours.items() if seed in theirs}


def pairings(
    families: Sequence[Family], baseline: str | None = None, more: Sequence[tuple[str, str]] = ()
) -> Iterator[Pairing]:
    """Each family but the baseline with the baseline of its setting: the family or group of that name, else the first.

    Without a name it is the family that was typed first, in every setting that has it. `more` names further pairs, the
    baseline second, which follow unless they are there already.
    """
    called = (family.name for family in families if baseline and is_called(family, baseline))
    first = next(called, families[0].name if families else None)
    for setting in dict.fromkeys(family.setting for family in families):
        sharing = [family for family in families if family.setting == setting]
        against = next((family for family in sharing if family.name == first), sharing[0])
        yield from (Pairing(family, against) for family in sharing if family is not against)
        named = {family.name: family for family in sharing}
        for one, other in dict.fromkeys(more):
            if one in named and other in named and against.name not in (one, other):
                yield Pairing(named[one], named[other])


def is_called(family: Family, name: str) -> bool:
    """Whether a family, or a group of it, has this name."""
    return name in (family.name, *map(group_name, family.rates))


def at_chance(name: str, members: Sequence[Outcome]) -> Iterator[str]:
    """The line on the seeds of a group whose accuracy is about chance, if there are any."""
    low = {o.entry.varies["seed"]: o.metrics["final/val_accuracy"] for o in members if o.chance is not None}
    if low:
        seeds = f"seed{'s' * (len(low) > 1)} {', '.join(low)}"
        yield f"{seeds} of {name} stayed at chance ({', '.join(f'{100 * value:.2f} %' for value in low.values())})"


def _facts(outcome: Outcome) -> dict[str, str]:
    """What the trial's first attempt fixed, as far as it is known; of a device its kind alone."""
    fixed = outcome.resolved
    known = {key: str(fixed[key]) for key in ("precision", "threads") if key in fixed}
    known |= {"device": fixed["device"].partition(":")[0]} if "device" in fixed else {}
    return known | ({BUDGET: str(fixed["total_steps"])} if "total_steps" in fixed else {})


def _of(record: Mapping[str, Any], changed: Sequence[str]) -> Iterator[str]:
    """The contents of files, or the versions behind targets, that a result was made by."""
    known = record.get("code", {}) | record.get("files", {})
    yield from (f"{name} {known[name]}" for name in changed if name in known)


def _listed(values: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(values))
