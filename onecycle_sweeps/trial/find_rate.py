"""Runs the two kinds of trials that find a rate: range tests, and the probes that follow them.

A range test is run once for each of its seeds; a probe trains by the trial's policy, for a few steps, at several rates.
Both take their trainings one after the other, on one axis of steps.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import mean
from typing import Any, Protocol

import torch

from onecycle_sweeps import checkpoint, files, journal, packs, range_test
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.loop import Batches, Learner, StepTaken, Totals, evaluate, evaluated, steps
from onecycle_sweeps.measures import LOSS, Measure, recorded
from onecycle_sweeps.policies import Compressed, Policy, near_peak
from onecycle_sweeps.range_test import Judgement, Reading, probes
from onecycle_sweeps.range_test.probes import Found, Probe, Probed
from onecycle_sweeps.trial.build import Resolved, begins_trained
from onecycle_sweeps.trial.train import RunningAttempt, State, Stopped, columns

log = logging.getLogger("onecycle_sweeps")
# A linear ramp is evaluated this many times, because Smith reads his rates from the validation measure.
EVALUATIONS = 20
# A range test that goes over its training set more often than this is also evaluated EVALUATIONS times, whatever its
# ramp, to see whether the net memorises its samples.
MANY_EPOCHS = 5
# A probe reads the losses of this many steps from the device at once.
BLOCK = 20
TRAINED_BEFORE = (
    "the net begins with trained weights (they are the same for every seed), for which a range test asked for 3 to 9 "
    "times too much"
)
INTERRUPTED = "the short training that was interrupted is taken again"


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
        "warnings": [*warnings, *_ambiguous("the range test", verdict)],
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
    for learner in learners:
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


def _ambiguous(what: str, verdict: Judgement | Found) -> list[str]:
    """A warning for each reason why the verdict is ambiguous, with the rates to try."""
    grid = ",".join(f"{rate:g}" for rate in verdict.grid)
    return [f"{what} is ambiguous: {doubt}; the grid max_lr={grid} would settle it" for doubt in verdict.doubts]


@dataclass(frozen=True)
class Trained:
    """The outcome of a short training: its steps, their losses, and the evaluation after them, None if it diverged.

    `learnt` is how far the headline measure has come from chance (0) to a perfect value (1), None if unknown.
    """

    taken: Sequence[StepTaken]
    losses: Sequence[float]
    found: Mapping[str, float] | None
    learnt: float | None = None


class Trainer(Protocol):
    """Takes short trainings by the trial's policy, in our own loop or in a user's function."""

    @property
    def measures(self) -> Sequence[Measure]:
        """What an evaluation records; rates are compared by the last one."""
        ...

    def untrained(self) -> tuple[Mapping[str, float], int]:
        """The evaluation of the untrained net, and the number of steps of a whole training."""
        ...

    def train(self, probe: Probe) -> Trained:
        """Take a short training; raises Stopped if the attempt must stop."""
        ...


def run_probe(
    attempt: RunningAttempt,
    config: Config,
    tested: Mapping[str, Any],
    trainer: Trainer,
    state: State | None,
) -> dict[str, Any]:
    """Take short trainings until they show a rate for whole trainings; returns the trial's result.

    The search begins at the rate of the range test, whose result is `tested`. `state`, from a checkpoint, has the
    trainings of earlier attempts.
    """
    began, before = time.monotonic(), state["seconds"] if state else 0.0
    known = [Probed(**one) for one in state["probed"]] if state else []
    judged = trainer.measures[-1]
    # The arguments of the search are saved with the trainings: the config's budget or the range test may change later.
    asked_for = state["asked_for"] if state else _asked_for(config, tested, judged, *trainer.untrained())
    probed: list[Probed] = []

    def take(asked: Probe) -> Probed:
        if len(probed) < len(known):
            probed.append(known[len(probed)])
            return probed[-1]
        course = trainer.train(asked)
        score = math.inf if course.found is None else score_of(judged, course.found)
        taken_before = sum(one.taken for one in probed)
        trained = mean(course.losses[-max(1, len(course.losses) // 10) :]) if judged == LOSS else None
        probed.append(Probed(asked.rate, asked.steps, asked.seed, score, len(course.losses), trained, course.learnt))
        _record_training(attempt, trainer.measures, taken_before, course)
        _save_probe(attempt, probed, {"asked_for": asked_for, "seconds": before + time.monotonic() - began})
        log.info("%d steps at max_lr=%.4g with seed %d: %s", asked.steps, asked.rate, asked.seed, course.found)
        return probed[-1]

    arguments: dict[str, Any] = {**asked_for, "start": Reading(*asked_for["start"])}
    found = run_search(probes.search(**arguments), take)
    # JSON has no infinity.
    scored = [
        {key: None if value is None or not math.isfinite(value) else value for key, value in asdict(one).items()}
        for one in found.probed
    ]
    ends = {"max_lr": found.max_lr.rate, "max_lr_low": found.max_lr.low, "max_lr_high": found.max_lr.high}
    return {
        "status": "finished",
        "cause": None,
        "metrics": {f"suggestion/{name}": rate for name, rate in ends.items()}
        | {"seconds": before + time.monotonic() - began},
        "verdict": {
            "word": found.word,
            **asdict(found),
            "probed": scored,
            "grid": found.grid,
            "measure": asdict(judged),
            "untrained": asked_for["untrained"],
        },
        "steps": sum(one.taken for one in probed),
        "warnings": _ambiguous("the verdict", found),
    }


def _asked_for(
    config: Config, tested: Mapping[str, Any], judged: Measure, untrained: Mapping[str, float], length: int
) -> State:
    """The arguments of the search, as a checkpoint keeps them."""
    rates = tested["metrics"]
    policy = nodes.policy(config, 1.0, max(1, length // config["epochs"]), length)
    return {
        "start": [rates[f"suggestion/max_lr{end}"] for end in ("", "_low", "_high")],
        "steps": length,
        "budget": schema.probe_steps(config, length),
        "untrained": score_of(judged, untrained),
        "doubts": list(tested["verdict"]["doubts"]),
        "near_peak": near_peak(policy),
    }


def run_search(search: Generator[Probe, Probed, Found], take: Callable[[Probe], Probed]) -> Found:
    """Run the search, taking each short training that it asks for; returns what it finds."""
    try:
        asked = next(search)
        while True:
            asked = search.send(take(asked))
    except StopIteration as end:
        return end.value


@dataclass(frozen=True)
class LoopTrainer:
    """Takes short trainings in this program's loop.

    `of_objective` are the objective's measures; `make_learner` is called with a seed. Rates are compared by the loss on
    val, which shows the effect of a few steps earlier than other measures do.
    """

    attempt: RunningAttempt
    config: Config
    steps_per_epoch: int
    of_objective: Sequence[Measure]
    make_learner: Callable[[int], Learner]

    @property
    def measures(self) -> Sequence[Measure]:
        """See Trainer."""
        return (*(one for one in recorded(self.of_objective) if one != LOSS), LOSS)

    def untrained(self) -> tuple[Mapping[str, float], int]:
        """See Trainer."""
        return self._evaluate(self.make_learner(probes.SEED)), self.config["epochs"] * self.steps_per_epoch

    def train(self, probe: Probe) -> Trained:
        """See Trainer."""
        learner = self.make_learner(probe.seed)
        policy = Compressed(nodes.policy(self.config, probe.rate, self.steps_per_epoch), probe.steps)
        taken, losses = _take_steps(self.attempt, learner, policy)
        if not math.isfinite(losses[-1]):
            return Trained(taken, losses, None)
        found, headline = self._evaluate(learner), self.of_objective[0]
        chance = learner.objective.chance(learner.data.targets("val"))
        return Trained(taken, losses, found, headline.above_chance(found[headline.name], chance))

    def _evaluate(self, learner: Learner) -> Mapping[str, float]:
        with evaluated(learner, recalibrate=self.config["bn_recalibrate"]) as shown:
            return evaluate(shown, "val")


def _take_steps(attempt: RunningAttempt, learner: Learner, policy: Policy) -> tuple[list[StepTaken], list[float]]:
    """Train to the end, or up to and including the first step whose loss is not finite."""
    taken: list[StepTaken] = []
    losses: list[float] = []
    for step in steps(learner, policy):
        taken.append(step)
        if len(taken) % BLOCK == 0 or len(taken) == policy.total_steps:
            losses += torch.stack([one.loss for one in taken[len(losses) :]]).tolist()
            if bad := [at for at, loss in enumerate(losses) if not math.isfinite(loss)]:
                return taken[: bad[0] + 1], losses[: bad[0] + 1]
        if attempt.stopped():
            raise Stopped(INTERRUPTED)
    return taken, losses


def _record_training(attempt: RunningAttempt, measures: Sequence[Measure], offset: int, course: Trained) -> None:
    """Write a short training to the journal from step `offset` on."""
    attempt.journal.append(offset, columns(list(course.taken), list(course.losses)))
    if found := course.found:
        last = offset + len(course.losses) - 1
        attempt.journal.append(last, {one.val: [found[one.name]] for one in measures if one.name in found})


def _save_probe(attempt: RunningAttempt, probed: Sequence[Probed], rest: State) -> None:
    """Make the trainings that were taken durable, with the rest of the state."""
    attempt.journal.sync()
    step = sum(one.taken for one in probed)
    kept = {"step": step, "probed": [asdict(one) for one in probed], **rest}
    attempt.trial.put("checkpoint.pt", checkpoint.packed(files.with_format(kept)), attempt.number)
    attempt.journal.saved(step)


def score_of(measure: Measure, found: Mapping[str, float]) -> float:
    """The value of the measure with the sign that makes lower better; infinite if it is not finite."""
    value = found[measure.name]
    if not math.isfinite(value):
        return math.inf
    return value if measure.goal == "min" else -value
