"""A multilayer perceptron, for tables and other short vectors."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from onecycle_sweeps.validation import number, one_of, require

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Linear layers of the given `widths`, each with an activation and dropout, and a linear head.

    (N, ...) is flattened to (N, in_features), and gives (N, out_features). Raises ValueError for a width below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        widths: Sequence[int] = (128, 128),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require("activation", activation, one_of(*ACTIVATIONS))
        require("dropout", dropout, number(at_least=0, below=1))
        if not isinstance(widths, Sequence) or not all(type(width) is int and width > 0 for width in widths):
            raise ValueError(f"widths must be a list of whole numbers from 1 on, got {widths}")
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise([in_features, *widths]):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear([in_features, *widths][-1], out_features))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)
