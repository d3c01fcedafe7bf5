"""Drives a range test: one for each of its seeds, recorded in a row on one axis of steps."""

import time
from statistics import median
from typing import Any

from onecycle_sweeps import journal, range_test
from onecycle_sweeps.dataset import Dataset
from onecycle_sweeps.settings import Config
from onecycle_sweeps.training import Step, steps
from onecycle_sweeps.trial.recording import columns
from onecycle_sweeps.trial.resolve import Resolved, learner
from onecycle_sweeps.trial.train import Attempt, Stopped


def find_rate(attempt: Attempt, config: Config, resolved: Resolved, data: Dataset) -> dict[str, Any]:
    """Run the range test for each seed; returns the trial's result, whose suggestions are medians over the seeds.

    Raises ValueError where a curve allows no verdict, Stopped when the attempt is asked to leave.
    """
    began, count, found = time.monotonic(), 0, []
    for seed in config["range_test"]["seeds"]:
        rates, losses = _one(attempt, config, resolved, data, seed, count)
        found.append(_suggest(rates, losses))
        count += len(rates)
    metrics = {f"suggestion/{rule}": median(one[rule] for one in found) for rule in found[0]}
    return {
        "status": "finished",
        "cause": None,
        "metrics": metrics | {"seconds": time.monotonic() - began},
        "steps": count,
        "steps_per_epoch": resolved["steps_per_epoch"],
        "warnings": list(data.facts.doubts),
    }


def _one(
    attempt: Attempt, config: Config, resolved: Resolved, data: Dataset, seed: int, offset: int
) -> tuple[list[float], list[float]]:
    """The rates and raw losses of one seed's test, written to the journal from step `offset` on."""
    test = config["range_test"]
    ramp = range_test.Ramp(test["start_lr"], test["end_lr"], test["steps"], test["mode"])
    taken: list[Step] = []
    losses: list[float] = []
    smoothed: list[float] = []
    for step, smooth in range_test.until_diverged(steps(learner(config, resolved, data, seed), ramp)):
        taken.append(step)
        losses.append(float(step.loss))
        smoothed.append(smooth)
        if attempt.stopped():
            raise Stopped("a range test begins again when it is resumed")
    attempt.book.append(offset, columns(taken, losses) | {journal.SMOOTHED_LOSS: smoothed})
    return [step.hyper.lr for step in taken], losses


def _suggest(rates: list[float], losses: list[float]) -> dict[str, float]:
    verdict = range_test.verdict(rates, losses)
    return range_test.suggestions(*range_test.curve(rates, losses)) | {"max_lr": verdict}
