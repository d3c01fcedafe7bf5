"""Language modelling: the next token at each position, by cross-entropy; the headline measure is the loss itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from onecycle_sweeps.measures import LOSS, Measure
from onecycle_sweeps.objectives import mean_over, precise, refuse_probabilities
from onecycle_sweeps.samples.targets import UNPREDICTED
from onecycle_sweeps.validation import number, require


@dataclass(frozen=True)
class LanguageModel:
    """Outputs are scores (N, T, vocabulary), targets the token that follows at each position, int64 (N, T).

    Where a target is -100 nothing is predicted, and the place does not count.
    The loss is in nats a token. `bytes_per_token`, of the validation part's text in UTF-8, makes bits per byte of it,
    which compares vocabularies; None leaves that measure out. `label_smoothing` counts for the training loss alone.
    """

    label_smoothing: float = 0.0
    bytes_per_token: float | None = None

    def __post_init__(self) -> None:
        require("label_smoothing", self.label_smoothing, number(at_least=0, below=1))

    form: ClassVar[str] = "raw"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The loss, perplexity, and bits per byte where the size of the text is known."""
        bits = () if self.bytes_per_token is None else (Measure("bits_per_byte", "min"),)
        return LOSS, Measure("perplexity", "min"), *bits

    def training(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor | int]]:
        """The mean loss of a token, and its sum."""
        loss = mean_over(*_flat(outputs, targets), UNPREDICTED, self.label_smoothing)
        tokens = _predicted(targets)
        # With smoothing the training loss is no likelihood, and no perplexity follows from it.
        plain = {} if self.label_smoothing else {"loss": loss.detach() * tokens}
        return loss, {**plain, "tokens": tokens, "count": len(targets)}

    def evaluation(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor | int]:
        """The sum of the losses of all tokens, and how many there are."""
        loss = cross_entropy(*_flat(outputs, targets), ignore_index=UNPREDICTED, reduction="sum")
        return {"loss": loss, "tokens": _predicted(targets), "count": len(targets)}

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Loss, perplexity and bits per byte, where the loss was summed up."""
        if "loss" not in totals:
            return {}
        loss = totals["loss"] / max(1, totals["tokens"])
        found = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
        if self.bytes_per_token is not None:
            found["bits_per_byte"] = loss / math.log(2) / self.bytes_per_token
        return found

    def predictions(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and targets, for a metric of torchmetrics."""
        return precise(outputs), targets

    def chance(self, targets: Tensor) -> float:
        """The loss of always giving each token its frequency in these targets."""
        counts = targets[targets != UNPREDICTED].bincount().double()
        shares = counts[counts > 0] / counts.sum()
        return -(shares * shares.log()).sum().item()

    def check(self, outputs: Any, targets: Tensor, offered: Mapping[str, Any]) -> None:
        """Raise ValueError unless the outputs are one tensor with a score for each token of the vocabulary.

        A torch Dataset offers no `vocab_size`, and its net knows its own.
        """
        size = offered.get("vocab_size", 1)
        if isinstance(outputs, Tensor) and outputs.shape[:-1] == targets.shape and outputs.shape[-1] >= size:
            return refuse_probabilities(outputs, -1)
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        wanted = ", ".join(map(str, (*targets.shape, offered.get("vocab_size", "vocabulary"))))
        raise ValueError(f"must give a score for each token of the vocabulary, shape ({wanted}), got {got}")


def _predicted(targets: Tensor) -> Tensor:
    """How many tokens are predicted."""
    return (targets != UNPREDICTED).sum()


def _flat(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return precise(outputs).flatten(0, 1), targets.flatten()
