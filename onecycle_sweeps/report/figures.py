"""The pictures of a single trial: its trajectory, or its range test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.curves import RangeTestCurve, range_tests, trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 100
VERDICT = "max_lr"
LABEL_HEIGHT = 0.062


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
    VERDICT: Rule("max_lr", "black"),
}


def draw_trajectory(trial: TrialFolder) -> Path | None:
    """lr_momentum.png: the lr and momentum that the optimizer used, side by side; None before the first step."""
    used = trajectory(trial)
    if not used.lr:
        return None
    lr, momentum = canvas.axes(2, height=3.2)
    lr.plot(used.lr.steps, used.lr.values, color=canvas.COLOURS[0], linewidth=1.7)
    momentum.plot(used.momentum.steps, used.momentum.values, color=canvas.COLOURS[1], linewidth=1.7)
    label_trajectory(lr, momentum)
    if not used.momentum:
        momentum.text(0.5, 0.5, "the optimizer has no momentum", ha="center", transform=momentum.transAxes)
    canvas.figure_of(lr).suptitle(canvas.plain(_title(trial)), fontsize=11)
    return canvas.save(lr, trial.path / "lr_momentum.png", DPI)


def label_trajectory(lr: "Axes", momentum: "Axes") -> None:
    """Titles and labels of a pair of axes with trajectories; a momentum that never moves lies at mid-height."""
    lr.set(title="Learning rate", xlabel=canvas.STEP, ylabel="lr")
    momentum.set(title="Momentum", xlabel=canvas.STEP, ylabel="momentum")
    low, high = momentum.dataLim.intervaly
    if not high - low > 1e-9:
        momentum.set_ylim((low - 0.05, high + 0.05) if np.isfinite(low) else (0, 1))


def draw_range_test(trial: TrialFolder) -> Path:
    """range_test.png: raw and smoothed loss against lr, with every suggestion and the verdict marked.

    Raises ValueError where the journal has no step.
    """
    curves = range_tests(trial)
    if not curves:
        raise ValueError(f"{trial.journal} has no range test to draw")
    (loss,) = canvas.axes(width=7.5, height=4.8)
    for run, curve in enumerate(curves):
        loss.plot(curve.lr, _finite(curve.loss), color=canvas.GREY, linewidth=0.8, label=_once("loss of a batch", run))
        label = _once("smoothed loss" + (f", each of {len(curves)} seeds" if len(curves) > 1 else ""), run)
        loss.plot(curve.lr, _finite(curve.smoothed), color=canvas.COLOURS[0], linewidth=2, label=label)
    loss.set_xscale("log" if trial.config()["range_test"]["mode"] == "exp" else "linear")
    loss.margins(x=0)
    found = {k.removeprefix("suggestion/"): v for k, v in (trial.result() or {}).get("metrics", {}).items()}
    marks = {rule: found[rule] for rule in RULES if rule in found}
    loss.set_ylim(_frame(curves, room=LABEL_HEIGHT * (len(marks) + 0.5)))
    _mark(loss, marks)
    loss.set(title="Range test" if marks else "Range test without a verdict", xlabel="lr", ylabel="training loss")
    canvas.figure_of(loss).legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return canvas.save(loss, trial.path / "range_test.png", DPI)


def _mark(loss: "Axes", marks: Mapping[str, float]) -> None:
    """A vertical line per rate up to its label; each label has a row of its own, and no line crosses another's."""
    left, right = loss.get_xlim()
    place = np.log if loss.get_xscale() == "log" else np.asarray
    across = {rule: float((place(rate) - place(left)) / (place(right) - place(left))) for rule, rate in marks.items()}
    to_the_left = max(across.values(), default=0.0) > 0.72
    for row, rule in enumerate(sorted(marks, key=across.__getitem__, reverse=to_the_left)):
        heavy, top = rule == VERDICT, 1 - LABEL_HEIGHT * (row + 0.5)
        side = -1 if to_the_left and across[rule] > 0.25 else 1
        # Dashes of unlike phase show both of two marks at the same rate, and the verdict behind them.
        line = (
            {"linewidth": 3, "zorder": 1.5}
            if heavy
            else {"linewidth": 1.5, "linestyle": (4 * row, (4, 4)), "zorder": 2.5}
        )
        loss.axvline(marks[rule], ymax=top, color=RULES[rule].colour, **line)
        loss.annotate(
            f"{RULES[rule].words} = {marks[rule]:.3g}",
            (marks[rule], top),
            xycoords=("data", "axes fraction"),
            xytext=(5 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            color=RULES[rule].colour,
            fontsize=10,
            weight="bold" if heavy else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
        )


def _frame(curves: Sequence[RangeTestCurve], room: float) -> tuple[float, float]:
    """Limits of the loss axis that show the descent and the rise after it, with `room` (a fraction) free above."""
    smoothed = np.concatenate([_finite(curve.smoothed) for curve in curves])
    losses = np.concatenate([smoothed, *(_finite(curve.loss) for curve in curves)])
    if not np.isfinite(smoothed).any():
        return 0.0, 1.0
    low, start = float(np.nanmin(losses)), float(np.nanmax(_finite([curve.smoothed[0] for curve in curves])))
    high = start + 0.35 * max(start - low, 0.05 * abs(start))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, low - margin + (high - low + 2 * margin) / (1 - room)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def _once(label: str, run: int) -> str:
    """The label for the first of several alike lines; matplotlib's legend leaves out the others."""
    return label if run == 0 else "_"


def _title(trial: TrialFolder) -> str:
    config, resolved = trial.config(), trial.resolved() or {}
    policy = config.get("policy", {}).get("_target_", "range test").rpartition(".")[2]
    rate = resolved.get("max_lr")
    return ", ".join(
        [policy, *([f"max_lr={rate:.3g}"] if rate else []), *([f"seed={config['seed']}"] if "seed" in config else [])]
    )
