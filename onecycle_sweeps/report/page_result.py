"""The page's answer: the verdict in a sentence, the table of groups, and what is claimed of them."""

import math

from onecycle_sweeps.report import sentences, table
from onecycle_sweeps.report.claims import Claim
from onecycle_sweeps.report.comparison import Comparison, Row
from onecycle_sweeps.report.markup import listed, paragraph, text
from onecycle_sweeps.report.markup import table as html_table
from onecycle_sweeps.report.page_panels import swatch
from onecycle_sweeps.report.shown import Shown
from onecycle_sweeps.report.spread import Spread


def result(comparison: Comparison, groups: Shown) -> str:
    """The verdict, the table, and how to read it."""
    said = paragraph(text(verdict(comparison)), "verdict")
    if not comparison.rows:
        return said
    headers, rows = table.contents(comparison)
    marks = [swatch(groups.styles[row.group]) for row in comparison.rows]
    filled = [[mark + text(name), *map(_cell, rest)] for mark, (name, *rest) in zip(marks, rows, strict=True)]
    shown = html_table([text(header) for header in headers], filled)
    return said + shown + paragraph(text(table.caption(comparison)), "note")


def verdict(comparison: Comparison) -> str:
    """What the sweep shows, in a sentence: the claims' own, or which mean is highest, which is no test."""
    if comparison.claims.sentence:
        return comparison.claims.sentence
    ranked = [row for row in comparison.rows if row.final_accuracy and math.isfinite(row.final_accuracy.mean)]
    if not ranked:
        said = [table.verdict_words(test) for test in comparison.range_tests if "max_lr" in test.suggestions]
        if said and not comparison.rows:
            return f"The range test{'s' * (len(said) > 1)} suggest{'s' * (len(said) == 1)} {'; '.join(said)}."
        return "No training has finished yet."
    best, *others = ranked
    if not others:
        return f"{best.name} reached a final validation accuracy of {_accuracy(best)}."
    return (
        f"{best.name} has the highest mean final validation accuracy, {_accuracy(best)}, before {others[0].name} with "
        f"{_percent(others[0].final_accuracy)}: an order of means, not yet a test."
    )


def claims(comparison: Comparison) -> str:
    """Each group against the baseline, seed by seed; empty where nothing was compared.

    Differences are in points (hundredths of accuracy), p-values adjusted by Holm's method over the sweep's claims.
    """
    found = comparison.claims
    if not found.claims:
        return ""
    headers = [
        "policy",
        "against",
        "difference\n(points)",
        "95 % interval\n(Holm)",
        "pairs",
        "p (Holm)",
        "detectable\n(Holm)",
        "speed-up",
    ]
    rows = [[text(cell) for cell in cells(claim)] for claim in found.claims]
    note = (
        f"Paired by seed, by {found.measure}. The interval and p-value are of the paired t-test, both adjusted by "
        "Holm's method, so that an interval leaves out 0 where p is below 0.05. Detectable is the smallest true "
        "difference that this number of pairs finds with 80 % power after the same adjustment. Speed-ups are geometric "
        "means over the same seeds, not adjusted; a seed that never reached the target counts with all its steps, "
        "which makes the speed-up a bound."
    )
    said = listed(text(claim.sentence) for claim in found.claims)
    flags = listed((text(flag) for flag in found.flags), "bad") if found.flags else ""
    return said + html_table(headers, rows) + paragraph(text(note), "note") + flags


def cells(claim: Claim) -> list[str]:
    """A claim as a row of the page's table."""
    name = f"{claim.name} ({claim.budget})" if claim.budget else claim.name
    one, speed = claim.difference, claim.speedup
    interval = (
        f"{_points(one.low)} to {_points(one.high)}" if one and one.low is not None and one.high is not None else "-"
    )
    return [
        name,
        claim.baseline,
        _points(one.mean) if one else "-",
        interval,
        str(one.pairs) if one else "0",
        "-" if claim.p_adjusted is None else sentences.p_value(claim.p_adjusted),
        sentences.points(one.detectable) if one and one.detectable is not None else "-",
        f"{sentences.speed(speed)}x" if speed and speed.ratio is not None else "-",
    ]


def _points(difference: float) -> str:
    return sentences.signed(difference).replace("-", "\N{MINUS SIGN}")


def _cell(content: str) -> str:
    """A cell whose deviation, or what has not finished, stands back behind its figure."""
    first, *rest = content.split("\n")
    return " ".join([text(first), *(f'<span class="pm">{text(one)}</span>' for one in rest)])


def _accuracy(row: Row) -> str:
    return f"{_percent(row.final_accuracy)} over {row.finished} of {row.asked} seeds"


def _percent(value: Spread | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value.mean:.2f}" + ("" if value.std is None else f" ± {100 * value.std:.2f}") + " %"
