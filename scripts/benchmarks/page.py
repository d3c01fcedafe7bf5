"""The results of a part of the benchmark, and the page that shows them in Markdown."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of figures; the caption says what was run, what a row is and what is counted."""

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Requirement:
    """A bound on a measured value: the most that it may be, or with `at_least` the least."""

    what: str
    measured: float
    bound: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


@dataclass(frozen=True)
class Result:
    """A part's tables and requirements; `left_out` says what was not run and why, `rounds` has every single value."""

    tables: Sequence[Table]
    requirements: Sequence[Requirement] = ()
    left_out: Sequence[str] = ()
    rounds: Mapping[str, Any] = field(default_factory=dict)


def comparison(
    title: str, caption: str, first: str, sides: Iterable[str], columns: Mapping[str, Callable[[str], Cell]]
) -> Table:
    """A table with a row for each side: its name in the column `first`, then what each column's function returns."""
    rows = [(side, *(cell(side) for cell in columns.values())) for side in sides]
    return Table(title, caption, (first, *columns), rows)


def markdown(facts: Mapping[str, str], quick: bool, results: Mapping[str, Result], title: str = "Benchmark") -> str:
    """The page: where it was measured, the requirements, then the tables of each part."""
    return "\n".join([f"# {title}\n", *_lines(facts, quick, results)]) + "\n"


def _lines(facts: Mapping[str, str], quick: bool, results: Mapping[str, Result]) -> Iterator[str]:
    if quick:
        yield "**Quick mode: tiny sizes that only show that everything runs. The figures mean little.**\n"
    yield from _table(("measured with", ""), facts.items())
    rows = [
        (part, one.what, one.measured, _bound(one), "yes" if one.is_met else "**no**")
        for part, result in results.items()
        for one in result.requirements
    ]
    if rows:
        yield "\n## Requirements\n"
        yield from _table(("part", "what", "measured", "required", "met"), rows)
    for part, result in results.items():
        yield f"\n## {part}"
        for table in result.tables:
            yield f"\n### {table.title}\n\n{table.caption}\n"
            yield from _table(table.columns, table.rows)
        if result.left_out:
            yield "\nLeft out:\n"
            yield from (f"- {reason}" for reason in result.left_out)


def _bound(requirement: Requirement) -> str:
    return f"at {'least' if requirement.at_least else 'most'} {_text(requirement.bound)}"


def _table(columns: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + " --- |" * len(columns)
    yield from (f"| {' | '.join(map(_text, row))} |" for row in rows)


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else cell.replace("|", "\\|")
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
