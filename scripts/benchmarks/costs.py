"""Wall and CPU time, taken by sides in turn, A B A B, so that a machine's moods fall on all of them."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock, and of all of this process's threads on its cores."""

    wall: float
    cpu: float

    def per(self, count: int) -> "Cost":
        """The cost of one of `count` equal parts."""
        return Cost(self.wall / count, self.cpu / count)


Rounds = dict[str, list[Cost]]


def now() -> Cost:
    """Both clocks as they stand."""
    return Cost(time.perf_counter(), time.process_time())


def since(start: Cost) -> Cost:
    """What has gone by on both clocks."""
    end = now()
    return Cost(end.wall - start.wall, end.cpu - start.cpu)


def timed(work: Callable[[], object], repeat: int = 1) -> Cost:
    """What one call costs, as the mean over `repeat` calls."""
    start = now()
    for _ in range(repeat):
        work()
    return since(start).per(repeat)


def interleaved(sides: Mapping[str, Callable[[], Cost]], rounds: int, warm: int = 0) -> Rounds:
    """Give each side its turn in each round; the first `warm` rounds are not counted."""
    costs: Rounds = {name: [] for name in sides}
    for number in range(-warm, rounds):
        for name, side in sides.items():
            gc.collect()
            cost = side()
            print(f"  round {number}: {name}: {1000 * cost.wall:.3f} ms", file=sys.stderr, flush=True)
            if number >= 0:
                costs[name].append(cost)
    return costs


def wall(costs: Rounds, name: str) -> float:
    """A side's median wall seconds."""
    return statistics.median(cost.wall for cost in costs[name])


def cpu(costs: Rounds, name: str) -> float:
    """A side's median CPU seconds."""
    return statistics.median(cost.cpu for cost in costs[name])


def ratio(costs: Rounds, name: str, base: str) -> float:
    """How much longer a side takes than another: the median over rounds of the ratio within a round."""
    pairs = zip(costs[name], costs[base], strict=True)
    return statistics.median(cost.wall / other.wall for cost, other in pairs)


def added_cpu(costs: Rounds, name: str, base: str) -> float:
    """CPU seconds that a side takes beyond another's: the median over rounds of the difference within a round."""
    pairs = zip(costs[name], costs[base], strict=True)
    return statistics.median(cost.cpu - other.cpu for cost, other in pairs)
