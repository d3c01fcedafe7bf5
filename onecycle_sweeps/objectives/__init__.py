"""Objectives: what a step minimises and an evaluation measures, one file a task (`loop.Objective` is the protocol)."""

import torch
from torch import Tensor


def precise(outputs: Tensor) -> Tensor:
    """The outputs in float32, or unchanged if they are more precise: losses and measures are computed in this type."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
