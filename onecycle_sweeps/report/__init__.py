"""The results of a sweep or of a trial: tables, figures and files."""

from collections.abc import Iterator
from pathlib import Path

from onecycle_sweeps.measures import recorded
from onecycle_sweeps.report import canvas, figures, range_tests, scores, stability
from onecycle_sweeps.report.comparison import Comparison as Comparison
from onecycle_sweeps.report.comparison import compare as compare
from onecycle_sweeps.report.csv_files import write_csv_files
from onecycle_sweeps.report.csv_files import write_range_test_csv as write_range_test_csv
from onecycle_sweeps.report.figures import ShownGroups
from onecycle_sweeps.report.figures import draw_trajectory as draw_trajectory
from onecycle_sweeps.report.groups import families, ran_alike
from onecycle_sweeps.report.page import PAGE as PAGE
from onecycle_sweeps.report.page import write_page
from onecycle_sweeps.report.range_tests import draw_range_test as draw_range_test
from onecycle_sweeps.report.summary import highlights as highlights
from onecycle_sweeps.report.summary import show_remarks as show_remarks
from onecycle_sweeps.report.summary import show_summary as show_summary
from onecycle_sweeps.report.tables import coloured as coloured
from onecycle_sweeps.report.tables import markdown as markdown
from onecycle_sweeps.report.tables import remarks as remarks
from onecycle_sweeps.report.tables import show as show
from onecycle_sweeps.report.tables import show_list as show_list
from onecycle_sweeps.report.tables import show_status as show_status


def write(comparison: Comparison) -> list[Path]:
    """Write report.html, CSV files and figures into the sweep's report folder; returns the files, page first."""
    folder = comparison.sweep.report
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    drawn = list(plots(comparison, groups))
    files = [*write_csv_files(comparison, groups), *(path for one in drawn for path in canvas.write(one, folder))]
    return [write_page(comparison, groups, {one.name: one for one in drawn}, files), *files]


def plots(comparison: Comparison, groups: ShownGroups) -> Iterator[canvas.Plot]:
    """The figures for which there are data; groups have the same colours in all of them."""
    outcomes, claims = comparison.outcomes, comparison.claims
    found = families(outcomes)
    rates = {rate for test in comparison.range_tests if (rate := test.suggestions.get(range_tests.VERDICT))}
    courses = [groups.course(one, with_seconds=ran_alike(outcomes)) for one in recorded(groups.measures)]
    yield from filter(
        None,
        [
            scores.differences(claims.claims, found, groups, claims.measure),
            *(course.figure() for course in courses if course.has_data),
            figures.trajectories(groups) if groups.examples else None,
            scores.over_rates(found, groups, rates.pop() if len(rates) == 1 else None),
            scores.over_budgets(outcomes),
            range_tests.figure(comparison.range_tests),
            range_tests.probes_figure(comparison.probes),
            stability.figure(comparison.maps),
        ],
    )
