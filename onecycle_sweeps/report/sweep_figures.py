"""The figures of a sweep as files: its groups' trajectories, their val accuracy and val loss, and its range tests."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from onecycle_sweeps.report import canvas, range_test_figures, val_figures
from onecycle_sweeps.report.budget_figure import Budgets, draw_budgets
from onecycle_sweeps.report.range_test_figures import RangeTestFigure
from onecycle_sweeps.report.shown import Shown
from onecycle_sweeps.report.trajectory_figures import draw_trajectories
from onecycle_sweeps.report.val_measures import ACCURACY, LOSS, SECONDS, STEPS, Measure

ROWS_SHOWN = 30
TITLE_WIDTH = 48


def draw_files(
    folder: Path, groups: Shown, tests: Sequence[RangeTestFigure], budgets: Budgets | None
) -> Iterable[Path]:
    """A PNG and an SVG each of trajectories, val_accuracy, val_loss, range_tests and accuracy_by_budget.

    Each as far as there are data for it; the last where epochs vary.

    Groups bear the same colours in all of them; of many groups the best few by final val accuracy are in colour.
    """
    if groups.examples:
        lr, momentum = canvas.axes(2, width=10, height=4.2)
        draw_trajectories(lr, momentum, groups)
        _legend_below(lr)
        yield from canvas.save_both(lr, folder / "trajectories.png")
    for name, measure in (("val_accuracy", ACCURACY), ("val_loss", LOSS)):
        if val_figures.has_any(groups, measure):
            yield from canvas.save_both(_val(groups, measure), folder / f"{name}.png")
    if tests:
        yield from canvas.save_both(range_test_figures.draw_all(tests), folder / "range_tests.png")
    if budgets:
        (axes,) = canvas.axes(width=7.5, height=4.6)
        draw_budgets(axes, budgets)
        axes.set_title("Accuracy against budget\nline: mean, dot: a seed", fontsize=11)
        _legend_below(axes)
        yield from canvas.save_both(axes, folder / "accuracy_by_budget.png")


def _val(groups: Shown, measure: Measure) -> "canvas.Axes":
    """Course over the steps, course over the seconds, and each seed's value at the end."""
    rows = min(len(groups.members), ROWS_SHOWN)
    steps, seconds, ends = canvas.axes(3, width=15, height=max(4.0, 1.4 + 0.26 * rows), ratios=(3, 3, 2))
    val_figures.draw_course(steps, groups, measure, STEPS)
    val_figures.draw_course(seconds, groups, measure, SECONDS)
    val_figures.draw_ends(ends, groups, measure, ROWS_SHOWN)
    for axes, title in ((steps, val_figures.course_words(groups)), (ends, val_figures.ends_words(groups, ROWS_SHOWN))):
        axes.set_title(textwrap.fill(title, TITLE_WIDTH), fontsize=10)
    canvas.figure_of(steps).suptitle(measure.title, fontsize=12)
    return steps


def _legend_below(axes: "canvas.Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(reversed(labels), reversed(handles), strict=True))
    columns = max(1, min(len(once), 110 // (max(map(len, once)) + 8)))
    canvas.figure_of(axes).legend(
        once.values(), once.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3
    )
