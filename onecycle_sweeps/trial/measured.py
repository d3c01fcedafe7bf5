"""An objective with further measures: any metric of torchmetrics, and the headline that the config names."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onecycle_sweeps.loop import Objective, Sums
from onecycle_sweeps.measures import LOSS, Measure, recorded
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.validation import kind_of

# Metrics of torchmetrics that have values outside of their plot bounds 0 and 1.
BEYOND = re.compile(
    "CohenKappa|MatthewsCorrCoef|KendallRankCorrCoef|CosineSimilarity|ExplainedVariance|AdjustedMutualInfo|HingeLoss|"
    "CoverageError|ErrorRate|Edit|SpectralAngle|StructuralSimilarity|UniversalImageQuality|PerceptualImagePatch|"
    "KernelInception|ObjectiveIntelligibility"
)
# Areas and means of many numbers in float32 may exceed 1 by this much.
SLACK = 1e-3


@dataclass(frozen=True)
class Meter:
    """A metric in one evaluation, by its key in the config; a binary one gets the probability of the second class.

    Its methods raise ValueError, in one line, for what the metric cannot take and for what is not one number.
    """

    key: str
    metric: Any
    is_fraction: bool = False

    def update(self, outputs: Any, targets: Any) -> None:
        """Count a batch."""
        given = _second_of_two(outputs, targets) if _is_binary(self.metric) else outputs
        try:
            self.metric.update(given, targets)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"{self.key}: {_kind(self.metric)} cannot take {_described('outputs', given)} and "
                f"{_described('targets', targets)}: {in_one_line(error)}; torchmetrics has Binary metrics for two "
                "classes, Multiclass for more, Multilabel for labels"
            ) from error

    def compute(self) -> float:
        """The value over all batches."""
        try:
            found = self.metric.compute()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(f"{self.key}: {_kind(self.metric)} cannot be computed: {in_one_line(error)}") from error
        try:
            value = float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            apart = getattr(self.metric, "average", "macro") in (None, "none")
            advice = f"{self.key}.average=macro gives their mean" if apart else "choose a metric that gives one"
            got = _described("a tensor", found) if isinstance(found, Tensor) else kind_of(found)
            kind = _kind(self.metric)
            raise ValueError(f"{self.key} must give one number, got {got} from {kind}: {advice}") from error
        if self.is_fraction and not (-SLACK <= value <= 1 + SLACK or math.isnan(value)):
            raise ValueError(
                f"{self.key} must be between 0 and 1, as its plot bounds say, got {value:g} from {_kind(self.metric)}: "
                "return a fraction, or leave out plot_lower_bound and plot_upper_bound"
            )
        return value


@dataclass(frozen=True)
class Measured:
    """An objective whose evaluations also update `metrics`, each made anew by its function for each evaluation.

    `headline` names the measure that comes first, by default the objective's own.
    Raises ValueError for a headline that is no measure, and for a metric that has the name of another measure, or that
    does not say which values are better.
    """

    objective: Objective
    metrics: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    headline: str | None = None

    def __post_init__(self) -> None:
        own = [measure.name for measure in recorded(self.objective.measures)]
        if taken := [name for name in self.metrics if name in own]:
            raise ValueError(
                f"objective.metrics.{taken[0]} must have another name: the objective itself measures {', '.join(own)}"
            )
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

    def meters(self, device: torch.device) -> dict[str, Meter]:
        """The metrics of one evaluation, by name."""
        made = {name: make().to(device) for name, make in self.metrics.items()}
        return {
            name: Meter(f"objective.metrics.{name}", one, _measure(name, one).is_fraction) for name, one in made.items()
        }

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
        raise ValueError(f"objective.metrics.{name}: {_kind(metric)} does not say whether higher values are better")
    bounds = getattr(metric, "plot_lower_bound", None), getattr(metric, "plot_upper_bound", None)
    is_fraction = bounds == (0.0, 1.0) and not any(map(BEYOND.search, _of_torchmetrics(metric)))
    return Measure(name, "max" if higher else "min", is_fraction)


def _is_binary(metric: Any) -> bool:
    """Whether it is one of torchmetrics' metrics of two classes, or one of the user's that is derived from those."""
    return any(kind.startswith("Binary") for kind in _of_torchmetrics(metric))


def _of_torchmetrics(metric: Any) -> list[str]:
    """The names of torchmetrics' classes that a metric is of, or that its class is derived from."""
    return [kind.__name__ for kind in type(metric).mro() if kind.__module__.startswith("torchmetrics.")]


def _second_of_two(outputs: Any, targets: Any) -> Any:
    """The probability of the second class from scores (N, 2, ...) of targets (N, ...); other outputs as they are."""
    both = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    of_two = both and outputs.ndim == targets.ndim + 1 and outputs.shape[1] == 2
    return outputs.softmax(1)[:, 1] if of_two else outputs


def _kind(metric: Any) -> str:
    return type(metric).__name__


def _described(name: str, found: Any) -> str:
    return f"{name} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{name}, {kind_of(found)}"
