"""Trainings that belong together: those of a group differ in their seed alone, those of a family in their rate too."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.sweep import TRAIN, Group
from onecycle_sweeps.sweep import group_name as group_name

RATES = ("max_lr_scale", "max_lr", "policy.max_lr")
TRANSFORMS = ("data.augment", "data.evaluation")


@dataclass(frozen=True)
class Family:
    """Groups that differ in their rate alone, in the order typed, and the one whose rate did best.

    `setting` is what families have to share to be compared: their epochs, their data, and where policies vary, the
    model.
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
        """How many rates have a result, a divergence among them."""
        return sum(any(outcome.ended for outcome in members) for members in self.rates.values())

    @property
    def learned(self) -> bool:
        """Whether a trial has finished at the picked rate, without which no rate is the best."""
        return any(outcome.finished for outcome in self.members)


def by_group(outcomes: Iterable[Outcome]) -> dict[Group, list[Outcome]]:
    """The trainings by all that varies but the seed, groups and members in order of first appearance."""
    groups: dict[Group, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.entry.kind == TRAIN:
            groups.setdefault(outcome.entry.group, []).append(outcome)
    return groups


def families(outcomes: Iterable[Outcome]) -> list[Family]:
    """The families in order of first appearance, each at its rate with the best `standing`.

    Of rates that stand alike, as on few images they may, that with the lowest mean val loss is picked.
    """
    groups = by_group(outcomes)
    several_policies = len({value for group in groups for key, value in group if key == "policy"}) > 1
    found: dict[tuple[Group, Group], dict[Group, list[Outcome]]] = {}
    for group, members in groups.items():
        setting = tuple(item for item in group if _is_setting(item[0], several_policies))
        own = tuple(item for item in group if item not in setting and item[0] not in RATES)
        found.setdefault((own, setting), {})[group] = members
    return [
        Family(group_name(own), setting, rates, max(rates, key=lambda group: _promise(rates[group])))
        for (own, setting), rates in found.items()
    ]


def standing(members: Iterable[Outcome]) -> float:
    """Mean final val accuracy of the seeds that ended, a diverged one as 0; minus infinity where none has."""
    ended = [o.metrics.get("final/val_accuracy", 0.0) for o in members if o.ended]
    mean = sum(ended) / len(ended) if ended else -math.inf
    return 0.0 if math.isnan(mean) else mean


def _promise(members: Sequence[Outcome]) -> tuple[float, float]:
    losses = [o.val_loss.values[-1] for o in members if o.finished and o.val_loss]
    return round(standing(members), 12), -sum(losses) / len(losses) if losses else -math.inf


def _is_setting(key: str, several_policies: bool) -> bool:
    if key == "epochs" or (key.partition(".")[0] == "data" and key not in TRANSFORMS):
        return True
    return several_policies and key.partition(".")[0] in ("data", "model")
