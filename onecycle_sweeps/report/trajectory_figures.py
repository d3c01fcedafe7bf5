"""Learning rate and momentum: what a trial's optimizer used, and what its policy planned."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onecycle_sweeps import journal
from onecycle_sweeps.outcome import Series, trajectory
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.shown import Shown
from onecycle_sweeps.trial_folder import TrialFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 100
# Peak rates further apart than this factor are shown on a logarithmic axis.
LINEAR_UP_TO = 20
PLANNED = "planned"


def draw_trajectory(trial: TrialFolder) -> Path | None:
    """lr_momentum.png: the lr and momentum that the optimizer used, side by side; None before the first step."""
    used = trajectory(journal.read(trial.journal))
    if not used.lr:
        return None
    lr, momentum = canvas.tiles(1, 2, width=4.5, height=3.2, title=0.55)
    lr.plot(used.lr.steps, used.lr.values, color=canvas.COLOURS[0], linewidth=1.7)
    momentum.plot(used.momentum.steps, used.momentum.values, color=canvas.COLOURS[1], linewidth=1.7)
    lr.set_title("Learning rate")
    momentum.set_title("Momentum")
    _fit(lr, momentum)
    if not used.momentum:
        momentum.text(0.5, 0.5, "the optimizer has no momentum", ha="center", transform=momentum.transAxes)
    canvas.figure_of(lr).suptitle(canvas.plain(_title(trial)), fontsize=11)
    return canvas.save(lr, trial.path / "lr_momentum.png", DPI)


def draw_trajectories(lr: "Axes", momentum: "Axes", groups: Shown) -> None:
    """What one trial of each group used, and over it, dotted, what was planned for the groups in colour."""
    for group, example in reversed(list(groups.examples.items())):
        style = groups.styles[group]
        used, planned = example.outcome.used, example.plan.planned
        for axes, taken, asked in ((lr, used.lr, planned.lr), (momentum, used.momentum, planned.momentum)):
            axes.plot(taken.steps, taken.values, label=groups.label(group), **style.line())
            if style.highlighted:
                _dot(axes, asked)
    peaks = [max(example.outcome.used.lr.values) for example in groups.examples.values()]
    if max(peaks) > LINEAR_UP_TO * min(peaks):
        canvas.logarithmic(lr)
    _fit(lr, momentum)
    lr.set_ylabel("learning rate")
    momentum.set_ylabel("momentum")


def _dot(axes: "Axes", planned: Series) -> None:
    if planned:
        axes.plot(
            *(planned.steps, planned.values),
            **{"color": "#000000", "linewidth": 0.9, "linestyle": (0, (1, 3)), "zorder": 4, "label": PLANNED},
        )


def _fit(lr: "Axes", momentum: "Axes") -> None:
    """Fit a pair of axes to the trajectories on them; a momentum that never moves lies at mid-height."""
    for axes in (lr, momentum):
        axes.locator_params(axis="x", nbins=7, integer=True)
        axes.set_xlabel(canvas.STEP)
    low, high = momentum.dataLim.intervaly
    if not high - low > 1e-9:
        momentum.set_ylim((low - 0.05, high + 0.05) if np.isfinite(low) else (0, 1))


def _title(trial: TrialFolder) -> str:
    config, resolved = trial.config(), trial.resolved() or {}
    policy = config.get("policy", {}).get("_target_", "range test").rpartition(".")[2]
    rate = resolved.get("max_lr")
    words: Sequence[str] = [f"max_lr={rate:.3g}"] if rate else []
    return ", ".join([policy, *words, *([f"seed={config['seed']}"] if "seed" in config else [])])
