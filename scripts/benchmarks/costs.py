"""Wall and CPU time of the sides of a comparison, which take turns so that the machine's load falls on all of them."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.page import Cell, Table, comparison


@dataclass(frozen=True)
class Cost:
    """Wall seconds, and CPU seconds of all threads of this process."""

    wall: float
    cpu: float = 0.0

    def per(self, count: float) -> "Cost":
        """The cost of one of `count` equal parts."""
        return Cost(self.wall / count, self.cpu / count)


class Rounds(dict[str, list[Cost]]):
    """The costs of each side, round by round; all figures are medians over rounds."""

    def wall(self, side: str) -> float:
        return statistics.median(cost.wall for cost in self[side])

    def cpu(self, side: str) -> float:
        return statistics.median(cost.cpu for cost in self[side])

    def ratio(self, side: str, base: str) -> float:
        """The wall time of a side divided by that of another in the same round."""
        return statistics.median(cost.wall / other.wall for cost, other in zip(self[side], self[base], strict=True))

    def added_cpu(self, side: str, base: str) -> float:
        """The CPU seconds that a side takes beyond another in the same round."""
        return statistics.median(cost.cpu - other.cpu for cost, other in zip(self[side], self[base], strict=True))

    def table(self, title: str, caption: str, first: str, unit: str, **more: Callable[[str], Cell]) -> Table:
        """What each side costs, in "s" or in "ms/..."; the first side is the base of the last two columns."""
        base, scale = next(iter(self)), 1000 if unit.startswith("ms") else 1
        columns: dict[str, Callable[[str], Cell]] = {
            **more,
            f"wall {unit}": lambda side: scale * self.wall(side),
            f"CPU {unit}": lambda side: scale * self.cpu(side),
            "wall / first row": lambda side: self.ratio(side, base),
            f"added CPU {unit}": lambda side: scale * self.added_cpu(side, base),
        }
        return comparison(title, caption, first, self, columns)

    def speeds(self, title: str, caption: str, first: str, images: int) -> Table:
        """How fast each side is with so many images in each of its turns, and how fast beside the first side."""
        base = next(iter(self))
        columns = {
            "images/s": lambda side: images / self.wall(side),
            "beside first row": lambda s: 1 / self.ratio(s, base),
        }
        return comparison(title, caption, first, self, columns)


def now() -> Cost:
    """The readings of both clocks."""
    return Cost(time.perf_counter(), time.process_time())


def since(start: Cost) -> Cost:
    """The time elapsed on both clocks."""
    end = now()
    return Cost(end.wall - start.wall, end.cpu - start.cpu)


def timed(work: Callable[[], object], repeat: int = 1) -> Cost:
    """The mean cost of one of `repeat` calls."""
    start = now()
    for _ in range(repeat):
        work()
    return since(start).per(repeat)


def interleaved(sides: Mapping[str, Callable[[], Cost]], rounds: int, warm: int = 1) -> Rounds:
    """Run each side once a round; the first `warm` rounds are not counted."""
    costs = Rounds({name: [] for name in sides})
    for number in range(-warm, rounds):
        for name, side in sides.items():
            gc.collect()
            cost = side()
            print(f"  round {number}: {name}: {1000 * cost.wall:.3f} ms", file=sys.stderr, flush=True)
            if number >= 0:
                costs[name].append(cost)
    return costs
