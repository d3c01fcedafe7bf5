"""What came of a sweep or of a trial: tables, figures and files."""

from pathlib import Path

from onecycle_sweeps.report.comparison import Comparison as Comparison
from onecycle_sweeps.report.comparison import compare as compare
from onecycle_sweeps.report.csv_files import write_csv as write_csv
from onecycle_sweeps.report.csv_files import write_range_test_csv as write_range_test_csv
from onecycle_sweeps.report.csv_files import write_stability_csv
from onecycle_sweeps.report.figures import draw_range_test as draw_range_test
from onecycle_sweeps.report.figures import draw_trajectory as draw_trajectory
from onecycle_sweeps.report.outcomes import read
from onecycle_sweeps.report.stability_figure import draw_stability_maps
from onecycle_sweeps.report.stability_map import stability_maps
from onecycle_sweeps.report.status import show_status as show_status
from onecycle_sweeps.report.sweep_figures import draw_sweep as draw_sweep
from onecycle_sweeps.report.table import markdown as markdown
from onecycle_sweeps.report.table import remarks as remarks
from onecycle_sweeps.report.table import show as show
from onecycle_sweeps.report.verdicts import PublishedRow as PublishedRow
from onecycle_sweeps.sweep import Sweep


def write(sweep: Sweep) -> list[Path]:
    """Write trials.csv and the figures into the sweep's report folder; returns the files."""
    outcomes = read(sweep)
    maps = stability_maps(outcomes)
    return [
        write_csv(sweep, sweep.report / "trials.csv", outcomes),
        *draw_sweep(sweep, outcomes),
        *write_stability_csv(maps, sweep.report / "stability_map.csv"),
        *draw_stability_maps(maps, sweep.report / "stability_map.png"),
    ]
