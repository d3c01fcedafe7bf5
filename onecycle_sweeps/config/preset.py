"""A preset's node `published`: the results that its source reports, and how far ours may differ from them."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from onecycle_sweeps.config.schema import PUBLISHED, ConfigError, check_value
from onecycle_sweeps.validation import NULL, SWITCH, Allowed, number, text, whole

ALLOWED = "allowed"
FRACTION = number(at_least=0, at_most=1).described("a fraction in [0, 1]")
Node = TypeVar("Node")


def checked(allowed: Allowed, default: Any = MISSING) -> Any:
    """A field of a node with its allowed values; without a default it is required."""
    return field(default=default, metadata={ALLOWED: allowed})


@dataclass(frozen=True)
class Figure:
    """The final accuracy, a fraction, that the source reports for a row; ours may be lower by `tolerance`.

    diverges: whether the source reports that the row stays at chance level.
    """

    what: str = checked(text())
    accuracy: float = checked(FRACTION)
    tolerance: float = checked(FRACTION)
    diverges: bool = checked(SWITCH, False)


@dataclass(frozen=True)
class Pair:
    """A published claim that `row` beats `over`: by `gain` in accuracy, or by `speed_up` times fewer steps to target.

    A gain of 0 or a speed-up of 1 claims only the order, which can be tested with other models and data too.
    """

    row: str = checked(text("the name of a row"))
    over: str = checked(text("the name of a row"))
    what: str = checked(text())
    gain: float | None = checked(FRACTION | NULL, None)
    speed_up: float | None = checked(number(at_least=1) | NULL, None)
    tolerance: float = checked(number(at_least=0), 0.0)

    @property
    def order_alone(self) -> bool:
        return self.gain == 0 or self.speed_up == 1


@dataclass(frozen=True)
class Published:
    """What a preset is compared with; `rows` and `pairs` name rows of the report.

    comparable: why the preset cannot reproduce the source's figures; None if it can.
    run_here: whether the authors of the preset have run it.
    steps_per_epoch: the number that the source's data gives; None if it does not matter.
    """

    source: str = checked(text("a text that names the source of the figures"))
    rows: Mapping[str, Figure] = field(
        default_factory=dict,
        metadata={ALLOWED: Allowed(lambda rows: isinstance(rows, Mapping), ("figures by the name of their row",))},
    )
    pairs: tuple[Pair, ...] = checked(
        Allowed(lambda pairs: isinstance(pairs, list | tuple), ("a list of pairs of rows",)), ()
    )
    baseline: str | None = checked(text("the name of a row") | NULL, None)
    budgets_may_differ: bool = checked(SWITCH, False)
    comparable: str | None = checked(text() | NULL, None)
    run_here: bool = checked(SWITCH, True)
    note: str | None = checked(text() | NULL, None)
    steps_per_epoch: int | None = checked(whole(1) | NULL, None)


def read(node: Mapping[str, Any] | None) -> Published | None:
    """The node `published` of a preset; None if it has none. Raises ConfigError for an invalid key."""
    if node is None:
        return None
    published = _read(PUBLISHED, node, Published)
    rows = {str(name): _read(f"{PUBLISHED}.rows.{name}", row, Figure) for name, row in published.rows.items()}
    pairs = tuple(_pair(f"{PUBLISHED}.pairs[{place}]", pair) for place, pair in enumerate(published.pairs))
    return Published(**dict(node) | {"rows": rows, "pairs": pairs})


def _pair(name: str, node: Any) -> Pair:
    pair = _read(name, node, Pair)
    if (pair.gain is None) == (pair.speed_up is None):
        raise ConfigError(f"{name} must have a gain or a speed_up, and not both, got {dict(node)!r}")
    return pair


def _read(name: str, node: Any, kind: type[Node]) -> Node:
    known: dict[str, Field[Any]] = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    required = [key for key, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    if not isinstance(node, Mapping):
        raise ConfigError(f"{name} must be a node with {', '.join(required)}, got {node!r}")
    if unknown := [key for key in node if key not in known]:
        raise ConfigError(f"{name}.{unknown[0]} is unknown, the keys are {', '.join(known)}")
    for key, one in known.items():
        check_value(f"{name}.{key}", node, one.metadata[ALLOWED], optional=key not in required)
    return kind(**node)
