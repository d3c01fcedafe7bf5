"""What a policy answers, and what makes an object a policy."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Hyper:
    """The learning rate and momentum of one step; momentum None leaves the optimizer's own in place."""

    lr: float
    momentum: float | None = None


class Policy(Protocol):
    """A pure function of the step. Every step from the last one on has the last one's value."""

    @property
    def total_steps(self) -> int: ...

    def __call__(self, step: int, /) -> Hyper: ...


def held(step: int, total_steps: int) -> int:
    """The step a policy answers for: the last one once the run is over. Raises ValueError below 0."""
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    return min(step, total_steps - 1)
