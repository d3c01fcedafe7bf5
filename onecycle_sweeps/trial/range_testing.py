"""Runs the trials that are range tests: a ramp for each seed, one after the other or packed, and their verdict."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from onecycle_sweeps import journal, packs, range_test
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.loop import Batches, Learner, StepTaken, Totals, evaluate, evaluated, steps
from onecycle_sweeps.measures import LOSS, Measure, recorded
from onecycle_sweeps.range_test import Judgement
from onecycle_sweeps.range_test.probes import Found
from onecycle_sweeps.trial.build import Resolved, begins_trained, make_learner
from onecycle_sweeps.trial.train import RunningAttempt, Stopped, columns

log = logging.getLogger("onecycle_sweeps")
# A linear ramp is evaluated this many times, because Smith reads his rates from the validation measure.
EVALUATIONS = 20
# A range test that goes over its training set more often than this is also evaluated EVALUATIONS times, whatever its
# ramp, to see whether the net memorises its samples.
MANY_EPOCHS = 5
TRAINED_BEFORE = (
    "the net begins with trained weights (they are the same for every seed), for which range tests found rates 3 to 9 "
    "times too high"
)


def run_range_test(
    attempt: RunningAttempt,
    config: Config,
    resolved: Resolved,
    data: Batches,
    builders: Sequence[Callable[[], Learner]],
) -> dict[str, Any]:
    """Run the range test for each seed, with the seeds packed as the attempt says; returns the trial's result.

    A learner is built when its turn comes. The result has the verdict and the rate of each rule. Raises ValueError if
    the curves allow no verdict, Stopped when the attempt must stop.
    """
    began, count, tests = time.monotonic(), 0, []
    most = attempt.packing.most
    for first in range(0, len(builders), most):
        for ramp in _ramps(attempt, config, resolved, builders[first : first + most]):
            test = record_seed(attempt, ramp.measured, count, ramp.taken, ramp.losses, ramp.evaluations)
            tests.append(replace(test, val_losses=ramp.val_losses))
            count += len(ramp.losses)
    doubts = (TRAINED_BEFORE,) if begins_trained(config, data.offered) else ()
    return range_test_result(config, resolved, tests, time.monotonic() - began, data.warnings, doubts)


def range_test_result(
    config: Config,
    resolved: Resolved,
    tests: list[range_test.OneSeed],
    seconds: float,
    warnings: Iterable[str] = (),
    doubts: Sequence[str] = (),
) -> dict[str, Any]:
    """The trial's result from the tests of its seeds; raises ValueError if the curves allow no verdict.

    `doubts` are reasons for an ambiguous verdict that the curves do not show.
    """
    judged = range_test.judge(tests)
    verdict = replace(judged, doubts=(*judged.doubts, *doubts))
    return {
        "status": "finished",
        "cause": None,
        "metrics": _metrics(verdict, tests, config["range_test"]["steps"]) | {"seconds": seconds},
        "verdict": {"word": verdict.word, **asdict(verdict), "grid": verdict.grid},
        "steps": sum(len(test.lrs) for test in tests),
        "steps_per_epoch": resolved["steps_per_epoch"],
        "warnings": [*warnings, *ambiguous(verdict)],
    }


@dataclass(frozen=True)
class RampTaken:
    """The steps of one seed's ramp with their losses, evaluations of what is `measured` by step, val losses by rate."""

    measured: Sequence[Measure]
    taken: list[StepTaken]
    losses: list[float]
    evaluations: dict[int, dict[str, float]]
    val_losses: list[tuple[float, float]]


def _ramps(
    attempt: RunningAttempt, config: Config, resolved: Resolved, builders: Sequence[Callable[[], Learner]]
) -> Iterator[RampTaken]:
    """The ramp of each learner; those of several learners are taken together if they can be packed."""
    learners = [build() for build in builders]
    if len(learners) > 1 and (pack := _packed(attempt, resolved, learners, ramp_of(config))):
        yield from _take_together(attempt, config, pack)
        return
    for built in learners:
        # If others were built since, it is built again: dropout goes on with the generator that drew its net's weights.
        learner = built if len(learners) == 1 else make_learner(config, resolved, built.data, built.seed)
        taker = _take_ramp(attempt, config, learner, steps(learner, ramp_of(config)))
        while (found := _advanced(taker)) is None:
            pass
        yield found


def _packed(
    attempt: RunningAttempt, resolved: Resolved, learners: Sequence[Learner], ramp: range_test.Ramp
) -> packs.Pack | None:
    totals = [Totals() for _ in learners]
    try:
        pack = packs.Pack(learners, [ramp] * len(learners), totals, must_win=attempt.packing.must_win)
    except packs.CannotPack as reason:
        log.info("the seeds are not packed: %s", reason)
        return None
    resolved["packed_seeds"] = [*resolved.get("packed_seeds", ()), *(one.seed for one in learners)]
    attempt.trial.write("resolved", resolved, attempt=attempt.number)
    return pack


def _take_together(attempt: RunningAttempt, config: Config, pack: packs.Pack) -> list[RampTaken]:
    """The ramps of a pack's members, whose steps are taken until all have ended."""
    boxes: list[list[StepTaken]] = [[] for _ in pack.learners]
    takers = [
        _take_ramp(attempt, config, learner, packs.steps_from(box))
        for learner, box in zip(pack.learners, boxes, strict=True)
    ]
    found: dict[int, RampTaken] = {}
    while len(found) < len(takers):
        for box, step in zip(boxes, pack.step(), strict=False):
            box.append(step)
        for place, taker in enumerate(takers):
            if place not in found and (ramp := _advanced(taker)):
                found[place] = ramp
    return [found[place] for place in range(len(takers))]


def _advanced(taker: Generator[None, None, RampTaken]) -> RampTaken | None:
    """Let it take its next step; returns the ramp once it has ended."""
    try:
        next(taker)
    except StopIteration as end:
        return end.value
    return None


def _take_ramp(
    attempt: RunningAttempt, config: Config, learner: Learner, stream: Iterator[StepTaken]
) -> Generator[None, None, RampTaken]:
    """Take the steps of one seed's ramp until it diverges or ends; yields after each."""
    points = ramp_evaluations(config)
    ramp = RampTaken(learner.objective.measures, [], [], {}, [])
    repeats = config["range_test"]["steps"] * learner.data.batch_size > MANY_EPOCHS * learner.data.sizes["train"]
    looks = _evenly(config["range_test"]["steps"]) if repeats else set[int]()
    for step, _ in range_test.until_diverged(stream):
        ramp.taken.append(step)
        ramp.losses.append(float(step.loss))
        if step.index in points:
            with evaluated(learner, recalibrate=config.get("bn_recalibrate", False)) as shown:
                ramp.evaluations[step.index] = evaluate(shown, "val")
        if step.index in looks:
            found = ramp.evaluations.get(step.index) or _evaluated(learner)
            ramp.val_losses.append((step.hyper.lr, found[LOSS.name]))
        if attempt.stopped():
            raise Stopped("a resumed range test starts again")
        yield
    return ramp


def _evaluated(learner: Learner) -> Mapping[str, float]:
    with evaluated(learner) as shown:
        return evaluate(shown, "val")


def ramp_of(config: Config) -> range_test.Ramp:
    """The ramp that the config asks for."""
    test = config["range_test"]
    return range_test.Ramp(test["start_lr"], test["end_lr"], test["steps"], test["mode"])


def ramp_evaluations(config: Config) -> set[int]:
    """The steps after which the model is evaluated: some of a linear ramp, none of an exponential one."""
    test = config["range_test"]
    return _evenly(test["steps"]) if test["mode"] == "linear" else set()


def _evenly(count: int) -> set[int]:
    return {round(i * count / EVALUATIONS) - 1 for i in range(1, EVALUATIONS + 1)}


def record_seed(
    attempt: RunningAttempt,
    measured: Sequence[Measure],
    offset: int,
    taken: list[StepTaken],
    losses: list[float],
    evaluations: Mapping[int, Mapping[str, float]],
) -> range_test.OneSeed:
    """Write one seed's steps, and the evaluations after some of them, to the journal at `offset`; returns the test."""
    rates = [step.hyper.lr for step in taken]
    smoothed = range_test.smoothed(rates, losses)
    for first, stop in pairwise(sorted({0, len(taken), *(index + 1 for index in evaluations)})):
        piece = columns(taken[first:stop], losses[first:stop])
        if values := smoothed[first:stop]:
            piece |= {journal.SMOOTHED_LOSS: values}
        attempt.journal.append(offset + first, piece)
        if found := evaluations.get(stop - 1):
            attempt.journal.append(
                offset + stop - 1, {one.val: [found[one.name]] for one in recorded(measured) if one.name in found}
            )
    values = [found[measured[0].name] for found in evaluations.values()]
    return range_test.OneSeed(rates, losses, [rates[index] for index in evaluations], values, measured[0])


def _metrics(verdict: range_test.Judgement, tests: list[range_test.OneSeed], planned: int) -> dict[str, float]:
    """The verdict's rates, and the medians over the seeds of the rates that peers' rules suggest."""
    rules = range_test.median_of_peers([range_test.peers(test.lrs, test.losses, planned) for test in tests])
    metrics = rules | verdict.rates
    return {f"suggestion/{name}": rate for name, rate in metrics.items()} | {"range/lowest_loss": verdict.lowest_loss}


def ambiguous(verdict: Judgement | Found) -> list[str]:
    """A warning for each reason why the verdict is ambiguous, with the rates to try."""
    grid = ",".join(f"{rate:g}" for rate in verdict.grid)
    about = "the verdict is ambiguous, so the rate may be far off"
    return [f"{about}: {doubt}; train at the grid max_lr={grid} -m" for doubt in verdict.doubts]
