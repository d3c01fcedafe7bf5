"""What came of a sweep or of a trial: tables, figures and files."""

from collections.abc import Sequence
from pathlib import Path

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.outcome import read as read
from onecycle_sweeps.report import range_test_figures
from onecycle_sweeps.report.budget_figure import budgets_of
from onecycle_sweeps.report.comparison import Comparison as Comparison
from onecycle_sweeps.report.comparison import compare as compare
from onecycle_sweeps.report.csv_files import write_claims_csv, write_stability_csv
from onecycle_sweeps.report.csv_files import write_csv as write_csv
from onecycle_sweeps.report.csv_files import write_range_test_csv as write_range_test_csv
from onecycle_sweeps.report.curve_files import write_curves
from onecycle_sweeps.report.page import PAGE as PAGE
from onecycle_sweeps.report.page import write_page
from onecycle_sweeps.report.range_test_figures import draw_range_test as draw_range_test
from onecycle_sweeps.report.shown import shown
from onecycle_sweeps.report.stability_figure import draw_stability_maps
from onecycle_sweeps.report.status import show_status as show_status
from onecycle_sweeps.report.sweep_figures import draw_files
from onecycle_sweeps.report.table import markdown as markdown
from onecycle_sweeps.report.table import remarks as remarks
from onecycle_sweeps.report.table import show as show
from onecycle_sweeps.report.trajectory_figures import draw_trajectory as draw_trajectory
from onecycle_sweeps.report.verdicts import PublishedRow as PublishedRow
from onecycle_sweeps.sweep import Sweep


def write(sweep: Sweep, outcomes: Sequence[Outcome] | None = None, comparison: Comparison | None = None) -> list[Path]:
    """Write report.html, the CSV files and the figures into the sweep's report folder; returns the files, page first.

    `outcomes` spares a second reading of the trials' folders, `comparison` a second comparison.
    """
    outcomes = read(sweep) if outcomes is None else outcomes
    comparison = comparison or compare(sweep, outcomes)
    groups, tests = shown(comparison, outcomes), range_test_figures.of(outcomes)
    claims, maps = comparison.claims, comparison.maps
    files = [
        write_csv(sweep, sweep.report / "trials.csv", outcomes),
        *([write_claims_csv(claims, sweep.report / "claims.csv")] if claims.claims else []),
        *write_curves(sweep.report, outcomes, groups, tests),
        *draw_files(sweep.report, groups, tests, budgets_of(outcomes)),
        *write_stability_csv(maps, sweep.report / "stability_map.csv"),
        *draw_stability_maps(maps, sweep.report / "stability_map.png"),
    ]
    return [write_page(sweep, comparison, outcomes, groups, tests, maps, files), *files]
