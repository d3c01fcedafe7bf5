"""A comparison as a table: for the terminal, and as Markdown."""

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecycle_sweeps.report.claims import Claims
from onecycle_sweeps.report.comparison import Comparison, RangeTest, Row
from onecycle_sweeps.report.spread import Spread
from onecycle_sweeps.trial_folder import FINISHED

# What a range test is read for, and the rules of fastai (four), torch-lr-finder and Lightning.
READ = ("base_lr", "steepest", "last_clear_descent", "lowest", "divergence")
PEERS = ("minimum", "valley", "slide", "steep", "torch_lr_finder", "lightning")
Cells = tuple[list[str], list[list[str]]]


def show(comparison: Comparison, console: Console) -> None:
    """Print the table and what has to be said beside it; where there is no terminal, each row stands on one line."""
    if comparison.rows:
        console.print(terminal_table(comparison, console.width if console.is_terminal else None), crop=False)
    said = [*([caption(comparison), ""] if comparison.rows else []), *remarks(comparison)]
    for line in ["", *said]:
        console.print(Text(line), soft_wrap=not console.is_terminal)


def terminal_table(comparison: Comparison, width: int | None = None) -> Table:
    """The rows as a rich table without colours that is at most `width` characters wide.

    Where it is narrow, deviations stand below their means, and at last names wrap. Without a width nothing wraps.
    """
    headers, rows = contents(comparison)
    if width is None:
        headers = [_flat(header) for header in headers]
    flat = [[_flat(cell) for cell in row] for row in rows]
    layouts = [(flat, 2), (flat, 1), (rows, 1)]
    fitting = (layout for layout in layouts if _natural([headers, *layout[0]], layout[1]) <= (width or math.inf))
    cells, gap = next(fitting, layouts[-1])
    natural = _natural([headers, *cells], gap)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), show_edge=False)
    table.width = min(natural, width or natural)
    for i, header in enumerate(headers):
        table.add_column(Text(header), justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def markdown(comparison: Comparison) -> str:
    """The table, its caption and the remarks as Markdown."""
    lines: list[str] = []
    if comparison.rows:
        headers, rows = contents(comparison)
        rule = ["---", *["---:"] * (len(headers) - 1)]
        lines = [f"| {' | '.join(map(_escaped, cells))} |" for cells in (headers, rule, *rows)]
        lines += ["", _escaped(caption(comparison))]
    said = [f"- {_escaped(line)}" for line in remarks(comparison)]
    return "\n".join([*lines, *([""] if lines and said else []), *said]) + "\n"


def caption(comparison: Comparison) -> str:
    """How to read the table."""
    text = "Mean ± standard deviation over the finished seeds, in the order of final val accuracy, which is no claim."
    if comparison.diverged:
        text += " Diverged trials are counted but not in the means; in the order alone they count as accuracy 0."
    gaps = sorted({row.resolution for row in comparison.rows if row.resolution})
    if comparison.targets and gaps:
        every = f"{gaps[0]}" if len(gaps) == 1 else f"{gaps[0]} to {gaps[-1]}"
        text += f" Steps to the target over the seeds that reached it, evaluated every {every} steps."
    return text


def remarks(comparison: Comparison) -> list[str]:
    """A line for each claim, flag, range test, stability map, note, published figure, warning, and lost trial."""
    return [
        *_claims(comparison.claims),
        *map(_range_test_line, comparison.range_tests),
        *comparison.stability,
        *comparison.notes,
        *(row.line for row in comparison.published),
        *(f"warning: {who}: {text}" for who, text in warned(comparison.warnings)),
        *(f"diverged: {name}: {cause}" for name, cause in comparison.diverged),
        *(f"failed: {name}: {cause}" for name, cause in comparison.failures),
    ]


def _claims(claims: Claims) -> list[str]:
    """The verdict on the sweep, unless its one claim says it all, then each claim and flag."""
    said = [claims.sentence] if claims.sentence and len(claims.claims) != 1 else []
    return [*said, *(claim.sentence for claim in claims.claims), *claims.flags]


def warned(warnings: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Who has a warning, and its text, each text once; several trials are named by their number."""
    names: dict[str, list[str]] = {}
    for name, text in warnings:
        names.setdefault(text, []).append(name)
    for text, having in names.items():
        yield having[0] if len(having) == 1 else f"{len(having)} trials", text


def contents(comparison: Comparison) -> Cells:
    columns = list(_columns(comparison))
    return [header for header, _ in columns], [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]


def _columns(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """Each column that has something to say: its header and a cell per row, with the places where both may break."""
    rows = comparison.rows
    yield "policy", [row.name for row in rows]
    yield "seeds", [_seeds(row) for row in rows]
    yield "max_lr", [_rates(row) for row in rows]
    yield "final\nval\nacc. %", [_percent(row.final_accuracy) for row in rows]
    yield "best\nval\nacc. %", [_percent(row.best_accuracy) for row in rows]
    yield "final\nval\nloss", [_figure(row.val_loss, ".4f") for row in rows]
    if any(row.test_accuracy for row in rows):
        yield "test\nacc. %", [_percent(row.test_accuracy) for row in rows]
    if comparison.targets:
        target = f"{100 * comparison.targets[0]:g} %" if len(comparison.targets) == 1 else "target"
        yield f"steps\nto\n{target}", [_steps(row) for row in rows]
    yield "seconds", [_figure(row.seconds, ".1f") for row in rows]


def _seeds(row: Row) -> str:
    rest = [f"{count} {status}" for status, count in sorted(row.counts.items()) if status != FINISHED]
    return f"{row.finished}/{row.asked}" + "".join(f",\n{some}" for some in rest)


def _rates(row: Row) -> str:
    low, high = (min(row.max_lrs), max(row.max_lrs)) if row.max_lrs else (None, None)
    if low is None or low == high:
        return "-" if low is None else f"{low:.3g}"
    return f"{low:.3g} to {high:.3g}"


def _percent(value: Spread | None) -> str:
    return _figure(value and Spread(100 * value.mean, value.std and 100 * value.std, value.count), ".2f")


def _steps(row: Row) -> str:
    reached = row.steps_to_target.count if row.steps_to_target else 0
    return _figure(row.steps_to_target, ".0f") + (f"\n({reached} of {row.finished})" if reached < row.finished else "")


def _figure(value: Spread | None, style: str) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value.mean):
        return "not finite"
    return f"{value.mean:{style}}" + ("" if value.std is None else f"\n±{value.std:{style}}")


def verdict_words(test: RangeTest) -> str:
    """The rate that a range test suggests, its interval, and whether it can be relied on."""
    rates = test.suggestions
    said = f"max_lr={rates['max_lr']:.3g}"
    if "max_lr_low" not in rates:
        return said
    return f"{said}, from {rates['max_lr_low']:.2g} to {rates['max_lr_high']:.2g}, {test.word}"


def _range_test_line(test: RangeTest) -> str:
    """The verdict with its interval and word, what we read, and after it what the rules of peers say."""
    if "max_lr" not in test.suggestions:
        return f"{test.name}: {test.status}"
    said = f"{test.name}: {verdict_words(test)}"
    own, peers = ([name for name in some if name in test.suggestions] for some in (READ, PEERS))
    rates = [
        ", ".join(f"{name.replace('_', ' ')} {test.suggestions[name]:.3g}" for name in some) for some in (own, peers)
    ]
    return said + (f" ({rates[0]})" if own else "") + (f"; rules of peers: {rates[1]}" if peers else "")


def _natural(table: Sequence[Sequence[str]], gap: int) -> int:
    """The width of a table whose cells do not wrap."""
    columns = zip(*table, strict=True)
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    return sum(widths) + gap * (len(widths) - 1)


def _flat(cell: str) -> str:
    return cell.replace("\n", " ")


def _escaped(text: str) -> str:
    """Text that Markdown takes literally, on one line."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").split())
