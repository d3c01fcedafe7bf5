"""Classification: one of several classes for each sample, by cross-entropy; the headline measure is accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from onecycle_sweeps.measures import ACCURACY, Measure
from onecycle_sweeps.objectives import precise, refuse_probabilities
from onecycle_sweeps.validation import kind_of, number, require


@dataclass(frozen=True)
class Classification:
    """Outputs are class scores (N, classes) of any floating-point type, targets int64 (N,) from 0 to classes - 1.

    Targets may also be shares of the classes, (N, classes), in training only: those of mixed samples.
    `label_smoothing` and `class_weights` change the training loss only: evaluations measure the plain cross-entropy.
    The weights are one for each class, or "balanced": samples / (classes * samples of the class), as in scikit-learn,
    by the training part's `class_counts`.
    Raises ValueError for weights that are not one for each class, or not above 0.
    """

    label_smoothing: float = 0.0
    class_weights: Sequence[float] | Literal["balanced"] | None = None
    class_counts: Sequence[int] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    measures: tuple[Measure, ...] = (ACCURACY,)
    form: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        require("label_smoothing", self.label_smoothing, number(at_least=0, below=1))
        _weights(self.class_weights, tuple(self.class_counts))

    def training(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor | int]]:
        """The mean loss, and how many samples were classified correctly."""
        scores, weight = precise(outputs), None
        if self.class_weights is not None:
            weight = _on_device(_weights(self.class_weights, tuple(self.class_counts)), scores.device).to(scores.dtype)
        loss = cross_entropy(scores, targets, weight, label_smoothing=self.label_smoothing)
        if targets.ndim > 1:
            if weight is not None:
                # Of class numbers torch takes the weighted mean, and of shares the sum over the number of samples.
                loss = loss * len(targets) / (targets @ weight.to(targets.dtype)).sum()
            targets = targets.argmax(1)
        return loss, {"correct": _correct(scores.detach(), targets), "count": len(targets)}

    def evaluation(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor | int]:
        """The sum of the losses, and how many samples were classified correctly."""
        scores = precise(outputs)
        loss = cross_entropy(scores, targets, reduction="sum")
        return {"loss": loss, "correct": _correct(scores, targets), "count": len(targets)}

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Accuracy, and the mean loss where its sum is there."""
        loss = {"loss": totals["loss"] / totals["count"]} if "loss" in totals else {}
        return loss | {"accuracy": totals["correct"] / totals["count"]}

    def predictions(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and targets, for a metric of torchmetrics."""
        return precise(outputs), targets

    def chance(self, targets: Tensor) -> float:
        """The share of the most frequent class."""
        return targets.bincount().max().item() / len(targets)

    def check(self, outputs: Any, targets: Tensor, offered: Mapping[str, Any]) -> None:
        """Raise ValueError unless the outputs are one tensor with a score for each class of each sample.

        Probabilities are no scores.
        """
        count, classes = len(targets), offered["num_classes"]
        wanted = f"must return {classes} scores for each sample, one for each class of the data"
        if not isinstance(outputs, Tensor):
            raise ValueError(f"{wanted}, in one tensor of shape ({count}, {classes}), got {kind_of(outputs)}")
        if outputs.shape != (count, classes):
            raise ValueError(f"{wanted}, in one tensor of shape ({count}, {classes}), got {tuple(outputs.shape)}")
        refuse_probabilities(outputs, 1)


def _weights(given: Sequence[float] | str | None, counts: tuple[int, ...]) -> tuple[float, ...]:
    """The weight of each class."""
    if given is None:
        return ()
    if given == "balanced":
        if 0 in counts:
            raise ValueError(
                f"class_weights=balanced needs training samples of each class, class {counts.index(0)} has none"
            )
        return tuple(sum(counts) / (len(counts) * count) for count in counts)
    if isinstance(given, str) or not all(map(number(above=0).accepts, given)):
        raise ValueError(f"class_weights must be null, balanced or a list of numbers above 0, got {given!r}")
    if counts and len(given) != len(counts):
        raise ValueError(f"class_weights must have {len(counts)} numbers, one for each class, got {len(given)}")
    return tuple(map(float, given))


@cache
def _on_device(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied once, because a copy in every step would wait for the GPU."""
    return torch.tensor(weights, device=device)


def _correct(scores: Tensor, targets: Tensor) -> Tensor:
    return (scores.argmax(1) == targets).sum()
