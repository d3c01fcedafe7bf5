"""What published figures and ours are compared by: the rows that come of it, and their verdicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.spread import Spread, spread
from onecycle_sweeps.trial_folder import DIVERGED

REPRODUCED, EXCEEDED = "reproduced", "reproduced, and exceeded"
AGREES = "direction agrees, not significant"
NOT_REPRODUCED, NOT_COMPARABLE, OPEN = "not reproduced", "not comparable", "open"


@dataclass(frozen=True)
class PublishedRow:
    """One published figure or claim: what it is, its value and ours in words, the verdict, and what stands behind it.

    `name` is the row's, or both rows' of a pair.
    """

    name: str
    what: str
    published: str
    ours: str
    verdict: str
    reasons: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The row as a sentence of the report."""
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"published, {self.name} ({self.what}): {self.published}; here {self.ours}: {self.verdict}{why}"


def met(value: float | None, published: float, tolerance: float, *, order: bool = False, bound: bool = False) -> str:
    """Whether a value comes up to a published one; a tie within rounding errors does.

    order: only the order was claimed, which cannot be exceeded. bound: the true value may be above this one.
    """
    if value is None:
        return OPEN
    if not value >= published - tolerance - 1e-9:
        return OPEN if bound else NOT_REPRODUCED
    return EXCEEDED if value > published + tolerance + 1e-9 and not order else REPRODUCED


def over(members: Sequence[Outcome], measure: Callable[[Outcome], float | None]) -> Spread | None:
    """A measure over the finished trials that have it."""
    return spread([found for o in members if o.finished and (found := measure(o)) is not None])


def unfinished(members: Sequence[Outcome]) -> tuple[str, ...]:
    """How many trials have neither finished nor diverged, if any."""
    left = sum(not o.finished and o.status != DIVERGED for o in members)
    return (f"{left} of {len(members)} trials have not finished",) if left else ()


def percent(value: Spread) -> str:
    """A mean and its deviation in percent."""
    deviation = "" if value.std is None else f" ± {100 * value.std:.2f}"
    return f"{100 * value.mean:.2f}{deviation} %"
