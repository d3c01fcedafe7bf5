"""Multilabel classification: any number of labels for each sample; the headline measure is F1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from onecycle_sweeps.measures import F1, Measure
from onecycle_sweeps.objectives import precise, refuse_ending
from onecycle_sweeps.validation import number, one_of, require

# The last functions of nets that return probabilities, by autograd's names.
ENDS = ("Sigmoid", "Hardsigmoid", "Softmax")


@dataclass(frozen=True)
class Multilabel:
    """Outputs are logits (N, L), targets 0 or 1 (N, L); the loss is the binary cross-entropy, averaged over labels.

    A label is predicted where its probability exceeds `threshold`. `average` is macro, the mean of each label's F1, or
    micro, over all labels together; a label that is neither there nor predicted has F1 0, as in scikit-learn.
    """

    average: Literal["macro", "micro"] = "macro"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        require("average", self.average, one_of("macro", "micro"))
        require("threshold", self.threshold, number(above=0, below=1))

    form: ClassVar[str] = "labels"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """F1, and the share of samples whose labels are all right."""
        return F1, Measure("exact_match", "max", is_fraction=True)

    def training(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor | int]]:
        """The mean loss, and the counts of the predictions."""
        logits = precise(outputs)
        wanted = targets.to(logits.dtype)
        loss = binary_cross_entropy_with_logits(logits, wanted)
        return loss, self._counts(logits.detach(), wanted)

    def evaluation(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor | int]:
        """The sum of the samples' losses, and the counts of the predictions."""
        logits = precise(outputs)
        wanted = targets.to(logits.dtype)
        loss = binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / wanted.shape[1]
        return {"loss": loss, **self._counts(logits, wanted)}

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """F1 and exact match, and the mean loss where it was summed up."""
        right, errors, exact = totals["right"], totals["errors"], totals["count"] - totals["wrong"]
        if self.average == "micro":
            right, errors = [sum(right)], [sum(errors)]
        scores = [_f1(r, e) for r, e in zip(right, errors, strict=True)]
        loss = {"loss": totals["loss"] / totals["count"]} if "loss" in totals else {}
        return loss | {"f1": sum(scores) / len(scores), "exact_match": exact / totals["count"]}

    def predictions(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and whole-number targets, for a metric of torchmetrics."""
        return precise(outputs).sigmoid(), targets.long()

    def chance(self, targets: Tensor) -> float:
        """The F1 of predicting, for all samples alike, each label that is better predicted than not."""
        present = targets.double().sum(0).tolist()
        count = len(targets)
        if self.average == "macro":
            return sum(_f1(p, count - p) for p in present) / len(present)
        return max(_micro(sorted(present, reverse=True), number, count) for number in range(1, len(present) + 1))

    def check(self, outputs: Any, targets: Tensor, offered: Mapping[str, Any]) -> None:
        """Raise ValueError unless the outputs are one tensor with a logit for each label of each sample.

        Probabilities are no logits: the loss takes the sigmoid itself.
        """
        if not isinstance(outputs, Tensor) or outputs.shape != targets.shape:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise ValueError(f"must give a logit for each label, shape {tuple(targets.shape)}, got {got}")
        refuse_ending(outputs, ENDS, "logits of any size, because the sigmoid is part of the loss")

    def _counts(self, logits: Tensor, wanted: Tensor) -> dict[str, Tensor | int]:
        """The right predictions and the errors of each label, and how many samples have an error."""
        predicted = logits.sigmoid().gt_(self.threshold)
        errors = (predicted - wanted).abs_()
        right = predicted.mul_(wanted)
        return {
            "right": right.sum(0),
            "errors": errors.sum(0),
            "wrong": errors.amax(1).sum(),
            "count": len(wanted),
        }


def _f1(right: float, errors: float) -> float:
    """2 tp / (2 tp + fp + fn), 0 where nothing is there and nothing is predicted."""
    return 2 * right / (2 * right + errors) if right or errors else 0.0


def _micro(present: Sequence[float], top: int, count: int) -> float:
    """The F1 over all labels where the `top` most frequent ones are always predicted."""
    right = sum(present[:top])
    return _f1(right, top * count - right + sum(present[top:]))
