"""From a range test to the rate of a policy: short trainings by that policy at rates around the range test's.

A range test mixes rate and time and does not depend on the policy; a short training has the policy, but fewer steps
than the training that the rate is for. They err in different ways, so a rate on which both agree can be relied on
(docs/verdicts.md has the evidence).
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from onecycle_sweeps.measures import AT_CHANCE
from onecycle_sweeps.range_test.verdict import MEMORISED, Reading, grid_around

# The seed of the first trainings; the last ones have the next seed. Nobody's own trainings have these by accident.
SEED = 1_000_003
# Steps of the shortest training that tells rates apart, and of the shortest of the last trainings.
FEWEST, FEWEST_OF_LAST = 20, 30
# The rates of the first trainings, which are about half as long, as powers of 2 times the range test's rate.
FIRST = (1, -1, -3, -5)
# The last trainings are at the best of these rates and an octave below and above it. At most this many more follow:
# beyond the best rate if it is the lowest or highest of them, else at the range test's own rate.
FURTHER = 2
# The rates that the range test and the trainings found agree within this factor. Beyond it, the lower one is confident
# too if a short training at the range test's rate lost at most this share of the way from the untrained net's score.
AGREEING, FLAT = 2.5, 0.03
# Short trainings of at least this many steps, and this many times the range test's, may lose more at its rate if they
# find a lower one: with 380 steps they lost up to 6 %, and trainings of 6,000 steps lost at most 0.8 % at the rate that
# was found. Where they lost 11 or 12 %, those lost 1.7 %, and with 128 steps a language model's lost up to 2.3 %.
OUTWEIGHING, LONGER, FLAT_OF_LONG = 300, 1.5, 0.1
# The share of the way from the untrained net's score to the best one's within which two scores are as good as equal.
ALIKE = 0.01
# The rate that was found is multiplied by the second number in two cases where it is too high: for a policy that stays
# near its peak for more than this share of its steps, since what does no harm in 40 steps may do so in hundreds, and
# for an adaptive optimizer, whose steps do not get shorter as the gradient does.
LONG, SAFER = 0.25, 0.5


@dataclass(frozen=True)
class Probe:
    """A short training that is asked for: its peak rate, its number of steps, and its seed."""

    rate: float
    steps: int
    seed: int


@dataclass(frozen=True)
class Probed:
    """A short training that was taken, and its score on val: lower is better, and infinite if it diverged.

    `taken` is how many steps it had taken by then. `trained` is the training loss at its end where the score is the
    loss on val, else None. `learnt` is the share of the way from chance to a perfect value of the headline measure,
    None if chance is unknown.
    """

    rate: float
    steps: int
    seed: int
    score: float
    taken: int
    trained: float | None = None
    learnt: float | None = None


@dataclass(frozen=True)
class Found:
    """The rate for a policy; `doubts` are the reasons why it is ambiguous, and empty if it is confident.

    max_lr: with the rates between which the short trainings' score is as good as equal.
    from_range_test: the rate that the range test found.
    agrees: whether the range test's rate is about that of the trainings.
    is_lowered: whether max_lr is SAFER times the rate that these show.
    """

    max_lr: Reading
    from_range_test: float
    probed: tuple[Probed, ...]
    doubts: tuple[str, ...]
    agrees: bool = False
    is_lowered: bool = False

    @property
    def word(self) -> str:
        """confident or ambiguous."""
        return "ambiguous" if self.doubts else "confident"

    @property
    def grid(self) -> tuple[float, ...]:
        """Rates to train at where the verdict is ambiguous."""
        return grid_around(self.max_lr.low, self.max_lr.high)


def lengths(budget: int, steps: int) -> tuple[int, int] | None:
    """The steps of each of the first and of the last trainings within a budget; None if it is too small.

    No training is longer than the `steps` that it is for.
    """
    count = 3 + FURTHER
    last = min(budget // (len(FIRST) // 2 + count), steps)
    if last < 2 * FEWEST:
        last = min((budget - len(FIRST) * FEWEST) // count, steps)
    return (max(FEWEST, last // 2), last) if last >= FEWEST_OF_LAST else None


def cost(budget: int, steps: int) -> int | None:
    """The most steps that short trainings take within a budget; None if it is too small for them."""
    if (found := lengths(budget, steps)) is None:
        return None
    return len(FIRST) * found[0] + (3 + FURTHER) * found[1]


def search(
    start: Reading,
    steps: int,
    budget: int,
    untrained: float,
    doubts: Sequence[str],
    near_peak: float = 0.0,
    adaptive: bool = False,
    epoch: int = 0,
    ramp: int = 0,
) -> Generator[Probe, Probed, Found]:
    """Ask for short trainings, each with the result of the one before, and return what they found.

    `start` is what the range test found for trainings of `steps` steps, with its `doubts`; it is returned as it is if
    the `budget`, in steps, is too small. `untrained` is the score of the untrained net, `near_peak` the share of the
    policy's steps whose rate is close to its peak, `adaptive` whether the optimizer is, `epoch` the number of steps
    that take each sample once, and `ramp` the number of steps of the range test.
    """
    if (found := lengths(budget, steps)) is None:
        return Found(start, start.rate, (), tuple(doubts))
    shorter, longest = found
    probed: list[Probed] = []
    for power in FIRST:
        probed.append((yield Probe(start.rate * 2.0**power, shorter, SEED)))
    # If all diverged, the lowest rate, which is the last one, is nearest to a rate that does not diverge.
    best = min(range(len(FIRST)), key=lambda at: (probed[at].score, -at))
    last: dict[int, Probed] = {}
    for power in (FIRST[best], FIRST[best] - 1, FIRST[best] + 1):
        last[power] = yield Probe(start.rate * 2.0**power, longest, SEED + 1)
    for _ in range(FURTHER):
        middle = min(last, key=lambda power: last[power].score)
        if not min(last) < middle < max(last):
            further = middle + (1 if middle == max(last) else -1)
        elif 0 not in last:
            further = 0
        else:
            break
        last[further] = yield Probe(start.rate * 2.0**further, longest, SEED + 1)
    found = _found(start, [*probed, *last.values()], last, untrained, doubts, epoch, ramp)
    if near_peak <= LONG and not (adaptive and found.agrees):
        return found
    lowered = Reading(SAFER * found.max_lr.rate, SAFER * found.max_lr.low, found.max_lr.high)
    return replace(found, max_lr=lowered, is_lowered=True)


def _found(
    start: Reading,
    probed: Sequence[Probed],
    last: dict[int, Probed],
    untrained: float,
    of_range_test: Sequence[str],
    epoch: int,
    ramp: int,
) -> Found:
    scores = {power: one.score for power, one in last.items()}
    best = min(scores, key=lambda power: scores[power])
    way = untrained - scores[best]
    if not (math.isfinite(way) and way > 0):
        doubt = "none of the longer short trainings reached a better score than the untrained net"
        # The rate that did least harm; the range test's own often did the most.
        rate = min(start.rate, min(probed, key=lambda one: (one.score, one.rate)).rate)
        found = Reading(rate, min(rate, start.low), start.high)
        return Found(found, start.rate, tuple(probed), (doubt,))
    doubts: list[str] = []
    if best in (min(scores), max(scores)):
        side = "lowest" if best == min(scores) else "highest"
        doubts.append(f"the best rate, {start.rate * 2.0**best:.2g}, is the {side} of the longer short trainings")
    # A training that takes no sample twice cannot memorise: its samples may just be easier than those of val.
    trained = last[best].trained if last[best].steps > epoch else None
    if trained is not None and scores[best] - trained > MEMORISED * way:
        doubts.append(
            f"val loss stayed above the training loss by {100 * (scores[best] - trained) / way:.0f} % of what was "
            "learnt: the net memorises, and the longer the training, the lower its best rate"
        )
    learnt = last[best].learnt
    if learnt is not None and learnt <= AT_CHANCE:
        doubts.append(
            f"{last[best].steps} steps hardly got beyond chance ({100 * learnt:.1f} % of the way to a perfect value), "
            "and what is learnt first says little about the best rate for the rest"
        )
    left, right = (scores.get(best + side, math.inf) - scores[best] for side in (-1, 1))
    power, width = vertex(left, right, way)
    at, low, high = (start.rate * 2.0 ** (best + one) for one in (power, power - width, power + width))
    factor = max(at / start.rate, start.rate / at)
    agrees = factor <= AGREEING
    if not agrees:
        outweighs = at < start.rate and last[best].steps >= max(OUTWEIGHING, LONGER * ramp)
        if scores.get(0, math.inf) - scores[best] > (FLAT_OF_LONG if outweighs else FLAT) * way:
            doubts.append(
                f"the range test found {start.rate:.2g}, but short trainings {at:.2g}, a factor of {factor:.1f} apart"
            )
        # A rate far above the range test's may be at the edge of stability, where longer trainings diverge.
        at = min(at, start.rate)
    elif not doubts and max(left, right) <= way / 2:
        at = math.sqrt(at * start.rate)
    elif not doubts and not of_range_test:
        # A longer training warms up more slowly, and so tolerates rates at which a short one diverged.
        at = start.rate
    elif not doubts:
        # The range test's rate is in doubt, and a longer training may diverge there as well.
        doubts += of_range_test
        at *= SAFER if right > way / 2 else 1
    return Found(Reading(at, min(at, low), max(at, high)), start.rate, tuple(probed), tuple(doubts), agrees)


def vertex(left: float, right: float, way: float) -> tuple[float, float]:
    """The minimum and the width of a parabola that rises by `left` and `right` to the octaves beside the best one.

    Both are in octaves from the best one. Within the width, at most 1, the parabola rises by less than `ALIKE` of the
    `way` from the untrained net's score. A rise of more than half of the way is a cliff: how high it is says nothing
    about where the minimum is.
    """
    curvature = max(min(left, way / 2) + min(right, way / 2), 2 * ALIKE * way)
    at = 0.0 if max(left, right) > way / 2 else (left - right) / (2 * curvature)
    return at, min(1.0, math.sqrt(2 * ALIKE * way / curvature))
