"""What the figures of a sweep share: its groups best first, how each is drawn, and which trial stands for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.comparison import Comparison
from onecycle_sweeps.report.groups import Group, by_group, group_name
from onecycle_sweeps.report.planned import Plan, plan


@dataclass(frozen=True)
class Example:
    """The trial whose trajectory stands for its group's, and what its policy planned."""

    outcome: Outcome
    plan: Plan


@dataclass(frozen=True)
class Shown:
    """Groups in order of rank: their members, their styles, and an example of each that has taken a step."""

    members: Mapping[Group, Sequence[Outcome]]
    styles: Mapping[Group, canvas.Style]
    examples: Mapping[Group, Example]

    @property
    def highlighted(self) -> list[Group]:
        """The groups drawn in colours of their own."""
        return [group for group, style in self.styles.items() if style.highlighted]

    @property
    def several_seeds(self) -> bool:
        return any(len(members) > 1 for members in self.members.values())

    def label(self, group: Group) -> str:
        """A group's name in a figure's legend, which those in grey share."""
        grey = len(self.styles) - len(self.highlighted)
        return canvas.plain(group_name(group)) if self.styles[group].highlighted else f"{grey} others"


def shown(comparison: Comparison, outcomes: Sequence[Outcome]) -> Shown:
    """Order the trainings by the comparison's rows."""
    members = by_group(outcomes)
    styles = styles_of(comparison, list(members))
    chosen = {group: found for group in styles if (found := _example(members[group]))}
    examples = {group: Example(outcome, plan(outcome)) for group, outcome in chosen.items()}
    return Shown({group: members[group] for group in styles}, styles, examples)


def styles_of(comparison: Comparison, appeared: Sequence[Group]) -> dict[Group, canvas.Style]:
    """A style per group, best group first; colours go by first appearance, so that they stay as results come in."""
    ranked = [row.group for row in comparison.rows]
    styles = canvas.styles(len(ranked))
    count = sum(style.highlighted for style in styles)
    coloured = sorted(ranked[:count], key=appeared.index)
    given = dict(zip([*coloured, *ranked[count:]], styles, strict=True))
    return {group: given[group] for group in ranked}


def _example(members: Sequence[Outcome]) -> Outcome | None:
    """A group's first finished trial, or the first that has taken a step."""
    return next((o for o in sorted(members, key=lambda member: not member.finished) if o.used.lr), None)
