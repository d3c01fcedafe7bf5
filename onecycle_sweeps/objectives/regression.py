"""Regression: one or more numbers for each sample; the headline measure is the RMSE, in the targets' own units."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from onecycle_sweeps.measures import RMSE, Measure
from onecycle_sweeps.objectives import precise, refuse_ending
from onecycle_sweeps.validation import number, one_of, require

LOSSES = {"mse": mse_loss, "l1": l1_loss, "huber": huber_loss}
# The last functions of nets that cannot return each standardised target, by autograd's names.
ENDS = ("Sigmoid", "Hardsigmoid", "Softmax", "Tanh", "Relu", "Softplus")


@dataclass(frozen=True)
class Regression:
    """Outputs are (N,) or (N, 1) for targets (N,), and have the targets' shape (N, D) or (N, ...), floating point.

    Targets are standardised: `target_mean` and `target_std` are those of the training part, a number for each of a
    sample's targets, and measures are in the targets' own units. `loss` is mse, l1 or huber, of standardised targets;
    `delta` is where huber turns from a square into a line. RMSE and R2 are means over the targets, as in scikit-learn.
    """

    target_mean: Sequence[float]
    target_std: Sequence[float]
    loss: Literal["mse", "l1", "huber"] = "mse"
    delta: float = 1.0

    def __post_init__(self) -> None:
        require("loss", self.loss, one_of(*LOSSES))
        require("delta", self.delta, number(above=0))

    form: ClassVar[str] = "values"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """RMSE, mean absolute error, and the coefficient of determination."""
        return RMSE, Measure("mae", "min"), Measure("r2", "max")

    def training(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor | int]]:
        """The mean loss, and the sums of the squared errors."""
        outputs = _shaped(outputs, targets)
        squared = (outputs.detach() - targets).square().sum(0)
        return self._loss(outputs, targets, "mean"), {"squared": squared, "count": len(targets)}

    def evaluation(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor | int]:
        """The sums over the samples of the loss, of the errors and of the targets."""
        errors = _shaped(outputs, targets) - targets
        return {
            "loss": self._loss(errors, torch.zeros_like(errors), "sum") / max(1, errors[0].numel()),
            "squared": errors.square().sum(0),
            "absolute": errors.abs().sum(0),
            "target": targets.sum(0),
            "target_squared": targets.square().sum(0),
            "count": len(targets),
        }

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """The measures whose sums are there."""
        count = totals["count"]
        squared = _listed(totals["squared"])
        found = {"rmse": _mean(s * math.sqrt(e / count) for s, e in zip(self.target_std, squared, strict=True))}
        if "loss" not in totals:
            return found
        absolute = _listed(totals["absolute"])
        found["mae"] = _mean(s * e / count for s, e in zip(self.target_std, absolute, strict=True))
        sums = zip(squared, _listed(totals["target"]), _listed(totals["target_squared"]), strict=True)
        found["r2"] = _mean(_determination(errors, squares - total**2 / count) for errors, total, squares in sums)
        return {"loss": totals["loss"] / count} | found

    def predictions(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and targets in the targets' own units, for a metric of torchmetrics.

        In float64, because metrics sum squares of values that may be far from zero, and then subtract.
        """
        mean, std = (
            torch.tensor(list(one), dtype=torch.float64, device=targets.device).reshape(targets.shape[1:])
            for one in (self.target_mean, self.target_std)
        )
        return _shaped(outputs, targets).double() * std + mean, targets.double() * std + mean

    def chance(self, targets: Tensor) -> float:
        """The RMSE of always predicting the mean."""
        deviations = targets.double().std(0, correction=0).reshape(-1).tolist()
        return _mean(s * d for s, d in zip(self.target_std, deviations, strict=True))

    def check(self, outputs: Any, targets: Tensor, offered: Mapping[str, Any]) -> None:
        """Raise ValueError unless the outputs are one tensor with a number for each target.

        A net whose last function bounds the numbers cannot predict targets whose mean is 0 and whose deviation is 1.
        """
        wanted = tuple(targets.shape)
        if isinstance(outputs, Tensor) and (outputs.shape == wanted or outputs.shape == (*wanted, 1)):
            return refuse_ending(outputs, ENDS, "numbers of any size and sign, because targets are standardised")
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ValueError(f"must give {len(self.target_mean)} number(s) for each sample, shape {wanted}, got {got}")

    def _loss(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        extra = {"delta": self.delta} if self.loss == "huber" else {}
        return LOSSES[self.loss](outputs, targets, reduction=reduction, **extra)


def _shaped(outputs: Tensor, targets: Tensor) -> Tensor:
    """The outputs in float32 and in the shape of the targets: the last dimension of (N, 1) goes."""
    return precise(outputs).reshape(targets.shape)


def _listed(sums: Any) -> list[float]:
    """One sum a target, in a row."""
    return np.ravel(sums).tolist()


def _mean(values: Any) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def _determination(errors: float, deviations: float) -> float:
    """R2 of one target; as in scikit-learn 1 or 0 where the targets do not vary."""
    if deviations <= 0:
        return float(errors == 0)
    return 1 - errors / deviations
