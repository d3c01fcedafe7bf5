"""The texts of all figures: none missing, none cut off, none over another one; the axes have numbers enough."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

import hand_made
import kinds_of_sweeps
from kinds_of_sweeps import KINDS
from onecycle_sweeps import report
from onecycle_sweeps.measures import MINUS
from onecycle_sweeps.report import canvas, figures, ticks
from onecycle_sweeps.report.canvas import Plot
from onecycle_sweeps.report.comparison import compare
from onecycle_sweeps.sweep import Sweep


def plots(made: Sweep) -> list[Plot]:
    comparison = compare(made)
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    return list(report.plots(comparison, groups))


def texts(figure: Any) -> list[tuple[str, Any]]:
    """The texts that a figure shows, with their extents."""
    figure.draw_without_rendering()
    shown = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]
    return [(one.get_text(), one.get_window_extent()) for one in shown]


def assert_texts_are_whole(figure: Any, name: str) -> None:
    found, frame = texts(figure), figure.bbox
    for text, box in found:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1
        assert inside, f"{name}: {text!r} is cut off"
    for (text, box), (other, beside) in combinations(found, 2):
        width = min(box.x1, beside.x1) - max(box.x0, beside.x0)
        height = min(box.y1, beside.y1) - max(box.y0, beside.y0)
        assert width < 1 or height < 1, f"{name}: {text!r} is over {other!r}"


def numbers(figure: Any) -> list[tuple[str, list[str]]]:
    """The numbers of each axis that has numbers."""
    both = [axis for one in figure.axes for each in (one, *one.child_axes) for axis in (each.xaxis, each.yaxis)]
    found = [(axis, [label.get_text() for label in axis.get_ticklabels() if label.get_text()]) for axis in both]
    return [(axis.get_label_text(), labels) for axis, labels in found if labels]


# Axes with names or with what was asked for, not with numbers of a range.
LISTED = {"", "momentum", "weight decay", "epochs of the whole training"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_of_a_figure_is_cut_off_or_over_another_and_each_axis_has_3_to_8_numbers(
    kind: str, tmp_path: Path
) -> None:
    found = plots(KINDS[kind](tmp_path))
    assert found
    for plot in found:
        for name, figure in (
            (plot.name, canvas.compose(plot)),
            *((panel.name, canvas.figure_of(canvas.drawn(panel))) for panel in plot.panels),
        ):
            assert_texts_are_whole(figure, name)
            for label, labels in numbers(figure):
                assert label in LISTED or 3 <= len(labels) <= 8, f"{name}, {label}: {labels}"


def test_the_axis_of_rates_ends_at_a_ten_thousandth_of_the_peak(tmp_path: Path) -> None:
    entries = [kinds_of_sweeps.entry(policy, policy, 0, {}) for policy in ("constant", "onecycle")]
    made = hand_made.sweep(tmp_path, *entries)
    for one, rate in zip(entries, (0.0005, 0.5), strict=True):
        kinds_of_sweeps.trained(made, one, 0.9, rate)
    (plot,) = (one for one in plots(made) if one.name == "trajectories")
    axes = canvas.drawn(plot.panels[0])
    low, high = axes.get_ylim()
    drawn = [float(rate) for line in axes.lines for rate in np.asarray(line.get_ydata()) if rate > 0]
    assert min(drawn) < low < high
    assert max(drawn) <= high and 1e-5 <= low / max(drawn) <= 1e-4


NUMBERS = st.floats(-1e12, 1e12, allow_subnormal=False)


def placed(low: float, high: float, *, logarithmic: bool) -> list[tuple[float, str]]:
    """The ticks of a y axis between two values, and what is written there."""
    axes = canvas.new_axes(canvas.blank(5, 3))
    axes.set_yscale("log" if logarithmic else "linear")
    axes.set_ylim(low, high)
    ticks.place(axes.yaxis)
    return [
        (float(tick), label.get_text()) for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    ]


def read(text: str) -> float:
    plain = text.replace(MINUS, "-")
    return float(plain.translate(str.maketrans({"k": "e3", "M": "e6", "G": "e9"})))


@pytest.mark.slow
@settings(max_examples=30)
@example(low=2**-14, share=1e-7)
@given(NUMBERS, st.floats(1e-7, 1e3))
def test_a_linear_axis_has_3_to_8_numbers_which_are_those_of_its_ticks(low: float, share: float) -> None:
    high = low + share * max(abs(low), 1e-3)
    found = placed(low, high, logarithmic=False)
    assert 3 <= len(found) <= 8 and len({text for _, text in found}) == len(found)
    assert all(low - 1e-6 * (high - low) <= tick <= high + 1e-6 * (high - low) for tick, _ in found)
    assert [read(text) for _, text in found] == pytest.approx([tick for tick, _ in found], abs=0.02 * (high - low))


@pytest.mark.slow
@settings(max_examples=30)
@given(st.floats(-9, 9), st.floats(0.02, 15))
def test_a_logarithmic_axis_has_3_to_8_numbers_which_are_those_of_its_ticks(start: float, decades: float) -> None:
    found = placed(10**start, 10 ** (start + decades), logarithmic=True)
    assert 3 <= len(found) <= 8
    assert [read(text) for _, text in found] == pytest.approx([tick for tick, _ in found], rel=2e-3)
    if 3 <= np.floor(start + decades) - np.ceil(start) + 1 <= 6:
        assert {float(np.log10(tick)) % 1 for tick, _ in found} == {0.0}


def test_an_axis_that_a_figure_has_named_itself_is_left_alone() -> None:
    axes = canvas.new_axes(canvas.blank(5, 3))
    axes.set_xticks([0, 1], ["a", "b"])
    canvas.fit(axes, 0, 0, 5, 3)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
