"""report.html: one page that needs nothing beside it, in the order in which one asks."""

from collections.abc import Sequence
from pathlib import Path

from onecycle_sweeps import files
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import page_asked, page_panels, page_record, page_result
from onecycle_sweeps.report.comparison import Comparison
from onecycle_sweeps.report.markup import listed, text
from onecycle_sweeps.report.page_stability import stability
from onecycle_sweeps.report.range_test_figures import RangeTestFigure
from onecycle_sweeps.report.shown import Shown
from onecycle_sweeps.report.stability_map import StabilityMap
from onecycle_sweeps.report.val_measures import ACCURACY, LOSS
from onecycle_sweeps.sweep import Sweep

PAGE = "report.html"
STYLE = Path(__file__).with_name("style.css")
# A heading, and the HTML below it; one that is empty is left out.
Section = tuple[str, str]


def write_page(
    sweep: Sweep,
    comparison: Comparison,
    outcomes: Sequence[Outcome],
    groups: Shown,
    tests: Sequence[RangeTestFigure],
    maps: Sequence[StabilityMap],
    written: Sequence[Path],
) -> Path:
    """Write the page into the sweep's report folder; `written` are the files beside it."""
    configs = page_asked.configs_of(outcomes)
    sections: list[Section] = [
        ("What was asked", page_asked.asked(sweep, outcomes, configs)),
        ("Result", page_result.result(comparison, groups)),
        ("Claims", page_result.claims(comparison)),
        ("Learning rate and momentum", page_panels.trajectories(groups)),
        ("Validation accuracy", page_panels.course(groups, ACCURACY)),
        ("Validation loss", page_panels.course(groups, LOSS)),
        ("Each seed at the end", page_panels.ends(groups)),
        ("Accuracy against budget", page_panels.budgets(outcomes)),
        ("Range tests", page_panels.range_tests(tests)),
        ("Stability map", stability(maps, sweep)),
        ("Published figures", page_record.published(comparison)),
        ("Diverged and failed trials", page_record.troubles(outcomes)),
        ("Warnings and notes", page_record.doubts(comparison)),
        ("How to repeat it", page_record.repeating(sweep, outcomes, configs)),
        ("Trials", page_record.trials(outcomes)),
        ("Files", page_record.files(written)),
    ]
    path = sweep.report / PAGE
    files.write(path, page(page_asked.title(outcomes), page_asked.origin(sweep), sections))
    return path


def page(title: str, origin: str, sections: Sequence[Section]) -> str:
    """A whole page of the sections that have something to say."""
    told = {f"s{i}": section for i, section in enumerate(sections) if section[1]}
    contents = listed(f'<a href="#{anchor}">{text(heading)}</a>' for anchor, (heading, _) in told.items())
    body = "\n".join(
        f'<section id="{anchor}"><h2>{text(heading)}</h2>\n{content}\n</section>'
        for anchor, (heading, content) in told.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
<p class="under">{text(origin)}</p>
</header>
<nav>{contents}</nav>
{body}
</body>
</html>
"""
