"""Semantic segmentation: a class for each pixel, by cross-entropy; the headline measure is the mean IoU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from onecycle_sweeps.measures import MEAN_IOU, Measure
from onecycle_sweeps.objectives import mean_over, precise, refuse_probabilities
from onecycle_sweeps.samples.targets import IGNORED
from onecycle_sweeps.validation import number, require


@dataclass(frozen=True)
class Segmentation:
    """Outputs are scores (N, classes, H, W), targets int64 (N, H, W) from 0 to classes - 1, or 255 to be ignored.

    The mean IoU is over the classes that occur in the targets or in the predictions of the whole part, each pixel
    counted once (PASCAL VOC, not a mean over images). `label_smoothing` counts for the training loss alone.
    """

    num_classes: int
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require("label_smoothing", self.label_smoothing, number(at_least=0, below=1))

    form: ClassVar[str] = "masks"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Mean intersection over union, and the share of pixels that are right."""
        return MEAN_IOU, Measure("pixel_accuracy", "max", is_fraction=True)

    def training(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor | int]]:
        """The mean loss of a pixel, and the confusion of the classes."""
        scores = precise(outputs)
        loss = mean_over(scores, targets, IGNORED, self.label_smoothing)
        return loss, {"confusion": self._confusion(scores.detach(), targets), "count": len(targets)}

    def evaluation(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor | int]:
        """The sum of the pixels' losses, and the confusion of the classes."""
        scores = precise(outputs)
        loss = cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum")
        return {"loss": loss, "confusion": self._confusion(scores, targets), "count": len(targets)}

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Mean IoU and pixel accuracy, and the mean loss of a pixel where it was summed up."""
        table, classes = totals["confusion"], range(self.num_classes)
        rows = [table[c * self.num_classes : (c + 1) * self.num_classes] for c in classes]
        pixels, right = sum(table), [rows[c][c] for c in classes]
        unions = [sum(rows[c]) + sum(row[c] for row in rows) - right[c] for c in classes]
        shares = [r / u for r, u in zip(right, unions, strict=True) if u]
        loss = {"loss": totals["loss"] / max(1, pixels)} if "loss" in totals else {}
        found = {"mean_iou": sum(shares) / max(1, len(shares)), "pixel_accuracy": sum(right) / max(1, pixels)}
        return loss | found

    def predictions(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and targets, for a metric of torchmetrics."""
        return precise(outputs), targets

    def chance(self, targets: Tensor) -> float:
        """The mean IoU of giving every pixel the most frequent class."""
        counts = targets[targets != IGNORED].bincount()
        return (counts.max() / counts.sum()).item() / int((counts > 0).sum())

    def check(self, outputs: Any, targets: Tensor, offered: Mapping[str, Any]) -> None:
        """Raise ValueError unless the outputs are one tensor with a score for each class of each pixel."""
        wanted = (len(targets), self.num_classes, *targets.shape[1:])
        if not isinstance(outputs, Tensor) or outputs.shape != wanted:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise ValueError(f"must give a score for each class of each pixel, shape {wanted}, got {got}")
        refuse_probabilities(outputs, 1)

    def _confusion(self, scores: Tensor, targets: Tensor) -> Tensor:
        """How many pixels of each class (rows) were given each class (columns), flat, int64 (classes * classes,)."""
        size = self.num_classes
        # One place more takes up the ignored pixels, since a selection by mask would wait for the device.
        # Not argmax, which on a CPU takes twenty times as long over a dimension in the middle.
        predicted = scores.max(1).indices
        places = (targets * size + predicted).where(targets != IGNORED, size * size).flatten()
        # Not bincount, which on a GPU waits to learn the largest value.
        return places.new_zeros(size * size + 1).scatter_add_(0, places, torch.ones_like(places))[:-1]
