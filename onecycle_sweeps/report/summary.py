"""What a sweep shows on a terminal at its end: its answer, one table, and the remarks that matter most."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from onecycle_sweeps.measures import MINUS
from onecycle_sweeps.report import figures, range_tests, standings, tables
from onecycle_sweeps.report.claims import FROM_ONE_SEED
from onecycle_sweeps.report.comparison import Comparison
from onecycle_sweeps.report.groups import families

# The columns that a narrow terminal leaves to the page, in this order.
SPARED = ("detectable", "seconds", "shown", "speed-up", "steps to", "p", "95 % interval")
# A longer name of a pair may break before its second name.
LONG = 24
# The narrowest gap between two columns.
GAP = 1
Columns = Sequence[tuple[str, list[str]]]


def show_summary(comparison: Comparison, console: Console) -> None:
    """Print the answer and the table; without a terminal each row is one line."""
    console.print(Text(comparison.answer, "bold"), soft_wrap=not console.is_terminal)
    headers, rows = contents(comparison, width := console.width if console.is_terminal else None)
    if rows:
        console.print()
        if comparison.rows:
            console.print(Text(_caption(comparison), "dim"), soft_wrap=not console.is_terminal)
        console.print(tables.terminal_table(headers, rows, width), crop=False)


def contents(comparison: Comparison, width: int | None = None) -> tables.Cells:
    """The headers and rows of the page's first table, with as many of its columns as fit into `width`."""
    if not comparison.rows:
        tests = comparison.range_tests
        return range_tests.summary(tests) if len(tests) > 1 else ([], [])
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    parts = standings.parts_of(comparison, groups)
    columns = [
        (header, [cell(one) for part in parts for one in part.standings])
        for header, cell in standings.columns(comparison, parts)
    ]
    header, names = columns[0]
    columns[0] = header, [name.replace(f" {MINUS} ", f"\n{MINUS} ") if len(name) > LONG else name for name in names]
    if len(parts) > 1:
        settings = [part.setting for part in parts for _ in part.standings]
        header, names = columns[0]
        columns[0] = header, [f"{name}\n{setting}" for name, setting in zip(names, settings, strict=True)]
    spared = iter(SPARED)
    while width is not None and _width(columns) > width and (header := next(spared, None)):
        columns = [column for column in columns if column[0].partition("\n")[0] != header]
    return [header for header, _ in columns], _rows(columns)


def highlights(comparison: Comparison, others: Sequence[str] = ()) -> list[str]:
    """What a reader of the table has to know beside it, the gravest first; `others` are lines about the results."""
    tests = comparison.range_tests
    verdicts = [
        f"{test.name}: {found}" if comparison.rows else range_tests.line(test)
        for test in (tests if len(tests) == 1 else ())
        if (found := range_tests.verdict(test))
    ]
    return [
        *tables.failures(comparison),
        *tables.diverged(comparison),
        *others,
        *comparison.claims.flags,
        *(f"warning: {who}: {text}" for who, text in tables.warnings(comparison)),
        *verdicts,
        *(note for note in standings.notes(comparison) if not note.startswith(FROM_ONE_SEED)),
        *comparison.stability,
        *(row.line for row in comparison.published),
        *comparison.notes,
    ]


def show_remarks(lines: Sequence[str], console: Console) -> None:
    """Print remarks; of one that begins with a status, such as `failed:`, that word has its colour."""
    for line in lines:
        console.print(tables.coloured(line, line.partition(":")[0]), soft_wrap=not console.is_terminal)


def _rows(columns: Columns) -> list[list[str]]:
    return [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]


def _width(columns: Columns) -> int:
    """The least width of a table of these columns in which nothing but names wraps."""
    return tables.natural_width([[header for header, _ in columns], *_rows(columns)], GAP)


def _caption(comparison: Comparison) -> str:
    claims = comparison.claims.claims
    tested = max((claim.tested for claim in claims), default=0)
    paired = "; differences paired by seed" if tested else ""
    adjusted = ", interval and p after Holm" if tested > 1 else ""
    rates = "; each policy at its best rate" if any(len(f.rates) > 1 for f in families(comparison.outcomes)) else ""
    return f"Mean ± standard deviation over the finished seeds{rates}{paired}{adjusted}."
