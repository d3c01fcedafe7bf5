"""The precision in which losses and measures are computed: that of the outputs, and at least float32."""

import torch
from torch import Tensor


def precise(outputs: Tensor) -> Tensor:
    """The outputs in float32, or as they are if they are more precise."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
