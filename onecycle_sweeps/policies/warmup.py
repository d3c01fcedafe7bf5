"""Policies with a linear warm-up: cosine, linear and warm-up-stable-decay. None of them sets the momentum."""

from dataclasses import dataclass
from typing import Literal

from onecycle_sweeps.policies.policy import SHAPES, Hyper, clamp_step, interpolate, require_run
from onecycle_sweeps.validation import number, one_of, require


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then torch's CosineAnnealingLR from max_lr towards eta_min over the remaining steps.

    pct_warmup: the warm-up lasts w = round(pct_warmup * total_steps) steps at max_lr * (step + 1) / (w + 1), so
        the first rate is not 0, and max_lr is reached at step w.
    eta_min: as in torch, the rate of the step after the last one.
    """

    max_lr: float
    total_steps: int
    eta_min: float = 0.0
    pct_warmup: float = 0.05

    def __post_init__(self) -> None:
        require_run(self.max_lr, self.total_steps)
        _require_eta_min(self.eta_min, self.max_lr)
        require("pct_warmup", self.pct_warmup, number(at_least=0, below=1))
        _warmup_steps(self.pct_warmup, self.total_steps)

    def __call__(self, step: int) -> Hyper:
        step = clamp_step(step, self.total_steps)
        warmup = _warmup_steps(self.pct_warmup, self.total_steps)
        if step < warmup:
            return Hyper(_warmup_lr(self.max_lr, step, warmup))
        fraction = SHAPES["cos"]((step - warmup) / (self.total_steps - warmup))
        return Hyper(interpolate(self.max_lr, self.eta_min, fraction))


@dataclass(frozen=True)
class Linear:
    """Linear warm-up, as Cosine's, then straight down from max_lr towards eta_min over the remaining steps.

    The usual schedule of fine-tuned language models (arXiv:1810.04805; transformers' get_linear_schedule_with_warmup),
    and with a short warm-up a strong one in general (arXiv:2310.07831).
    eta_min: the rate of the step after the last one, so no step has a rate of 0.
    """

    max_lr: float
    total_steps: int
    eta_min: float = 0.0
    pct_warmup: float = 0.05

    def __post_init__(self) -> None:
        require_run(self.max_lr, self.total_steps)
        _require_eta_min(self.eta_min, self.max_lr)
        require("pct_warmup", self.pct_warmup, number(at_least=0, below=1))
        _warmup_steps(self.pct_warmup, self.total_steps)

    def __call__(self, step: int) -> Hyper:
        step = clamp_step(step, self.total_steps)
        warmup = _warmup_steps(self.pct_warmup, self.total_steps)
        if step < warmup:
            return Hyper(_warmup_lr(self.max_lr, step, warmup))
        fraction = (step - warmup) / (self.total_steps - warmup)
        return Hyper(interpolate(self.max_lr, self.eta_min, fraction))


@dataclass(frozen=True)
class Wsd:
    """Warm-up, stable, decay: max_lr from the warm-up (as Cosine's) to the decay (arXiv:2404.06395, 2405.18392).

    pct_decay: the decay begins at step round((1 - pct_decay) * total_steps), with max_lr itself.
    anneal_strategy: shape of the decay; sqrt is max_lr * (1 - sqrt(progress)), steep at first.
    eta_min: the rate of the step after the last one, so no step has a rate of 0.
    """

    max_lr: float
    total_steps: int
    pct_warmup: float = 0.05
    pct_decay: float = 0.2
    anneal_strategy: Literal["linear", "cos", "sqrt"] = "linear"
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        require_run(self.max_lr, self.total_steps)
        require("pct_warmup", self.pct_warmup, number(at_least=0, below=1))
        require("pct_decay", self.pct_decay, number(at_least=0, at_most=1))
        if round(self.pct_warmup + self.pct_decay, 9) > 1:
            raise ValueError(f"pct_warmup + pct_decay must be at most 1, got {self.pct_warmup} + {self.pct_decay}")
        _warmup_steps(self.pct_warmup, self.total_steps)
        require("anneal_strategy", self.anneal_strategy, one_of("linear", "cos", "sqrt"))
        _require_eta_min(self.eta_min, self.max_lr)

    def __call__(self, step: int) -> Hyper:
        step = clamp_step(step, self.total_steps)
        warmup = _warmup_steps(self.pct_warmup, self.total_steps)
        if step < warmup:
            return Hyper(_warmup_lr(self.max_lr, step, warmup))
        decay = round((1 - self.pct_decay) * self.total_steps)
        if step < decay:
            return Hyper(float(self.max_lr))
        fraction = SHAPES[self.anneal_strategy]((step - decay) / (self.total_steps - decay))
        return Hyper(interpolate(self.max_lr, self.eta_min, fraction))


def _require_eta_min(eta_min: float, max_lr: float) -> None:
    require("eta_min", eta_min, number(at_least=0))
    if eta_min > max_lr:
        raise ValueError(f"eta_min must be at most max_lr={max_lr}, got {eta_min}")


def _warmup_steps(pct_warmup: float, total_steps: int) -> int:
    """Length of the warm-up in steps, rounded. Raises ValueError if no step is left at the peak."""
    steps = round(pct_warmup * total_steps)
    if steps >= total_steps:
        raise ValueError(
            f"pct_warmup must leave a step after the warm-up, got {pct_warmup} of {total_steps} steps: lower it"
        )
    return steps


def _warmup_lr(max_lr: float, step: int, steps: int) -> float:
    """Linear warm-up over `steps`: it is never 0 and reaches max_lr at the first step after it."""
    return max_lr * (step + 1) / (steps + 1)
