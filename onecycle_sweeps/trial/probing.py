"""Runs the trials that are probes: short trainings by the trial's policy at several rates, after a range test.

They are taken one after the other, on one axis of steps.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Protocol

import torch

from onecycle_sweeps import checkpoint, files
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.loop import Learner, StepTaken, evaluate, evaluated, steps
from onecycle_sweeps.measures import LOSS, Measure, recorded
from onecycle_sweeps.policies import Compressed, Policy, near_peak
from onecycle_sweeps.range_test import Reading, probes
from onecycle_sweeps.range_test.probes import Found, Probe, Probed
from onecycle_sweeps.scheduler import is_adaptive
from onecycle_sweeps.trial.range_testing import ambiguous
from onecycle_sweeps.trial.train import RunningAttempt, State, Stopped, columns

log = logging.getLogger("onecycle_sweeps")
# A probe reads the losses of this many steps from the device at once.
BLOCK = 20
INTERRUPTED = "the short training that was interrupted is taken again"


@dataclass(frozen=True)
class Trained:
    """The outcome of a short training: its steps, their losses, and the evaluation after them, None if it diverged.

    `learnt` is how far the headline measure has come from chance (0) to a perfect value (1), None if unknown.
    """

    taken: Sequence[StepTaken]
    losses: Sequence[float]
    found: Mapping[str, float] | None
    learnt: float | None = None


@dataclass(frozen=True)
class Untrained:
    """The evaluation of the untrained net, and facts of its training.

    `steps` are those of a whole training, `epoch` those of an epoch; `is_adaptive` is said of the optimizer.
    """

    found: Mapping[str, float]
    steps: int
    epoch: int
    is_adaptive: bool


class Trainer(Protocol):
    """Takes short trainings by the trial's policy, in our own loop or in a user's function."""

    @property
    def measures(self) -> Sequence[Measure]:
        """What an evaluation records; rates are compared by the last one."""
        ...

    def untrained(self) -> Untrained:
        """What is known before the first short training."""
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
    asked_for = state["asked_for"] if state else _asked_for(config, tested, judged, trainer.untrained())
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
        "warnings": ambiguous(found),
    }


def _asked_for(config: Config, tested: Mapping[str, Any], judged: Measure, untrained: Untrained) -> State:
    """The arguments of the search, as a checkpoint keeps them."""
    rates, length = tested["metrics"], untrained.steps
    policy = nodes.policy(config, 1.0, untrained.epoch, length)
    return {
        "start": [rates[f"suggestion/max_lr{end}"] for end in ("", "_low", "_high")],
        "steps": length,
        "budget": schema.probe_steps(config, length),
        "untrained": score_of(judged, untrained.found),
        "doubts": list(tested["verdict"]["doubts"]),
        "near_peak": near_peak(policy),
        "adaptive": untrained.is_adaptive,
        "epoch": untrained.epoch,
        "ramp": config["range_test"]["steps"],
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

    def untrained(self) -> Untrained:
        """See Trainer."""
        learner = self.make_learner(probes.SEED)
        steps = self.config["epochs"] * self.steps_per_epoch
        return Untrained(self._evaluate(learner), steps, self.steps_per_epoch, is_adaptive(learner.optimizer))

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
