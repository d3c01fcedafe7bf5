"""Objectives: what a step minimises and an evaluation measures, one file a task (`loop.Objective` is the protocol)."""

import re

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

# What autograd calls operations that change the shape or the type of outputs, but none of their values.
RESHAPING = re.compile("(Unsafe)?View|(Un)?Squeeze|Permute|Transpose|T|Select|Slice|ToCopy|Clone|Alias")


def precise(outputs: Tensor) -> Tensor:
    """The outputs in float32, or unchanged if they are more precise: losses and measures are computed in this type."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def mean_over(scores: Tensor, targets: Tensor, ignored: int, label_smoothing: float) -> Tensor:
    """The mean cross-entropy of the targets that are not `ignored`; 0 if all are, for which torch's own mean is NaN.

    Such a batch has nothing to learn from, which is no reason for a training to diverge.
    """
    loss = cross_entropy(scores, targets, ignore_index=ignored, label_smoothing=label_smoothing, reduction="sum")
    return loss / (targets != ignored).sum().clamp(min=1)


def refuse_probabilities(scores: Tensor, dim: int) -> None:
    """Raise ValueError for class scores that are probabilities along `dim`, those of a net that ends in a softmax.

    The cross-entropy takes the softmax itself; after a second one, no loss can be far below that of chance.
    """
    if scores.shape[dim] < 2 or not scores.numel():
        return
    values = precise(scores)
    if (values >= 0).all() and torch.allclose(values.sum(dim), values.new_ones(()), atol=1e-3):
        raise ValueError(
            "must return scores of any size, but its scores of each sample are probabilities, which sum to 1: "
            "leave out the softmax at its end, which is part of the loss"
        )


def refuse_ending(outputs: Tensor, functions: tuple[str, ...], why: str) -> None:
    """Raise ValueError for outputs that one of autograd's `functions` has computed, such as Sigmoid, as the last one.

    A few values between 0 and 1 would be no proof: an untrained net has such outputs by chance.
    """
    node, name = outputs.grad_fn, ""
    while node is not None:
        name = node.name().rpartition("Backward")[0]
        if not RESHAPING.fullmatch(name):
            break
        node = node.next_functions[0][0]
    if name in functions:
        raise ValueError(f"must return {why}: leave out the {name.lower()} at its end")
