"""What came of a sweep or of a trial: tables, figures and files."""

from pathlib import Path

from onecycle_sweeps.report import canvas, figures, range_tests, stability
from onecycle_sweeps.report.comparison import Comparison as Comparison
from onecycle_sweeps.report.comparison import compare as compare
from onecycle_sweeps.report.csv_files import write_csv_files
from onecycle_sweeps.report.csv_files import write_range_test_csv as write_range_test_csv
from onecycle_sweeps.report.figures import draw_trajectory as draw_trajectory
from onecycle_sweeps.report.page import PAGE as PAGE
from onecycle_sweeps.report.page import write_page
from onecycle_sweeps.report.range_tests import draw_range_test as draw_range_test
from onecycle_sweeps.report.tables import markdown as markdown
from onecycle_sweeps.report.tables import remarks as remarks
from onecycle_sweeps.report.tables import show as show
from onecycle_sweeps.report.tables import show_list as show_list
from onecycle_sweeps.report.tables import show_status as show_status


def write(comparison: Comparison) -> list[Path]:
    """Write report.html, CSV files and figures into the sweep's report folder; returns the files, page first."""
    folder = comparison.sweep.report
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    drawn = [
        *figures.figures(groups, comparison.outcomes),
        *filter(None, [range_tests.figure(comparison.range_tests), stability.figure(comparison.maps)]),
    ]
    files = [*write_csv_files(comparison, groups), *(path for one in drawn for path in canvas.write(one, folder))]
    return [write_page(comparison, groups, {one.name: one for one in drawn}, files), *files]
