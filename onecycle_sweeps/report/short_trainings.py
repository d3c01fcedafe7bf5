"""A probe in the report: the score of its short trainings over their rates, and the rate that it found."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from onecycle_sweeps.measures import Measure
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Panel, Plot, Style
from onecycle_sweeps.report.range_tests import verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHORTER, LONGER = Style(canvas.COLOURS[5], (4, 2), 1.5), Style(canvas.COLOURS[0], (), 2)
FOUND, RANGE_TEST = Style(canvas.BLACK, (), 2), Style(canvas.MUTED, (2, 2), 1.5)
LEGEND = (
    ("the first, shorter trainings", SHORTER),
    ("the last trainings", LONGER),
    ("max_lr", FOUND),
    ("range test", RANGE_TEST),
)
CAPTION = (
    "Each dot is a short training by the policy itself, to its end. Shaded: the interval of max_lr. A policy that "
    "stays near its peak gets half of the rate that its trainings say. A training that diverged has no dot."
)
MOST = 12


def line(probe: Outcome, sweeps_steps: int) -> str:
    """A probe in a line: its verdict, where it started, and what it cost beside the `sweeps_steps` of the trainings."""
    if not (found := verdict(probe)):
        return f"{probe.name}: {probe.status}"
    record = probe.result["verdict"]
    start, probed = record["from_range_test"], record["probed"]
    if not probed:
        return f"{probe.name}: {found}, which is the range test's: too few steps for short trainings"
    lengths = sorted({one["steps"] for one in probed})
    share = f", {100 * probe.result['steps'] / sweeps_steps:.2g} % of the trainings' steps" if sweeps_steps else ""
    cost = f"{len(probed)} short trainings of {' and '.join(map(str, lengths))} steps{share}"
    lowered = "; half of what these say, since the policy stays near its peak" if record.get("is_lowered") else ""
    return f"{probe.name}: {found} (range test {start:.3g}; {cost}{lowered})"


def lines(probes: Sequence[Outcome], trainings: Sequence[Outcome]) -> Iterator[str]:
    """A line for each probe."""
    steps = sum(outcome.resolved.get("total_steps", 0) for outcome in trainings)
    for probe in probes:
        yield line(probe, steps)


def figure(probes: Sequence[Outcome]) -> Plot | None:
    """The scores of each probe's short trainings; None if none has taken any."""
    shown = [probe for probe in probes if probe.result.get("verdict", {}).get("probed")]
    if not shown:
        return None
    panels = tuple(
        Panel(
            name=f"probe-{number}",
            words=probe.name,
            draw=partial(draw, record=probe.result["verdict"]),
            captions=(CAPTION,),
            title=probe.name,
            has_values=True,
        )
        for number, probe in enumerate(shown[:MOST])
    )
    return Plot("probes", "Short trainings that found max_lr", panels, legend=LEGEND, columns=2)


def draw(axes: "Axes", record: dict[str, Any]) -> None:
    """The measure over the rate, a line for each length; `record` is the verdict of a probe's result."""
    measure, probed = Measure(**record["measure"]), record["probed"]
    untrained = record["untrained"]
    lengths = sorted({one["steps"] for one in probed})
    reading = record["max_lr"]
    axes.axvspan(reading["low"], reading["high"], color=canvas.GRID, zorder=0)
    for steps, style in zip(lengths, (SHORTER, LONGER)[-len(lengths) :], strict=True):
        points = sorted(
            (one["rate"], _value(measure, one["score"]))
            for one in probed
            if one["steps"] == steps and one["score"] is not None and one["score"] < untrained
        )
        if points:
            rates, values = zip(*points, strict=True)
            axes.plot(rates, values, marker="o", markersize=4, label=f"{steps} steps", **style.line())
    axes.axvline(record["from_range_test"], **RANGE_TEST.line(zorder=2))
    axes.axvline(reading["rate"], **FOUND.line(zorder=2))
    canvas.logarithmic_rates(axes)
    axes.set(xlabel="max_lr", ylabel=f"val {measure.label}")


def _value(measure: Measure, score: float) -> float:
    return measure.shown(score if measure.goal == "min" else -score)
