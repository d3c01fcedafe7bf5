"""Cyclical learning rates (Smith 2015, arXiv:1506.01186), as torch's CyclicLR."""

from dataclasses import dataclass
from typing import Literal

from onecycle_sweeps.policies.policy import Hyper, clamp_step, interpolate, require_momenta, require_run
from onecycle_sweeps.validation import SWITCH, number, one_of, require, whole


@dataclass(frozen=True)
class CLR:
    """Triangles between base_lr and max_lr; if momentum is cycled, it falls while the rate rises.

    base_lr: None is max_lr / 4.
    step_size_up, step_size_down: lengths of the rise and of the fall in steps. Without step_size_up the run has two
        whole cycles of total_steps // 2 steps. The fall takes the odd step of a cycle, so both peaks lie on a step
        and no third rise begins. step_size_down defaults to a given step_size_up.
    mode: triangular2 halves the amplitude after each cycle, exp_range scales it by gamma**step; momentum likewise.
    """

    max_lr: float
    total_steps: int
    base_lr: float | None = None
    step_size_up: int | None = None
    step_size_down: int | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: float = 1.0
    cycle_momentum: bool = True
    base_momentum: float = 0.8
    max_momentum: float = 0.9

    def __post_init__(self) -> None:
        require_run(self.max_lr, self.total_steps)
        if self.base_lr is not None:
            require("base_lr", self.base_lr, number(at_least=0))
            if self.base_lr > self.max_lr:
                raise ValueError(f"base_lr must be at most max_lr={self.max_lr}, got {self.base_lr}")
        for name in ("step_size_up", "step_size_down"):
            if getattr(self, name) is not None:
                require(name, getattr(self, name), whole(1))
        up, down = self.step_sizes()
        if up < 1 or down < 1:
            raise ValueError(
                f"total_steps={self.total_steps} is too few for two whole cycles with a rise of {up} and a fall of "
                f"{down} steps, each must be at least 1: train longer or set step_size_up"
            )
        require("mode", self.mode, one_of("triangular", "triangular2", "exp_range"))
        require("gamma", self.gamma, number(above=0, at_most=1))
        require("cycle_momentum", self.cycle_momentum, SWITCH)
        require_momenta(self.base_momentum, self.max_momentum)

    def step_sizes(self) -> tuple[int, int]:
        """Lengths of the rise and of the fall in steps, as given or by default."""
        up, down = self.step_size_up, self.step_size_down
        if up is not None:
            return up, up if down is None else down
        cycle = self.total_steps // 2
        up = cycle // 2 if down is None else cycle - down
        return up, cycle - up

    def __call__(self, step: int) -> Hyper:
        step = clamp_step(step, self.total_steps)
        up, down = self.step_sizes()
        cycle, position = divmod(step, up + down)
        height = position / up if position <= up else (up + down - position) / down
        height *= {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.gamma**step}[self.mode]
        base_lr = self.max_lr / 4 if self.base_lr is None else self.base_lr
        momentum = interpolate(self.max_momentum, self.base_momentum, height) if self.cycle_momentum else None
        return Hyper(interpolate(base_lr, self.max_lr, height), momentum)
