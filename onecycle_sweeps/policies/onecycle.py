"""The 1cycle policy (Smith 2018, arXiv:1803.09820), like torch's OneCycleLR, and with the published tails."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from onecycle_sweeps.policies.policy import SHAPES, Hyper, clamp_step, interpolate, require_momenta, require_run
from onecycle_sweeps.validation import SWITCH, number, one_of, require


class Phase(NamedTuple):
    """One phase of the cycle: from the end of the previous one to the step `end`, which may lie between two steps."""

    end: float
    lr: tuple[float, float]
    momentum: tuple[float, float]
    shape: str


@dataclass(frozen=True)
class OneCycle:
    """Rises from initial_lr = max_lr/div_factor to max_lr and falls again; if momentum is cycled, it does the opposite.

    Phases end where torch's do, at fraction*total_steps - 1: the peak is hit where pct_start*total_steps is whole.
    pct_start: fraction of the whole run in which the rate rises.
    Without a tail the rate falls to min_lr = initial_lr/final_div_factor: in one phase, or, with three_phase, to
    initial_lr in a mirror image of the rise and to min_lr in the rest.
    tail: in the last pct_tail of the run the rate goes from initial_lr to initial_lr/tail_div by this shape
        (constant: it is there at once) at max_momentum; the cycle before it ends at initial_lr, and
        final_div_factor plays no part.
    """

    max_lr: float
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False
    tail: Literal["none", "constant", "linear", "cos"] = "none"
    pct_tail: float = 0.1
    tail_div: float = 100.0

    def __post_init__(self) -> None:
        require_run(self.max_lr, self.total_steps)
        require("pct_start", self.pct_start, number(above=0, below=1))
        require("anneal_strategy", self.anneal_strategy, one_of("cos", "linear"))
        require("cycle_momentum", self.cycle_momentum, SWITCH)
        require_momenta(self.base_momentum, self.max_momentum)
        require("div_factor", self.div_factor, number(at_least=1))
        require("final_div_factor", self.final_div_factor, number(at_least=1 / self.div_factor))
        require("three_phase", self.three_phase, SWITCH)
        require("tail", self.tail, one_of("none", "constant", "linear", "cos"))
        require("pct_tail", self.pct_tail, number(above=0, below=1))
        require("tail_div", self.tail_div, number(at_least=1))
        self._check_phases()

    def _check_phases(self) -> None:
        """Raise ValueError for a phase without length: it would divide by zero or overlap with the next one."""
        rise = self.pct_start * self.total_steps
        if rise <= 1:
            raise ValueError(
                f"pct_start * total_steps must be above 1, got {self.pct_start} * {self.total_steps} = {rise:g}: "
                "raise pct_start or train longer"
            )
        if self.three_phase and 2 * rise - 2 >= self.total_steps - 1:
            raise ValueError(
                "with three_phase, 2*pct_start*total_steps - 2 must be below total_steps - 1 = "
                f"{self.total_steps - 1}, got {2 * rise - 2:g} from pct_start={self.pct_start}: lower pct_start"
            )
        if self.tail == "none":
            return
        if self.three_phase:
            raise ValueError(f"three_phase and a tail exclude each other, got tail={self.tail}: switch one of them off")
        if self.pct_start + self.pct_tail >= 1:
            raise ValueError(
                "pct_start + pct_tail must be below 1, the fall lies between them, "
                f"got {self.pct_start} + {self.pct_tail}"
            )
        if round(self.pct_tail * self.total_steps, 9) < 1:
            raise ValueError(
                f"pct_tail * total_steps must be at least 1, got {self.pct_tail} * {self.total_steps}: "
                "raise pct_tail, train longer or set tail=none"
            )

    @cached_property
    def _phases(self) -> list[Phase]:
        total, rise, shape = self.total_steps, self.pct_start * self.total_steps, self.anneal_strategy
        initial_lr = self.max_lr / self.div_factor
        min_lr = initial_lr / self.final_div_factor
        low, high = self.base_momentum, self.max_momentum
        up = Phase(rise - 1, (initial_lr, self.max_lr), (high, low), shape)
        if self.three_phase:
            down = Phase(2 * rise - 2, (self.max_lr, initial_lr), (low, high), shape)
            return [up, down, Phase(total - 1, (initial_lr, min_lr), (high, high), shape)]
        if self.tail == "none":
            return [up, Phase(total - 1, (self.max_lr, min_lr), (low, high), shape)]
        # (1 - 0.3) * 10 is not always 7 in floating point, and a constant tail would begin a step early.
        fallen = round((1 - self.pct_tail) * total, 9) - 1
        down = Phase(fallen, (self.max_lr, initial_lr), (low, high), shape)
        return [up, down, Phase(total - 1, (initial_lr, initial_lr / self.tail_div), (high, high), self.tail)]

    def __call__(self, step: int) -> Hyper:
        step = clamp_step(step, self.total_steps)
        phases = self._phases
        index = next(i for i, phase in enumerate(phases) if step <= phase.end)
        begin = phases[index - 1].end if index else 0.0
        phase = phases[index]
        fraction = SHAPES[phase.shape]((step - begin) / (phase.end - begin))
        return Hyper(
            interpolate(*phase.lr, fraction), interpolate(*phase.momentum, fraction) if self.cycle_momentum else None
        )
