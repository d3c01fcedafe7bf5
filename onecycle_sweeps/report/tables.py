"""A comparison as text: a table for the terminal, the same as Markdown, and the status of a sweep's trials."""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onecycle_sweeps.measures import LOSS, Measure, recorded
from onecycle_sweeps.outcome import Outcome, glance, look, with_resolved
from onecycle_sweeps.report import range_tests
from onecycle_sweeps.report.claims import target_words
from onecycle_sweeps.report.comparison import Comparison, Row, answer_at_a_glance
from onecycle_sweeps.report.groups import ran_alike
from onecycle_sweeps.report.statistics import Spread
from onecycle_sweeps.sweep import TRAIN, Sweep
from onecycle_sweeps.trial_folder import CANCELLED, DIVERGED, FAILED, FINISHED, LOST, RUNNING

# A cell without content.
NOTHING = "-"
# The colour of each standing on a terminal.
COLOURS = {FINISHED: "green", RUNNING: "cyan", DIVERGED: "yellow", CANCELLED: "magenta", FAILED: "red", LOST: "red"}
NO_CAUSE = "no cause recorded"
SMALL_LOSS, LARGE_LOSS = 0.01, 1e4
# In a sweep with more trials than this, each trial is one line, whatever the width of the terminal.
MOST_FOLDED = 300
Cells = tuple[list[str], list[list[str]]]


def show(comparison: Comparison, console: Console) -> None:
    """Print the answer, the table and the remarks; without a terminal each row and each remark is one line."""
    console.print(Text(f"{comparison.answer}\n"), soft_wrap=not console.is_terminal)
    if comparison.rows:
        table = terminal_table(*contents(comparison), console.width if console.is_terminal else None)
        console.print(table, crop=False)
    lines = [*([caption(comparison), ""] if comparison.rows else []), *remarks(comparison)]
    for line in ["", *lines]:
        console.print(Text(line), soft_wrap=not console.is_terminal)


def show_status(sweep: Sweep, console: Console) -> None:
    """Print a row for each trial: its status, and its progress, its result or the cause of its failure."""
    headings, rows, counts = ("trial", "signature", "status", ""), list[tuple[str, ...]](), Counter[str]()
    for entry in sweep.trials:
        outcome = with_resolved(glance(entry, sweep.trial(entry.signature)))
        counts[outcome.status] += 1
        rows.append((outcome.name, entry.signature, outcome.status, _detail(outcome)))
    if len(rows) > MOST_FOLDED:
        # A rich table takes half a second for a thousand rows.
        *widths, _ = (max(map(len, column)) for column in zip(headings, *rows, strict=True))
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
            for row in (headings, *rows)
        ]
        console.out("\n".join(lines), highlight=False)
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for name, signature, status, detail in rows:
            table.add_row(Text(name), Text(signature), coloured(status), Text(detail))
        console.print(table)
    console.print(coloured(f"sweep {sweep.id}: {', '.join(f'{count} {s}' for s, count in counts.items())}"))


def coloured(line: str, status: str | None = None) -> Text:
    """The line with `status` in its colour if the line begins with it; without `status`, every status in its colour."""
    text = Text(line)
    for word, colour in COLOURS.items():
        if status is None:
            text.highlight_regex(rf"\b{word}\b", colour)
        elif status == word and (found := re.search(rf"\b{word}\b", line)):
            text.stylize(colour, *found.span())
    return text


def show_list(sweeps: Iterable[Sweep], console: Console) -> None:
    """Print a row for each sweep: when it began, what it compares, how its trials stand, and its answer so far.

    On a terminal that is too narrow for the table, the answer stands below the row.
    """
    headings = ["sweep", "began", "data", "model", "policies", "seeds", "trials", "best so far"]
    rows = [list(_listed(one)) for one in sweeps]
    natural = natural_width([headings, *rows], 2)
    if console.is_terminal and natural > console.width:
        for name, began, data, model, policies, seeds, trials, best in rows:
            what = data if model == NOTHING else model if data == NOTHING else f"{model} on {data}"
            about = ((what, what), (policies, policies), (seeds, f"{seeds} seed{'s' * (seeds != '1')}"))
            console.print(Text(f"{name}  {began}", "bold") + Text("  ") + coloured(trials), soft_wrap=True)
            told = "; ".join(shown for text, shown in about if text != NOTHING)
            console.print(Padding(Text(f"{told}\n{best}"), (0, 0, 1, 2)))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, width=natural)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*map(coloured, row))
    if rows:
        console.print(table, crop=False)


def _listed(one: Sweep) -> Iterator[str]:
    """The cells of a sweep's row."""
    outcomes = [look(entry, one.trial(entry.signature)) for entry in one.trials]
    trained = [outcome for outcome in outcomes if outcome.entry.kind == TRAIN]
    yield one.id
    yield time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created))
    loop = one.choices.get("loop")
    yield from (NOTHING, loop) if loop else (one.choices.get(group, NOTHING) for group in ("data", "model"))
    yield ", ".join(dict.fromkeys(outcome.entry.varies["policy"] for outcome in trained)) or "range test"
    yield str(len({outcome.entry.varies["seed"] for outcome in trained}) or NOTHING)
    counts = Counter(outcome.status for outcome in outcomes)
    yield ", ".join(f"{count} {status}" for status, count in counts.items())
    yield answer_at_a_glance(one, outcomes)


def _detail(outcome: Outcome) -> str:
    """A running trial's progress, a result, or the cause of a failure."""
    if outcome.status == RUNNING:
        seen = outcome.folder.progress()
        return seen.in_words(with_rate=False) if seen else "starting"
    if outcome.final is not None:
        return f"val {outcome.headline.name} {outcome.headline.text(outcome.final)}"
    if "max_lr" in outcome.suggestions:
        return f"max_lr {outcome.suggestions['max_lr']:.3g}"
    return outcome.cause or ""


def markdown(comparison: Comparison) -> str:
    """The answer, the table, its caption and the remarks as Markdown."""
    lines = [_escaped(comparison.answer)]
    if comparison.rows:
        headers, rows = contents(comparison)
        rule = ["---", *["---:"] * (len(headers) - 1)]
        lines += ["", *(f"| {' | '.join(map(_escaped, cells))} |" for cells in (headers, rule, *rows))]
        lines += ["", _escaped(caption(comparison))]
    listed = [f"- {_escaped(line)}" for line in remarks(comparison)]
    return "\n".join([*lines, *([""] if lines and listed else []), *listed]) + "\n"


def caption(comparison: Comparison) -> str:
    """How to read the table."""
    order = f"in order of final val {comparison.headline.name}, which is not itself a claim"
    return (
        f"Mean ± standard deviation over the finished seeds, {order}.{places_without_mean(comparison)}"
        f"{resolution(comparison)}"
    )


def places_without_mean(comparison: Comparison) -> str:
    """How trials that diverged or ended without a finite value count in the order of the rows, as sentences."""
    headline, text = comparison.headline, ""
    if math.isfinite(headline.worst):
        counted = f"in the order of the rows they count with {headline.name} {headline.worst:g}"
    else:
        counted = "rows with a smaller share of them come first"
    if comparison.diverged:
        text += f" Diverged trials are counted but not in the means; {counted}."
    if any(o.finished and o.final is not None and not math.isfinite(o.final) for o in comparison.trainings):
        text += f" Trials whose final val {headline.name} is not finite leave their row without a mean; {counted}."
    return text


def resolution(comparison: Comparison) -> str:
    """How exactly the steps to the target are known, as the end of a caption; empty without a target."""
    gaps = sorted({row.resolution for row in comparison.rows if row.resolution})
    if not (comparison.targets and gaps):
        return ""
    every = f"{gaps[0]}" if len(gaps) == 1 else f"{gaps[0]} to {gaps[-1]}"
    return f" Steps to the target over the seeds that reached it, evaluated every {every} steps."


def remarks(comparison: Comparison) -> list[str]:
    """A line for each claim, flag, range test, stability map, note, published figure, warning, and lost trial."""
    claims = comparison.claims
    return [
        # With a single claim, its own sentence says it all.
        *([claims.sentence] if claims.sentence and len(claims.claims) != 1 else []),
        *(claim.sentence for claim in claims.claims),
        *claims.flags,
        *(range_tests.line(test) for test in comparison.range_tests),
        *range_tests.probe_lines(comparison.probes, comparison.trainings),
        *comparison.stability,
        *comparison.notes,
        *(row.line for row in comparison.published),
        *(f"warning: {who}: {text}" for who, text in warnings(comparison)),
        *diverged(comparison),
        *failures(comparison),
    ]


def diverged(comparison: Comparison) -> Iterator[str]:
    """A line for each group with diverged trials, with the reason of the first."""
    found: dict[object, list[Outcome]] = {}
    for outcome in comparison.outcomes:
        if outcome.status == DIVERGED:
            found.setdefault((outcome.entry.kind, outcome.entry.group), []).append(outcome)
    for having in found.values():
        yield f"diverged: {_names(having)}: {having[0].cause or NO_CAUSE}"


def failures(comparison: Comparison) -> Iterator[str]:
    """A line for each cause of failures, with the trials that have it and the log of the first."""
    found: dict[str, list[Outcome]] = {}
    for outcome in comparison.outcomes:
        if outcome.status in (FAILED, LOST):
            cause = outcome.cause or NO_CAUSE
            # The cause of a training whose range test failed ends with that of the range test.
            known = next((one for one in found if cause.endswith(one)), cause)
            found.setdefault(known, []).append(outcome)
    for cause, having in found.items():
        log = having[0].folder.log
        yield f"failed: {_names(having)}: {cause}" + (f"; log: {log}" if log.exists() else "")


def _names(outcomes: Sequence[Outcome]) -> str:
    """What to call trials together: the seeds of one group by its name, others by the first of them."""
    first, *rest = outcomes
    if not rest:
        return first.name
    if first.entry.kind == TRAIN and {(o.entry.kind, o.entry.group) for o in rest} == {(TRAIN, first.entry.group)}:
        shared = replace(first.entry, varies={k: v for k, v in first.entry.varies.items() if k != "seed"})
        return f"{shared.name(first.max_lr)} (seeds {', '.join(o.entry.varies['seed'] for o in outcomes)})"
    return f"{first.name} and {len(rest)} other trial{'s' * (len(rest) > 1)}"


def warnings(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Each distinct warning with the trial that has it, or with the number of trials."""
    names: dict[str, list[str]] = {}
    for name, text in comparison.warnings:
        names.setdefault(text, []).append(name)
    for text, having in names.items():
        yield having[0] if len(having) == 1 else f"{len(having)} trials", text


def contents(comparison: Comparison) -> Cells:
    """The headers, and a cell per row and column; a newline in either marks where it may wrap."""
    columns = list(_columns(comparison))
    return [header for header, _ in columns], [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]


def _columns(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """The columns for which there are data, each with its header."""
    rows, headline = comparison.rows, comparison.headline
    _, *others = recorded(comparison.measures)

    def column(words: str, measure: Measure, metric: str) -> tuple[str, list[str]]:
        label = measure.label.replace(" ", "\n")
        if measure == LOSS:
            return f"{words}\n{label}", [spread_words(row.metrics.get(metric), loss_words) for row in rows]
        return f"{words}\n{label}", [measured(row.metrics.get(metric), measure) for row in rows]

    yield "policy", [row.name for row in rows]
    yield "seeds", [seeds(row) for row in rows]
    yield "max_lr", [rates(row) for row in rows]
    yield column("final\nval", headline, headline.final_val)
    yield column("best\nval", headline, headline.best_val)
    yield from (column("final\nval", measure, measure.final_val) for measure in others)
    for measure in comparison.measures:
        if any(measure.final_test in row.metrics for row in rows):
            yield column("test", measure, measure.final_test)
    if comparison.targets:
        words = target_words(headline, comparison.targets[0]) if len(comparison.targets) == 1 else "target"
        yield f"steps\nto\n{words}", [steps(row) for row in rows]
    if ran_alike(comparison.outcomes):
        yield "seconds", [spread_words(row.metrics.get("seconds"), "{:.1f}".format) for row in rows]


def seeds(row: Row) -> str:
    """How many seeds finished, and what became of the others."""
    rest = [f"{count} {status}" for status, count in sorted(row.counts.items()) if status != FINISHED]
    return f"{row.finished}/{row.trials}" + "".join(f",\n{some}" for some in rest)


def rates(row: Row) -> str:
    """The rate that the seeds used, or the range of their rates."""
    return rate_range(row.max_lrs)


def rate_range(found: Sequence[float]) -> str:
    """A rate, or the range of several."""
    if not found:
        return NOTHING
    low, high = min(found), max(found)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def steps(row: Row) -> str:
    """The steps to the target over the seeds that reached it."""
    reached = row.steps_to_target.count if row.steps_to_target else 0
    return spread_words(row.steps_to_target, "{:.0f}".format) + (
        f"\n({reached} of {row.finished})" if reached < row.finished else ""
    )


def loss_words(value: float) -> str:
    """A loss with four decimals, or if it is large or small, with six or three digits."""
    if 0 < abs(value) < SMALL_LOSS:
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value) < LARGE_LOSS else f"{value:.6g}"


def spread_words(value: Spread | None, written: Callable[[float], str]) -> str:
    """A mean and its standard deviation; a newline marks where they may be parted."""
    if value is None:
        return "-"
    if not math.isfinite(value.mean):
        return "not finite"
    return written(value.mean) + ("" if value.std is None else f"\n±{written(value.std)}")


def measured(value: Spread | None, measure: Measure) -> str:
    """The same of a measure, to the digits that its deviation leaves."""
    if value is None or value.std is None or not math.isfinite(value.mean):
        return spread_words(value, measure.number)
    return "\n±".join(measure.with_deviation(value.mean, value.std))


def terminal_table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Table:
    """The rows as a rich table, at most `width` characters wide; a newline marks where a cell may wrap.

    If it does not fit, names break at their newlines, then deviations move below their means, and at last names wrap.
    Without a width nothing wraps.
    """
    if width is None:
        headers = [_flat(header) for header in headers]
    flat = [[_flat(cell) for cell in row] for row in rows]
    broken = [[row[0], *cells[1:]] for row, cells in zip(rows, flat, strict=True)]
    layouts = [(flat, 2), (flat, 1), (broken, 1), (rows, 1)]
    fitting = (layout for layout in layouts if natural_width([headers, *layout[0]], layout[1]) <= (width or math.inf))
    cells, gap = next(fitting, layouts[-1])
    natural = natural_width([headers, *cells], gap)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), show_edge=False)
    table.width = min(natural, width or natural)
    for i, header in enumerate(headers):
        table.add_column(Text(header), justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for row in cells:
        table.add_row(*map(coloured, row))
    return table


def natural_width(table: Sequence[Sequence[str]], gap: int) -> int:
    """The width of a table whose cells do not wrap."""
    columns = zip(*table, strict=True)
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    return sum(widths) + gap * (len(widths) - 1)


def _flat(cell: str) -> str:
    return cell.replace("\n", " ")


def _escaped(text: str) -> str:
    """Text that Markdown takes literally, on one line."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").split())
