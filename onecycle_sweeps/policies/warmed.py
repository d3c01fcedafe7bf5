"""Today's baselines: cosine and warm-up-stable-decay, both with a linear warm-up. Neither sets the momentum."""

from dataclasses import dataclass
from typing import Literal

from onecycle_sweeps.policies import bounds
from onecycle_sweeps.policies.curves import SHAPES, blend, warmup_lr, warmup_steps
from onecycle_sweeps.policies.hyper import Hyper, held


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then torch's CosineAnnealingLR from max_lr towards eta_min over the steps that are left.

    pct_warmup: the warm-up lasts w = round(pct_warmup * total_steps) steps at max_lr * (step + 1) / (w + 1), so
        the first rate is not 0, and max_lr is reached at step w.
    eta_min: as in torch, it would be reached one step after the last.
    """

    max_lr: float
    total_steps: int
    eta_min: float = 0.0
    pct_warmup: float = 0.0

    def __post_init__(self) -> None:
        bounds.run(self.max_lr, self.total_steps)
        _refuse_floor(self.eta_min, self.max_lr)
        bounds.number("pct_warmup", self.pct_warmup, at_least=0, below=1)
        warmup_steps(self.pct_warmup, self.total_steps)

    def __call__(self, step: int) -> Hyper:
        step = held(step, self.total_steps)
        warmup = warmup_steps(self.pct_warmup, self.total_steps)
        if step < warmup:
            return Hyper(warmup_lr(self.max_lr, step, warmup))
        share = SHAPES["cos"]((step - warmup) / (self.total_steps - warmup))
        return Hyper(blend(self.max_lr, self.eta_min, share))


@dataclass(frozen=True)
class Wsd:
    """Warm-up, stable, decay: max_lr from the warm-up (as Cosine's) to the decay (arXiv:2404.06395, 2405.18392).

    pct_decay: the decay begins at step round((1 - pct_decay) * total_steps), with max_lr itself.
    anneal_strategy: of the decay; sqrt is max_lr * (1 - sqrt(progress)), steep at first.
    eta_min: would be reached one step after the last, so no step is spent at a rate of 0.
    """

    max_lr: float
    total_steps: int
    pct_warmup: float = 0.05
    pct_decay: float = 0.2
    anneal_strategy: Literal["linear", "cos", "sqrt"] = "linear"
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        bounds.run(self.max_lr, self.total_steps)
        bounds.number("pct_warmup", self.pct_warmup, at_least=0, below=1)
        bounds.number("pct_decay", self.pct_decay, at_least=0, at_most=1)
        if round(self.pct_warmup + self.pct_decay, 9) > 1:
            raise ValueError(f"pct_warmup + pct_decay must be at most 1, got {self.pct_warmup} + {self.pct_decay}")
        warmup_steps(self.pct_warmup, self.total_steps)
        bounds.choice("anneal_strategy", self.anneal_strategy, "linear", "cos", "sqrt")
        _refuse_floor(self.eta_min, self.max_lr)

    def __call__(self, step: int) -> Hyper:
        step = held(step, self.total_steps)
        warmup = warmup_steps(self.pct_warmup, self.total_steps)
        if step < warmup:
            return Hyper(warmup_lr(self.max_lr, step, warmup))
        decay = round((1 - self.pct_decay) * self.total_steps)
        if step < decay:
            return Hyper(float(self.max_lr))
        share = SHAPES[self.anneal_strategy]((step - decay) / (self.total_steps - decay))
        return Hyper(blend(self.max_lr, self.eta_min, share))


def _refuse_floor(eta_min: float, max_lr: float) -> None:
    bounds.number("eta_min", eta_min, at_least=0)
    if eta_min > max_lr:
        raise ValueError(f"eta_min must be at most max_lr={max_lr}, got {eta_min}")
