"""Range tests: the loss at each rate, and the rates that the rules suggest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps import journal
from onecycle_sweeps.outcome import Outcome, RangeTestCurve, range_test_curves
from onecycle_sweeps.report import canvas
from onecycle_sweeps.sweep import RANGE_TEST
from onecycle_sweeps.trial_folder import TrialFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 100
VERDICT = "max_lr"
LABEL_HEIGHT = 0.062
# The width in inches of a mark's words: of the longest, and of the verdict's.
LONGEST, LONGEST_VERDICT = 1.75, 1.35
MOST = 24
# The width and height in inches of one of many.
SMALL = 3.6, 2.5


@dataclass(frozen=True)
class Rule:
    """How a suggestion is marked."""

    words: str
    colour: str


RULES = {
    "valley": Rule("valley", canvas.COLOURS[1]),
    "minimum": Rule("minimum / 10", canvas.COLOURS[2]),
    "steepest": Rule("steepest", canvas.COLOURS[3]),
    "slide": Rule("slide", canvas.COLOURS[4]),
    "divergence": Rule("divergence", canvas.MUTED),
    VERDICT: Rule("max_lr", "#000000"),
}


@dataclass(frozen=True)
class RangeTestFigure:
    """What is drawn of a range test: a curve per seed, and its rates."""

    name: str
    signature: str
    status: str
    logarithmic: bool
    curves: Sequence[RangeTestCurve]
    rates: Mapping[str, float]
    verdict: str


def of(outcomes: Iterable[Outcome]) -> list[RangeTestFigure]:
    """The range tests among a sweep's trials that have a step to draw."""
    tests = (o for o in outcomes if o.entry.kind == RANGE_TEST and o.curves)
    return [_figure(o.name, o.status, o.folder, o.result, o.curves) for o in tests]


def draw_range_test(trial: TrialFolder) -> Path:
    """range_test.png: raw and smoothed loss against lr, with every suggestion and the verdict marked.

    Raises ValueError where the journal has no step.
    """
    if not (curves := range_test_curves(journal.read(trial.journal))):
        raise ValueError(f"{trial.journal} has no range test to draw")
    test = _figure("Range test", "", trial, trial.result() or {}, curves)
    (loss,) = canvas.axes(width=7.5, height=4.8)
    draw_curves(loss, test)
    loss.set_title("Range test" if test.rates else "Range test without a verdict")
    canvas.figure_of(loss).legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return canvas.save(loss, trial.path / "range_test.png", DPI)


def draw_all(tests: Sequence[RangeTestFigure]) -> "Axes":
    """The first of them as small multiples in one figure; of a single one, with every mark in words."""
    tests = tests[:MOST]
    columns = min(3, len(tests))
    rows = -(-len(tests) // columns)
    wide, high = (7.5, 4.8) if len(tests) == 1 else SMALL
    several = canvas.tiles(rows, columns, wide, high, title=0.3)
    for axes, test in zip(several, tests, strict=False):
        draw_curves(axes, test, in_words=len(tests) == 1)
        axes.set_title(canvas.plain(test.name), fontsize=10)
    for axes in several[len(tests) :]:
        axes.set_visible(False)
    return several[0]


def draw_curves(loss: "Axes", test: RangeTestFigure, *, in_words: bool = True) -> None:
    """Raw and smoothed loss against lr; each mark has its rule and rate beside it, or the verdict alone has."""
    for run, curve in enumerate(test.curves):
        loss.plot(curve.lr, _finite(curve.loss), color=canvas.GREY, linewidth=0.8, label=_once("loss of a batch", run))
        label = _once("smoothed loss" + (f", each of {len(test.curves)} seeds" if len(test.curves) > 1 else ""), run)
        loss.plot(curve.lr, _finite(curve.smoothed), color=canvas.COLOURS[0], linewidth=2, label=label)
    if any(curve.evaluations for curve in test.curves):
        _draw_accuracies(loss, test.curves)
    if test.logarithmic:
        canvas.logarithmic_rates(loss)
    loss.margins(x=0)
    marks = {rule: test.rates[rule] for rule in RULES if rule in test.rates}
    words = list(marks) if in_words else [VERDICT]
    loss.set_ylim(_frame(test.curves, room=LABEL_HEIGHT * (len(words) + 0.5)))
    _mark(loss, marks, words)
    loss.set(xlabel="learning rate", ylabel="training loss")


def _figure(
    name: str, status: str, trial: TrialFolder, result: Mapping[str, Any], curves: Sequence[RangeTestCurve]
) -> RangeTestFigure:
    found = {k.removeprefix("suggestion/"): v for k, v in result.get("metrics", {}).items()}
    rates = {rule: found[rule] for rule in RULES if rule in found}
    exponential = trial.config()["range_test"]["mode"] == "exp"
    verdict = result.get("verdict", {})
    said = ""
    if reading := verdict.get("max_lr"):
        said = f"max_lr {reading['rate']:.3g}, from {reading['low']:.2g} to {reading['high']:.2g}, {verdict['word']}"
    return RangeTestFigure(name, trial.signature, status, exponential, curves, rates, said)


def _draw_accuracies(loss: "Axes", curves: Sequence[RangeTestCurve]) -> None:
    """Smith's curves, on an axis of their own at the right."""
    beside = loss.twinx()
    beside.set_ylabel("val accuracy (%)")
    beside.set_ylim(0, 100)
    beside.spines["top"].set_visible(False)
    for run, curve in enumerate(curve for curve in curves if curve.evaluations):
        rates, values = zip(*curve.evaluations, strict=True)
        percent = [100 * value for value in values]
        beside.plot(rates, percent, ".-", color=canvas.COLOURS[5], linewidth=1.2, label=_once("val accuracy", run))


def _mark(loss: "Axes", marks: Mapping[str, float], words: Sequence[str]) -> None:
    """A vertical line per rate up to its label; each label has a row of its own, and no line crosses another's."""
    left, right = loss.get_xlim()
    place = np.log if loss.get_xscale() == "log" else np.asarray
    across = {rule: float((place(rate) - place(left)) / (place(right) - place(left))) for rule, rate in marks.items()}
    room = (LONGEST if len(words) > 1 else LONGEST_VERDICT) / _inches(loss)
    to_the_left = bool(max(across.values(), default=0.0) > 1 - room)
    for row, rule in enumerate(sorted(marks, key=across.__getitem__, reverse=to_the_left)):
        heavy, top = rule == VERDICT, 1 - LABEL_HEIGHT * ((row if len(words) > 1 else 0) + 0.5)
        side = -1 if to_the_left and across[rule] > room else 1
        # Dashes of unlike phase show both of two marks at the same rate, and the verdict behind them.
        line = (
            {"linewidth": 3, "zorder": 1.5}
            if heavy
            else {"linewidth": 1.5, "linestyle": (4 * row, (4, 4)), "zorder": 2.5}
        )
        loss.axvline(marks[rule], ymax=top, color=RULES[rule].colour, **line)
        if rule not in words:
            continue
        loss.annotate(
            f"{RULES[rule].words} = {marks[rule]:.3g}",
            (marks[rule], top),
            xycoords=("data", "axes fraction"),
            xytext=(5 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=10,
            weight="bold" if heavy else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
        )


def _inches(axes: "Axes") -> float:
    """How wide the axes are drawn, or nearly so before they are laid out."""
    return axes.get_position().width * canvas.figure_of(axes).get_figwidth()


def _frame(curves: Sequence[RangeTestCurve], room: float) -> tuple[float, float]:
    """Limits of the loss axis that show the descent and the rise after it, with `room` (a fraction) free above."""
    drawn = [np.concatenate([_finite(curve.smoothed), _finite(curve.loss)]) for curve in curves]
    known = [values[np.isfinite(values)] for values in drawn if np.isfinite(values).any()]
    if not known:
        return 0.0, 1.0
    low, start = min(float(values.min()) for values in known), max(float(values[0]) for values in known)
    high = start + 0.35 * max(start - low, 0.05 * abs(start))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, low - margin + (high - low + 2 * margin) / (1 - room)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def _once(label: str, run: int) -> str:
    """The label for the first of several alike lines; matplotlib's legend leaves out the others."""
    return label if run == 0 else "_"
