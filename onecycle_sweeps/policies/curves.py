"""The shapes a phase can have, and the linear warm-up."""

import math
from collections.abc import Callable

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cos": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
    "sqrt": math.sqrt,
    "constant": lambda progress: 1.0,
}
"""Each maps the progress through a phase, 0 to 1, to the share of the way from its start to its end."""


def blend(start: float, end: float, share: float) -> float:
    """The value at a share of the way; exact at both ends, which the plain formula is not."""
    return end if share == 1 else start + (end - start) * share


def warmup_steps(pct_warmup: float, total_steps: int) -> int:
    """Length of the warm-up in steps, rounded. Raises ValueError if no step is left at the peak."""
    steps = round(pct_warmup * total_steps)
    if steps >= total_steps:
        raise ValueError(
            f"pct_warmup must leave a step after the warm-up, got {pct_warmup} of {total_steps} steps: lower it"
        )
    return steps


def warmup_lr(max_lr: float, step: int, steps: int) -> float:
    """Linear warm-up over `steps`: never 0, and max_lr is reached at the first step after it."""
    return max_lr * (step + 1) / (steps + 1)
