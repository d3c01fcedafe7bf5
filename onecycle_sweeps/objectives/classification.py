"""Classification: one of several classes for each sample, by cross-entropy; the headline measure is accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from onecycle_sweeps.measures import ACCURACY, Measure
from onecycle_sweeps.validation import kind_of


@dataclass(frozen=True)
class Classification:
    """Outputs are class scores (N, classes) of any floating-point type, targets int64 (N,) from 0 to classes - 1.

    `label_smoothing` changes the training loss only: evaluations measure the plain cross-entropy.
    """

    label_smoothing: float = 0.0
    measures: tuple[Measure, ...] = (ACCURACY,)

    def training(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor | int]]:
        """The mean loss, and how many samples were classified correctly."""
        scores = outputs.float()
        loss = cross_entropy(scores, targets, label_smoothing=self.label_smoothing)
        return loss, {"correct": _correct(scores.detach(), targets), "count": len(targets)}

    def evaluation(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor | int]:
        """The sum of the losses, and how many samples were classified correctly."""
        scores = outputs.float()
        loss = cross_entropy(scores, targets, reduction="sum")
        return {"loss": loss, "correct": _correct(scores, targets), "count": len(targets)}

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Accuracy, and the mean loss where its sum is there."""
        loss = {"loss": totals["loss"] / totals["count"]} if "loss" in totals else {}
        return loss | {"accuracy": totals["correct"] / totals["count"]}

    def chance(self, targets: Tensor) -> float:
        """The share of the most frequent class."""
        return targets.bincount().max().item() / len(targets)

    def check(self, outputs: Any, targets: Tensor, offered: Mapping[str, Any]) -> None:
        """Raise ValueError unless the outputs are one tensor with a score for each class of each sample."""
        count, classes = len(targets), offered["num_classes"]
        wanted = f"must return {classes} scores for each sample, one for each class of the data"
        if not isinstance(outputs, Tensor):
            raise ValueError(f"{wanted}, in one tensor of shape ({count}, {classes}), got {kind_of(outputs)}")
        if outputs.shape != (count, classes):
            raise ValueError(f"{wanted}, in one tensor of shape ({count}, {classes}), got {tuple(outputs.shape)}")


def _correct(scores: Tensor, targets: Tensor) -> Tensor:
    return (scores.argmax(1) == targets).sum()
