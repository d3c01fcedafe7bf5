"""Runs a range test: once for each of its seeds, one after the other on one axis of steps."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

from onecycle_sweeps import journal, range_test
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.loop import Batches, Learner, StepTaken, evaluate, evaluated, steps
from onecycle_sweeps.measures import LOSS, Measure, recorded
from onecycle_sweeps.trial.build import Resolved
from onecycle_sweeps.trial.train import RunningAttempt, Stopped, columns

# A linear ramp is evaluated this many times, because Smith reads his rates from the validation measure.
EVALUATIONS = 20
# A test that goes over its training set more often than this looks at val too, as often, to see whether it memorises.
MANY_EPOCHS = 5


def find_rate(
    attempt: RunningAttempt,
    config: Config,
    resolved: Resolved,
    data: Batches,
    builders: Iterable[Callable[[], Learner]],
) -> dict[str, Any]:
    """Run the range test for each seed, building one learner at a time; returns the trial's result.

    The result has the verdict and the rate of each rule. Raises ValueError if the curves allow no verdict, Stopped when
    the attempt must stop.
    """
    began, count, tests = time.monotonic(), 0, []
    for build in builders:
        tests.append(_one(attempt, config, build(), count))
        count += len(tests[-1].lrs)
    return concluded(config, resolved, tests, time.monotonic() - began, data.warnings)


def concluded(
    config: Config,
    resolved: Resolved,
    tests: list[range_test.OneSeed],
    seconds: float,
    warnings: Iterable[str] = (),
) -> dict[str, Any]:
    """The trial's result from the tests of its seeds; raises ValueError if the curves allow no verdict."""
    verdict = range_test.judge(tests)
    return {
        "status": "finished",
        "cause": None,
        "metrics": _metrics(verdict, tests, config["range_test"]["steps"]) | {"seconds": seconds},
        "verdict": {"word": verdict.word, **asdict(verdict), "grid": verdict.grid},
        "steps": sum(len(test.lrs) for test in tests),
        "steps_per_epoch": resolved["steps_per_epoch"],
        "warnings": [*warnings, *_ambiguous(verdict)],
    }


def _one(attempt: RunningAttempt, config: Config, learner: Learner, offset: int) -> range_test.OneSeed:
    """One seed's test, written to the journal from step `offset` on."""
    measured, points = learner.objective.measures, evaluation_points(config)
    taken: list[StepTaken] = []
    losses: list[float] = []
    evaluations: dict[int, dict[str, float]] = {}
    val_losses: list[tuple[float, float]] = []
    repeats = config["range_test"]["steps"] * learner.data.batch_size > MANY_EPOCHS * learner.data.sizes["train"]
    looks = _evenly(config["range_test"]["steps"]) if repeats else set[int]()
    for step, _ in range_test.until_diverged(steps(learner, ramp_of(config))):
        taken.append(step)
        losses.append(float(step.loss))
        if step.index in points:
            with evaluated(learner, recalibrate=config.get("bn_recalibrate", False)) as shown:
                evaluations[step.index] = evaluate(shown, "val")
        if step.index in looks:
            found = evaluations.get(step.index) or _evaluated(learner)
            val_losses.append((step.hyper.lr, found[LOSS.name]))
        if attempt.stopped():
            raise Stopped("a resumed range test starts again")
    return replace(written(attempt, measured, offset, taken, losses, evaluations), val_losses=val_losses)


def _evaluated(learner: Learner) -> Mapping[str, float]:
    with evaluated(learner) as shown:
        return evaluate(shown, "val")


def ramp_of(config: Config) -> range_test.Ramp:
    """The rates of a test."""
    test = config["range_test"]
    return range_test.Ramp(test["start_lr"], test["end_lr"], test["steps"], test["mode"])


def evaluation_points(config: Config) -> set[int]:
    """The steps after which the model is evaluated: some of a linear ramp, none of an exponential one."""
    test = config["range_test"]
    return _evenly(test["steps"]) if test["mode"] == "linear" else set()


def _evenly(steps: int) -> set[int]:
    return {round(i * steps / EVALUATIONS) - 1 for i in range(1, EVALUATIONS + 1)}


def written(
    attempt: RunningAttempt,
    measured: Sequence[Measure],
    offset: int,
    taken: list[StepTaken],
    losses: list[float],
    evaluations: Mapping[int, Mapping[str, float]],
) -> range_test.OneSeed:
    """One seed's test from its steps and the evaluations after some of them, written to the journal at `offset`."""
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


def _metrics(verdict: range_test.Judgement, tests: list[range_test.OneSeed], steps: int) -> dict[str, float]:
    """The verdict's rates, and the medians over the seeds of the rates that peers' rules suggest."""
    rules = range_test.median_of_peers([range_test.peers(test.lrs, test.losses, steps) for test in tests])
    metrics = rules | verdict.rates
    return {f"suggestion/{name}": rate for name, rate in metrics.items()} | {"range/lowest_loss": verdict.lowest_loss}


def _ambiguous(verdict: range_test.Judgement) -> list[str]:
    grid = ",".join(f"{rate:g}" for rate in verdict.grid)
    return [f"the range test is ambiguous: {doubt}; the grid max_lr={grid} would settle it" for doubt in verdict.doubts]
