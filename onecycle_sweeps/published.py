"""What a preset's source published: the figures to meet, and how far ours may lie from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onecycle_sweeps import checks
from onecycle_sweeps.checks import Check, ConfigError

FRACTION = checks.number(0, 1)
WIDTH = checks.number(0)


@dataclass(frozen=True)
class Figure:
    """A row's final accuracy (a fraction), ours to lie at most `tolerance` below; `diverges`: it is chance level."""

    what: str
    accuracy: float
    tolerance: float
    diverges: bool = False


@dataclass(frozen=True)
class Pair:
    """What sets `row` above `over`: accuracy higher by `gain` (a fraction), or `speed_up` times fewer steps to target.

    With a gain of 0 or a speed-up of 1 the claim is the order alone, which can be tested on another net or data too.
    """

    row: str
    over: str
    what: str
    gain: float | None = None
    speed_up: float | None = None
    tolerance: float = 0.0

    @property
    def order_alone(self) -> bool:
        return self.gain == 0 or self.speed_up == 1


@dataclass(frozen=True)
class Published:
    """The facts of a preset; rows by the name that they have in the report.

    comparable: why no figure of the source can be met by this preset, None if it can.
    run_here: whether the preset has been run by those who ship it.
    steps_per_epoch: as the data of the source make it, None where any will do.
    """

    source: str
    rows: Mapping[str, Figure] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    baseline: str | None = None
    budgets_may_differ: bool = False
    comparable: str | None = None
    run_here: bool = True
    note: str | None = None
    steps_per_epoch: int | None = None


OPTIONAL_TEXT = (checks.either(checks.none, checks.text), "a text or null")
CHECKS: dict[str, tuple[Check, str]] = {
    "source": (checks.text, "a text that says where the figures stand"),
    "baseline": (checks.either(checks.none, checks.text), "the name of a row or null"),
    "budgets_may_differ": (checks.switch, "true or false"),
    "comparable": OPTIONAL_TEXT,
    "run_here": (checks.switch, "true or false"),
    "note": OPTIONAL_TEXT,
    "steps_per_epoch": (checks.either(checks.none, checks.whole(1)), "a whole number of at least 1 or null"),
    "rows": (lambda value: isinstance(value, Mapping), "figures by the name of their row"),
    "pairs": (lambda value: isinstance(value, list | tuple), "a list of pairs of rows"),
}
OF_A_FIGURE: dict[str, tuple[Check, str]] = {
    "what": (checks.text, "a text"),
    "accuracy": (FRACTION, "a fraction in [0, 1]"),
    "tolerance": (FRACTION, "a fraction in [0, 1]"),
    "diverges": (checks.switch, "true or false"),
}
OF_A_PAIR: dict[str, tuple[Check, str]] = {
    "row": (checks.text, "the name of a row"),
    "over": (checks.text, "the name of a row"),
    "what": (checks.text, "a text"),
    "gain": (checks.either(checks.none, FRACTION), "a fraction in [0, 1] or null"),
    "speed_up": (checks.either(checks.none, checks.number(1)), "a number of at least 1 or null"),
    "tolerance": (WIDTH, "a number of at least 0"),
}


def read(node: Mapping[str, Any] | None) -> Published | None:
    """The node `published` of a preset; None where there is none. Raises ConfigError for a key that is amiss."""
    if node is None:
        return None
    _check("published", node, CHECKS, ("source",))
    rows = {str(name): _figure(f"published.rows.{name}", row) for name, row in node.get("rows", {}).items()}
    pairs = tuple(_pair(f"published.pairs[{place}]", pair) for place, pair in enumerate(node.get("pairs", ())))
    return Published(**dict(node) | {"rows": rows, "pairs": pairs})


def _figure(where: str, node: Any) -> Figure:
    _check(where, node, OF_A_FIGURE, ("what", "accuracy", "tolerance"))
    return Figure(**node)


def _pair(where: str, node: Any) -> Pair:
    _check(where, node, OF_A_PAIR, ("row", "over", "what"))
    if (node.get("gain") is None) == (node.get("speed_up") is None):
        raise ConfigError(f"{where} must have a gain or a speed_up, and not both, got {dict(node)!r}")
    return Pair(**node)


def _check(where: str, node: Any, known: Mapping[str, tuple[Check, str]], needed: tuple[str, ...]) -> None:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where} must be a node with {', '.join(needed)}, got {node!r}")
    for key in needed:
        if key not in node:
            raise ConfigError(f"{where}.{key} is missing, it must be {known[key][1]}")
    for key, value in node.items():
        if key not in known:
            raise ConfigError(f"{where}.{key} is unknown, the keys are {', '.join(known)}")
        accepts, what = known[key]
        if not accepts(value):
            raise ConfigError(f"{where}.{key} must be {what}, got {value!r}")
