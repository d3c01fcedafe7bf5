"""Range tests and probes in the report: the rates that they suggest, in words and in pictures.

A range test is shown by its curve, on which the suggested rates are marked, and a probe by the scores of its short
trainings over their rates.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps.measures import Measure
from onecycle_sweeps.outcome import Outcome, RangeTestCurve, look, with_series
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Panel, Plot, Style
from onecycle_sweeps.sweep import RANGE_TEST, Entry
from onecycle_sweeps.trial_folder import TrialFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VERDICT = "max_lr"
# What a range test is read for, and the rules of fastai (four), torch-lr-finder and Lightning.
READ = ("base_lr", "steepest", "last_clear_descent", "lowest", "divergence")
PEERS = ("minimum", "valley", "slide", "steep", "torch_lr_finder", "lightning")
# The suggestions that are marked on the curve: their words and the style of the mark.
MARKS = {
    "valley": ("valley", Style(canvas.COLOURS[1], (4, 4), 1.5)),
    "minimum": ("minimum / 10", Style(canvas.COLOURS[2], (4, 4), 1.5)),
    "steepest": ("steepest", Style(canvas.COLOURS[3], (4, 4), 1.5)),
    "slide": ("slide", Style(canvas.COLOURS[4], (4, 4), 1.5)),
    "divergence": ("divergence", Style(canvas.MUTED, (4, 4), 1.5)),
    VERDICT: ("max_lr", Style(canvas.BLACK, width=2.4)),
}
# The height of a label as a fraction of the axes, and the widths in inches of the longest label and of the verdict's.
LABEL_HEIGHT = 0.062
LONGEST, LONGEST_VERDICT = 1.75, 1.35
# Of many range tests the first are drawn. Beyond a few they are small multiples.
MOST, FEW = 24, 2
SMALL = (3.6, 2.3)
CAPTION = "Grey: each batch's loss; blue: smoothed. Vertical lines: the rate that each rule suggests."
EVALUATED = "Where the rates rise linearly, the validation part is scored on the way."
WORDS = {"minimum": "minimum / 10", VERDICT: "max_lr"}
# Probes: the styles of their lines, and what is written beside them.
SHORTER, LONGER = Style(canvas.COLOURS[5], (4, 2), 1.5), Style(canvas.COLOURS[0], (), 2)
FOUND, BEGAN_FROM = Style(canvas.BLACK, (), 2), Style(canvas.MUTED, (2, 2), 1.5)
PROBE_LEGEND = (
    ("the first, shorter trainings", SHORTER),
    ("the last trainings", LONGER),
    ("max_lr", FOUND),
    ("range test", BEGAN_FROM),
)
PROBE_CAPTION = (
    "Each dot is a complete short training by the policy itself. Shaded: the interval of max_lr. With an adaptive "
    "optimizer, or a policy that stays near its peak, max_lr is half of the rate that was found. A training that "
    "diverged has no dot."
)
MOST_PROBES = 12


def verdict(test: Outcome) -> str:
    """The rate that a range test suggests, with its interval and how sure it is; empty before there is one."""
    return verdict_in_words(test.suggestions, test.result.get("verdict", {}).get("word"))


def verdict_in_words(rates: Mapping[str, float], word: str | None) -> str:
    """The verdict among the rates that a range test suggests, with its interval and `word`; empty if it has none."""
    if VERDICT not in rates:
        return ""
    rate = f"max_lr={rates[VERDICT]:.3g}"
    if "max_lr_low" not in rates:
        return rate
    return f"{rate}, from {rates['max_lr_low']:.2g} to {rates['max_lr_high']:.2g}" + (f", {word}" if word else "")


def in_words(rates: Mapping[str, float], names: Sequence[str]) -> str:
    """The rates of these names that there are: "steepest 0.1, lowest 0.3"."""
    return ", ".join(f"{name.replace('_', ' ')} {rates[name]:.3g}" for name in names if name in rates)


def line(test: Outcome) -> str:
    """A range test in a line: its verdict, what else was read from it, and what other tools' rules suggest."""
    if not (found := verdict(test)):
        return f"{test.name}: {test.status}"
    read, peers = (in_words(test.suggestions, names) for names in (READ, PEERS))
    others = f"; rules of other tools: {peers}" if peers else ""
    return f"{test.name}: {found}" + (f" ({read})" if read else "") + others


def rates_of(test: Outcome) -> list[tuple[str, str, Style | None]]:
    """The rows of a test's table: each rate by its words, as a number, and the style of its mark on the curve."""
    rates, word = test.suggestions, test.result.get("verdict", {}).get("word")
    rows: list[tuple[str, str, Style | None]] = []
    if VERDICT in rates:
        rows.append((f"max_lr{f', {word}' if word else ''}", f"{rates[VERDICT]:.3g}", MARKS[VERDICT][1]))
    if "max_lr_low" in rates:
        rows.append(("its interval", f"{rates['max_lr_low']:.2g} to {rates['max_lr_high']:.2g}", None))
    for name in (*READ, *PEERS):
        if name in rates:
            words = WORDS.get(name, name.replace("_", " "))
            rows.append((words, f"{rates[name]:.3g}", MARKS[name][1] if name in MARKS else None))
    return rows


def caption_of(test: Outcome) -> str:
    """How to read the table of a test's rates: which are its own, and which are what other programs would take."""
    peers = [WORDS.get(name, name.replace("_", " ")) for name in PEERS if name in test.suggestions]
    return f"Rates that are read from the curve of the {test.name}" + (
        f"; by the rules of other programs: {', '.join(peers)}." if peers else "."
    )


def summary(tests: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Many range tests in a table: the headers, and a row for each with its verdict or its status."""
    names = [name for name in ("steepest", "lowest", "divergence") if any(name in test.suggestions for test in tests)]
    headers = ["range test", "max_lr", "interval", "verdict", *names]
    rows: list[list[str]] = []
    for test in tests:
        rates = test.suggestions
        known = VERDICT in rates
        interval = f"{rates['max_lr_low']:.2g} to {rates['max_lr_high']:.2g}" if "max_lr_low" in rates else "-"
        word = test.result.get("verdict", {}).get("word") or ("-" if known else test.status)
        shown = [f"{rates[name]:.3g}" if name in rates else "-" for name in (VERDICT, *names)]
        rows.append([_short_name(test), shown[0], interval, word, *shown[1:]])
    return headers, rows


def _short_name(test: Outcome) -> str:
    """The name of a test among others: what distinguishes it."""
    return test.name.removeprefix("range test ")


def is_exponential(test: Outcome) -> bool:
    """Whether a range test's rates rise by a factor from step to step; assumed if its config is unreadable."""
    return test.config.get("range_test", {}).get("mode", "exp") == "exp"


def figure(tests: Sequence[Outcome]) -> Plot | None:
    """The curves of the range tests with their suggestions; None if none has a step."""
    drawn = [test for test in tests if test.curves]
    if not drawn:
        return None
    shown = drawn[:MOST]
    few = len(shown) <= FEW
    rest = f" The first {len(shown)} of {len(drawn)}." if len(shown) < len(drawn) else ""
    panels = [
        panel
        for number, test in enumerate(shown)
        for panel in panels_of(test, f"range-{number}", CAPTION + rest, small=not few, alone=len(shown) == 1)
    ]
    rates = shown[0].suggestions if len(shown) == 1 else {}
    legend = tuple((words + (f": {rates[k]:.3g}" if k in rates else ""), style) for k, (words, style) in MARKS.items())
    return Plot("range_tests", "Range tests", tuple(panels), legend, columns=2 if few else 3, is_small=not few)


def panels_of(
    test: Outcome,
    name: str,
    caption: str = CAPTION,
    *,
    small: bool = False,
    alone: bool = True,
    labels_all: bool = False,
) -> list[Panel]:
    """The loss of a range test against the rate and, if it was evaluated, the headline measure on the validation part.

    The measure has a separate panel, as in Smith's papers: two axes in one plot are easily mistaken.
    """
    width, height = SMALL if small else (canvas.PANEL_WIDTH, canvas.PANEL_HEIGHT)
    title = "" if alone else _short_name(test)
    loss = Panel(name, f"{test.name}: training loss against the rate", partial(draw, test=test, labels_all=labels_all))
    found = [replace(loss, captions=(caption,))]
    if any(curve.evaluations for curve in test.curves):
        words = f"{test.name}: val {test.headline.name} against the rate"
        found.append(Panel(f"{name}-val", words, partial(_draw_evaluations, test=test), (EVALUATED,)))
    return [replace(panel, title=title, width=width, height=height, has_values=True) for panel in found]


def draw_range_test(trial: TrialFolder) -> Path:
    """range_test.png in the trial's folder; raises ValueError if the journal has no step."""
    test = with_series(look(Entry(trial.signature, RANGE_TEST, {}), trial))
    if not test.curves:
        raise ValueError(test.cause or f"{trial.journal} has no range test to draw")
    title = "Range test" if verdict(test) else "Range test without a verdict"
    panels = [replace(panel, width=7.5, height=4.4) for panel in panels_of(test, "range", labels_all=True)]
    made = canvas.compose(Plot("range_test", title, tuple(panels), columns=1))
    return canvas.save(made, trial.path / "range_test.png", dpi=100)


def draw(loss: "Axes", test: Outcome, *, labels_all: bool = True) -> None:
    """A range test of a trial, as `draw_curves` draws it."""
    exponential = is_exponential(test)
    draw_curves(loss, test.curves, test.suggestions, exponential=exponential, labels_all=labels_all)


def draw_curves(
    loss: "Axes",
    curves: Sequence[RangeTestCurve],
    suggestions: Mapping[str, float],
    *,
    exponential: bool = True,
    labels_all: bool = True,
) -> None:
    """Raw and smoothed loss against the rate; each mark has its rule and rate beside it, or only the verdict has."""
    for run, curve in enumerate(curves):
        loss.plot(curve.lr, _finite(curve.loss), color=canvas.GREY, linewidth=0.8, label=_once("loss of a batch", run))
        label = _once("smoothed loss" + (f", each of {len(curves)} seeds" if len(curves) > 1 else ""), run)
        loss.plot(curve.lr, _finite(curve.smoothed), color=canvas.COLOURS[0], linewidth=2, label=label)
    if exponential:
        canvas.logarithmic_rates(loss)
    loss.margins(x=0)
    marks = {rule: suggestions[rule] for rule in MARKS if math.isfinite(suggestions.get(rule, math.nan))}
    labelled = list(marks) if labels_all else [VERDICT]
    loss.set_ylim(_limits(curves, headroom=LABEL_HEIGHT * (len(labelled) + 0.5)))
    _draw_marks(loss, marks, labelled)
    loss.set(xlabel="learning rate", ylabel="training loss")


def _draw_evaluations(axes: "Axes", test: Outcome) -> None:
    """The headline measure against the rate, one line per seed, with the verdict."""
    headline = test.headline
    for curve in (curve for curve in test.curves if curve.evaluations):
        rates, values = zip(*curve.evaluations, strict=True)
        shown = _finite([headline.shown(value) for value in values])
        axes.plot(rates, shown, ".-", color=canvas.COLOURS[0], linewidth=1.4)
    if is_exponential(test):
        canvas.logarithmic_rates(axes)
    axes.set_xlim(min(min(curve.lr) for curve in test.curves), max(max(curve.lr) for curve in test.curves))
    if VERDICT in test.suggestions:
        axes.axvline(test.suggestions[VERDICT], **MARKS[VERDICT][1].line(zorder=1))
    axes.set(xlabel="learning rate", ylabel=f"val {headline.label}")


def _draw_marks(loss: "Axes", marks: Mapping[str, float], labelled: Sequence[str]) -> None:
    """A vertical line per rate up to its label; each label is in another row, so that no line crosses a label."""
    left, right = loss.get_xlim()
    place = np.log if loss.get_xscale() == "log" else np.asarray
    across = {rule: float((place(rate) - place(left)) / (place(right) - place(left))) for rule, rate in marks.items()}
    # Before the layout this is the width of the axes only roughly.
    inches = loss.get_position().width * canvas.figure_of(loss).get_figwidth()
    room = (LONGEST if len(labelled) > 1 else LONGEST_VERDICT) / inches
    to_the_left = bool(max(across.values(), default=0.0) > 1 - room)
    for row, rule in enumerate(sorted(marks, key=across.__getitem__, reverse=to_the_left)):
        words, style = MARKS[rule]
        top = 1 - LABEL_HEIGHT * ((row if len(labelled) > 1 else 0) + 0.5)
        # Dashes with different offsets show both of two marks at the same rate, and the verdict behind them.
        dashes = {"linestyle": (4 * row, style.dashes)} if style.dashes else {}
        zorder = 2.5 if style.dashes else 1.5
        loss.axvline(marks[rule], ymax=top, **style.line(**dashes, zorder=zorder))
        if rule not in labelled:
            continue
        side = -1 if to_the_left and across[rule] > room else 1
        loss.annotate(
            f"{words} = {marks[rule]:.3g}",
            (marks[rule], top),
            xycoords=("data", "axes fraction"),
            xytext=(5 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=10,
            weight="bold" if rule == VERDICT else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
        )


def _limits(curves: Sequence[RangeTestCurve], headroom: float) -> tuple[float, float]:
    """Limits of the loss axis that show the descent and the rise after it, with `headroom` (a fraction) free above."""
    drawn = [np.concatenate([_finite(curve.smoothed), _finite(curve.loss)]) for curve in curves]
    known = [values[np.isfinite(values)] for values in drawn if np.isfinite(values).any()]
    if not known:
        return 0.0, 1.0
    low, start = min(float(values.min()) for values in known), max(float(values[0]) for values in known)
    high = start + 0.35 * max(start - low, 0.05 * abs(start))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, low - margin + (high - low + 2 * margin) / (1 - headroom)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def _once(label: str, run: int) -> str:
    """The label for the first of several equal lines; matplotlib's legend leaves out labels with an underscore."""
    return label if run == 0 else "_"


def probe_line(probe: Outcome, sweeps_steps: int) -> str:
    """A probe in a line: its verdict, where it began, and its cost; `sweeps_steps` are those of all trainings."""
    if not (found := verdict(probe)):
        return f"{probe.name}: {probe.status}"
    record = probe.result["verdict"]
    start, probed = record["from_range_test"], record["probed"]
    if not probed:
        return f"{probe.name}: {found}, which is the range test's: too few steps for short trainings"
    lengths = sorted({one["steps"] for one in probed})
    share = f", {100 * probe.result['steps'] / sweeps_steps:.2g} % of the trainings' steps" if sweeps_steps else ""
    cost = f"{len(probed)} short trainings of {' and '.join(map(str, lengths))} steps{share}"
    lowered = "; half of what these say" if record.get("is_lowered") else ""
    return f"{probe.name}: {found} (range test {start:.3g}; {cost}{lowered})"


def probe_lines(probes: Sequence[Outcome], trainings: Sequence[Outcome]) -> Iterator[str]:
    """A line for each probe."""
    steps = sum(outcome.resolved.get("total_steps", 0) for outcome in trainings)
    for probe in probes:
        yield probe_line(probe, steps)


def probes_figure(probes: Sequence[Outcome]) -> Plot | None:
    """The scores of each probe's short trainings; None if none has taken any."""
    shown = [probe for probe in probes if probe.result.get("verdict", {}).get("probed")]
    if not shown:
        return None
    panels = tuple(
        Panel(
            name=f"probe-{number}",
            words=probe.name,
            draw=partial(draw_probe, record=probe.result["verdict"]),
            captions=(PROBE_CAPTION,),
            title=probe.name,
            has_values=True,
        )
        for number, probe in enumerate(shown[:MOST_PROBES])
    )
    return Plot("probes", "Short trainings that found max_lr", panels, legend=PROBE_LEGEND, columns=2)


def draw_probe(axes: "Axes", record: dict[str, Any]) -> None:
    """The measure over the rate, a line for each length; `record` is the verdict of a probe's result."""
    measure, probed = Measure(**record["measure"]), record["probed"]
    untrained = record["untrained"]
    lengths = sorted({one["steps"] for one in probed})
    reading = record["max_lr"]
    axes.axvspan(reading["low"], reading["high"], color=canvas.GRID, zorder=0)
    for steps, style in zip(lengths, (SHORTER, LONGER)[-len(lengths) :], strict=True):
        points = sorted(
            (one["rate"], _score_shown(measure, one["score"]))
            for one in probed
            if one["steps"] == steps and one["score"] is not None and one["score"] < untrained
        )
        if points:
            rates, values = zip(*points, strict=True)
            axes.plot(rates, values, marker="o", markersize=4, label=f"{steps} steps", **style.line())
    axes.axvline(record["from_range_test"], **BEGAN_FROM.line(zorder=2))
    axes.axvline(reading["rate"], **FOUND.line(zorder=2))
    canvas.logarithmic_rates(axes)
    axes.set(xlabel="max_lr", ylabel=f"val {measure.label}")


def _score_shown(measure: Measure, score: float) -> float:
    return measure.shown(score if measure.goal == "min" else -score)
