"""An objective with further measures: any metric of torchmetrics, and the headline that the config names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onecycle_sweeps.loop import Objective, Sums
from onecycle_sweeps.measures import LOSS, Measure


@dataclass(frozen=True)
class Measured:
    """An objective whose evaluations also update `metrics`, each made anew by its function for each evaluation.

    `headline` names the measure that comes first, by default the objective's own.
    Raises ValueError for a headline that is no measure, and for a metric that does not say which values are better.
    """

    objective: Objective
    metrics: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    headline: str | None = None

    def __post_init__(self) -> None:
        names = [measure.name for measure in self.measures]
        if self.headline is not None and names[0] != self.headline:
            raise ValueError(f"objective.headline must be one of {', '.join(names)}, got {self.headline}")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The objective's own measures and the metrics, the headline first."""
        known = (*self.objective.measures, *(_measure(name, make()) for name, make in self.metrics.items()))
        if self.headline == LOSS.name:
            known = (LOSS, *(measure for measure in known if measure != LOSS))
        return tuple(sorted(known, key=lambda measure: measure.name != (self.headline or known[0].name)))

    def meters(self, device: torch.device) -> dict[str, Any]:
        """The metrics of one evaluation, by name."""
        return {name: make().to(device) for name, make in self.metrics.items()}

    def predictions(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """What the metrics are updated with: outputs and targets as the objective presents them."""
        present = getattr(self.objective, "predictions", None)
        return present(outputs, targets) if present else (outputs, targets)

    def training(self, outputs: Any, targets: Any) -> tuple[Tensor, Sums]:
        """See the objective."""
        return self.objective.training(outputs, targets)

    def evaluation(self, outputs: Any, targets: Any) -> Sums:
        """See the objective."""
        return self.objective.evaluation(outputs, targets)

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """See the objective."""
        return self.objective.values(totals)

    def chance(self, targets: Any) -> float | None:
        """The objective's, where the headline is its own."""
        own = self.measures[0] == self.objective.measures[0]
        return self.objective.chance(targets) if own else None

    def check(self, outputs: Any, targets: Any, offered: Mapping[str, Any]) -> None:
        """See the objective."""
        self.objective.check(outputs, targets, offered)


def _measure(name: str, metric: Any) -> Measure:
    higher = getattr(metric, "higher_is_better", None)
    if higher is None:
        kind = type(metric).__name__
        raise ValueError(f"objective.metrics.{name}: {kind} does not say whether higher values are better")
    bounds = getattr(metric, "plot_lower_bound", None), getattr(metric, "plot_upper_bound", None)
    return Measure(name, "max" if higher else "min", is_fraction=bounds == (0.0, 1.0))
