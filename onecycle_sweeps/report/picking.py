"""Which rate each family was picked at, and what there is to say against the pick."""

from collections.abc import Iterator, Sequence

from onecycle_sweeps.report.groups import RATES, Family, Group, group_name
from onecycle_sweeps.report.sentences import in_settings
from onecycle_sweeps.trial_folder import DIVERGED


def picks(families: Sequence[Family], on_the_measure: bool) -> Iterator[str]:
    """A line on the picked rates, and one on each doubt; nothing where each family has one rate.

    `on_the_measure` is whether the accuracy that picked a rate is also the one that is compared.
    """
    tuned = [family for family in families if len(family.rates) > 1]
    if not tuned:
        return
    picked = [family for family in tuned if family.learned]
    if picked:
        named = in_settings((_pick(family), group_name(family.setting)) for family in picked)
        yield f"Each policy at its best rate by mean final val accuracy: {', '.join(named)}."
    for family in tuned:
        if not family.learned and family.tried:
            yield f"{_name(family)} has no best rate: no seed finished at any of them."
    if picked and on_the_measure:
        yield (
            "The rates were picked on the accuracy that is quoted, which is optimistic: data.val_fraction=0.1 picks "
            "them on images held out of the training set, and quotes the test set. A policy that does about equally "
            "well at several rates gains the most by such a pick."
        )
    elif picked and len({family.tried for family in families}) > 1:
        yield (
            "The rates were picked on other images than are quoted, but on the same trainings, of which a policy that "
            "tried more rates had more to pick from: other seeds at the picked rates would leave no doubt."
        )
    edges = [(family, edge) for family in picked if (edge := _edge(family))]
    at_edge = in_settings((f"{family.name} took the {edge}", group_name(family.setting)) for family, edge in edges)
    if at_edge:
        yield f"A rate beyond those tried may be better still: {', '.join(at_edge)}."
    for family in tuned:
        if short := [f"{_rate(group)} ({lacks})" for group in family.rates if (lacks := _unfinished(family, group))]:
            yield f"Rates of {_name(family)} that lack seeds, so that its pick may change: {', '.join(short)}."


def _pick(family: Family) -> str:
    return f"{family.name} {_rate(family.picked)}"


def _name(family: Family) -> str:
    return family.name + (f" ({group_name(family.setting)})" if family.setting else "")


def _rate(group: Group) -> str:
    return group_name(tuple(item for item in group if item[0] in RATES))


def _edge(family: Family) -> str | None:
    """Whether the picked rate is the lowest or the highest tried, by the rates that were used."""
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
    missing = sum(not outcome.finished and outcome.status != DIVERGED for outcome in members)
    return f"{missing} of {len(members)} have no result" if missing else None
