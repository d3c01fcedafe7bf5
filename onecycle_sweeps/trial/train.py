"""Trains a trial: takes its steps, evaluates, records and saves them, and returns the result."""

import logging
import math
import random
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from onecycle_sweeps import checkpoint, files, held_generators, journal
from onecycle_sweeps.config import nodes
from onecycle_sweeps.config.schema import UNPACKED, Config, Packing
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.loop import Learner, StepTaken, Totals, batch_norms, evaluate, evaluated, steps
from onecycle_sweeps.measures import LOSS, recorded
from onecycle_sweeps.policies import Policy
from onecycle_sweeps.scheduler import check_groups, used
from onecycle_sweeps.trial import guards
from onecycle_sweeps.trial.build import Resolved
from onecycle_sweeps.trial.system_metrics import SystemMetrics
from onecycle_sweeps.trial_folder import TrialFolder

log = logging.getLogger("onecycle_sweeps")
State = dict[str, Any]
# A block of steps is written to the journal at this age or length; until then its losses stay on the device.
BLOCK_SECONDS = 1.0
BLOCK_STEPS = 1000
# An epoch has diverged if its mean loss, and the losses of half of its steps, are above this many times the untrained
# net's loss.
DIVERGED_FACTOR = 3.0


class Stopped(Exception):
    """The attempt was stopped, and its progress is saved."""


@dataclass(frozen=True)
class RunningAttempt:
    """One execution of a trial: where it writes, whether it must stop, and the clock by which it is saved.

    `packing` is for the seeds of a range test.
    """

    trial: TrialFolder
    number: int
    journal: Journal
    stopped: Callable[[], bool]
    place: Mapping[str, str] | None = None
    clock: Callable[[], float] = time.monotonic
    packing: Packing = UNPACKED


@dataclass
class DivergenceCheck:
    """Decides whether a training has diverged, from each loss in turn; its fields go into the checkpoint.

    The untrained net's loss is that of the first batch. Where a few samples have most of the loss, the first batch's
    loss may be far below the mean of an epoch, so half of an epoch's steps have to be above the limit as well:
    `epoch_above` counts them.
    """

    steps_per_epoch: int
    steps: int = 0
    untrained: float = math.nan
    epoch_total: float = 0.0
    epoch_above: int = 0
    bounded: bool = True

    def update(self, loss: float) -> str | None:
        """Why the training has diverged at this loss, None if it has not."""
        if not math.isfinite(loss):
            return f"the loss is {loss} at step {self.steps}"
        if self.steps == 0:
            self.untrained = loss
        # The rule is for losses that cannot be negative; after a negative one it no longer applies.
        self.bounded = self.bounded and loss >= 0
        self.steps += 1
        self.epoch_total += loss
        limit = DIVERGED_FACTOR * self.untrained
        self.epoch_above += loss > limit
        if self.steps % self.steps_per_epoch:
            return None
        mean, above = self.epoch_total / self.steps_per_epoch, self.epoch_above
        self.epoch_total, self.epoch_above = 0.0, 0
        if self.bounded and mean > limit and 2 * above >= self.steps_per_epoch:
            epoch = self.steps // self.steps_per_epoch
            return f"the mean loss of epoch {epoch} is {mean:.4g}, above {DIVERGED_FACTOR:g}x the untrained net's"
        return None


@dataclass
class TrainingState:
    """The state of a training beside its net and its optimizer, which a checkpoint keeps too.

    `totals` are the sums of the train measures since the last evaluation.
    """

    divergence: DivergenceCheck
    totals: Totals
    seconds: float = 0.0


@dataclass(frozen=True)
class Taking:
    """The steps of a training, as they are taken: alone, or in a pack whose members have the signatures `packed`.

    `learner` and `totals` are those to use from here on.
    """

    learner: Learner
    stream: Generator[StepTaken, None, None]
    totals: Totals
    packed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ready:
    """A training that is ready to take its steps; `packed` are the members of the pack in which it began, if any."""

    learner: Learner
    policy: Policy
    totals: Totals
    start: int
    packed: tuple[str, ...] = ()

    def alone(self) -> Taking:
        """Its steps, taken alone."""
        return Taking(self.learner, steps(self.learner, self.policy, self.start), self.totals)


# A training yields when it is ready, is sent how its steps are taken, and yields again after each of them.
Training = Generator[Ready | None, Taking | None, State]


class Recorder:
    """Collects steps and writes them to the journal in blocks, with system metrics if the config asks for them.

    `device` is where the trial trains.
    """

    def __init__(self, to: Journal, config: Config, device: str) -> None:
        self._journal = to
        self._system = SystemMetrics(device) if config.get("tracking", {}).get("system_metrics") else None
        self._steps: list[StepTaken] = []
        self._began = time.monotonic()

    def add(self, step: StepTaken) -> bool:
        """Add a step; returns whether a block is due."""
        self._steps.append(step)
        return len(self._steps) >= BLOCK_STEPS or time.monotonic() - self._began >= BLOCK_SECONDS

    def flush(self, divergence: DivergenceCheck) -> str | None:
        """Write the collected steps, up to the one that diverged if any did; returns why it did."""
        if not self._steps:
            return None
        losses: list[float] = torch.stack([step.loss for step in self._steps]).tolist()
        count, cause = 0, None
        while cause is None and count < len(losses):
            cause = divergence.update(losses[count])
            count += 1
        self._journal.append(self._steps[0].index, columns(self._steps[:count], losses[:count]))
        if self._system and (found := self._system.measure()):
            self._journal.append(self._steps[count - 1].index, found)
        self._steps, self._began = [], time.monotonic()
        return cause


def columns(taken: list[StepTaken], losses: list[float]) -> dict[str, list[float]]:
    """The journal's columns for consecutive steps; an optimizer without momentum has no column of momenta."""
    momenta = [step.hyper.momentum for step in taken if step.hyper.momentum is not None]
    rates = {journal.LR: [step.hyper.lr for step in taken]}
    return rates | ({journal.MOMENTUM: momenta} if momenta else {}) | {journal.TRAIN_LOSS: losses}


def train(
    attempt: RunningAttempt, config: Config, resolved: Resolved, learner: Learner, state: State | None
) -> Training:
    """Train to the end from a checkpoint's state or from the start; returns the trial's result.

    Raises Stopped, after saving, when the attempt must stop, and Superseded when a later attempt has begun.
    """
    measured, data = learner.objective.measures, learner.data
    policy = nodes.policy(config, resolved["max_lr"], resolved["steps_per_epoch"])
    check_groups(learner.optimizer, policy(0).momentum is not None)
    momentum = used(learner.optimizer).momentum
    progress = TrainingState(DivergenceCheck(resolved["steps_per_epoch"]), Totals())
    if state:
        progress = restore(learner, state)
    packed = tuple(resolved.get("packed") or ())
    taking = yield Ready(learner, policy, progress.totals, progress.divergence.steps, packed)
    assert taking
    learner, progress.totals = taking.learner, taking.totals
    packed_until = resolved.get("packed_until")
    if taking.packed != packed:
        if packed and progress.divergence.steps:
            packed_until = progress.divergence.steps
        changed = {"packed": list(taking.packed), "packed_until": packed_until}
        attempt.trial.write("resolved", resolved | changed, attempt=attempt.number)
    notes = []
    if packed_until:
        notes = [f"its first {packed_until} steps were packed with other trials, the others were not"]
        log.warning("%s", notes[0])
    # Closed at once, because its batches may come from processes.
    with closing(taking.stream):
        cause = yield from _take_steps(attempt, config, taking, policy, progress)
    attempt.trial.check_current(attempt.number)
    record = journal.read(attempt.trial.journal)
    metrics = {"seconds": progress.seconds}
    if not cause:
        for measure in measured:
            values = record.series(measure.val)[1]
            metrics |= {measure.final_val: values[-1], measure.best_val: measure.best(values)}
        pace = progress.divergence.steps * data.batch_size / progress.seconds
        metrics |= {"samples_per_second": pace} | ({"images_per_second": pace} if data.unit == "images" else {})
    with evaluated(learner, recalibrate=config["bn_recalibrate"]) as shown:
        if not cause and "test" in data.sizes:
            found = evaluate(shown, "test")
            metrics |= {measure.final_test: found[measure.name] for measure in measured}
        if config["save_model"]:
            attempt.trial.put("model.pt", checkpoint.packed(shown.model.state_dict()), attempt.number)
    count = len(record.series(journal.LR)[0]) if cause else policy.total_steps
    warnings = [*notes, *notes_of(record), *data.warnings, *guards.off_plan(record, policy, momentum, count)]
    warnings += guards.cut_short(policy)
    chance = learner.objective.chance(data.targets("val"))
    if not cause:
        warnings += guards.doubts(
            record,
            measured[0],
            chance,
            bool(batch_norms(learner.model)),
            train_chance=lambda: learner.objective.chance(data.targets("train")),
            ema_decay=config.get("ema_decay"),
        )
    return {
        "status": "diverged" if cause else "finished",
        "cause": cause,
        "metrics": metrics,
        "steps": progress.divergence.steps,
        "steps_per_epoch": resolved["steps_per_epoch"],
        "chance": chance,
        "warnings": warnings,
    }


def _take_steps(
    attempt: RunningAttempt, config: Config, taking: Taking, policy: Policy, progress: TrainingState
) -> Generator[None, Any, str | None]:
    """Take the remaining steps; returns why the training diverged, if it did."""
    learner, check, totals = taking.learner, progress.divergence, progress.totals
    recorder = Recorder(attempt.journal, config, str(learner.data.device))
    interval, saved = 60 * config["checkpoint_minutes"], attempt.clock()
    began = time.monotonic() - progress.seconds
    cause = None
    for step in taking.stream:
        done = step.index + 1
        leaving = attempt.stopped()
        totals.add(step.sums)
        due = recorder.add(step)
        evaluating = journal.is_evaluation_point(done, check.steps_per_epoch, config["evaluations_per_epoch"])
        saving = (leaving or attempt.clock() - saved >= interval) and done < policy.total_steps
        if not (due or saving or evaluating or done % check.steps_per_epoch == 0):
            yield
            continue
        if cause := recorder.flush(check):
            break
        if evaluating:
            _evaluate(attempt, config, learner, step.index, totals)
        if saving:
            progress.seconds = time.monotonic() - began
            save(attempt, learner, progress)
            saved = attempt.clock()
        if saving and leaving:
            raise Stopped(f"saved at step {done} of {policy.total_steps}")
        yield
    progress.seconds = time.monotonic() - began
    return cause


def _evaluate(attempt: RunningAttempt, config: Config, learner: Learner, step: int, totals: Totals) -> None:
    """Evaluate after a step and record it with the train measures since the previous evaluation."""
    measured, trained = learner.objective.measures, learner.objective.values(totals.read())
    totals.clear()
    with evaluated(learner, recalibrate=config["bn_recalibrate"]) as shown:
        found = evaluate(shown, "val")
    # The loss of a training batch is recorded at each step.
    metrics = {one.train: [trained[one.name]] for one in measured if one != LOSS and one.name in trained}
    metrics |= {measure.val: [found[measure.name]] for measure in recorded(measured)}
    attempt.journal.append(step, metrics)


def save(attempt: RunningAttempt, learner: Learner, progress: TrainingState) -> None:
    """Make the journal and then a checkpoint at this step durable, unless a later attempt has begun."""
    learner.data.check()
    attempt.journal.sync()
    device, step = learner.data.device, progress.divergence.steps
    state = {
        "step": step,
        "divergence": asdict(progress.divergence),
        "totals": progress.totals.state(),
        "seconds": progress.seconds,
        "model": learner.model.state_dict(),
        "averaged": learner.averaged and learner.averaged.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        **generators(device),
        "of_learner": held_generators.states(_held(learner)),
    }
    attempt.trial.put("checkpoint.pt", checkpoint.packed(files.with_format(state)), attempt.number)
    attempt.journal.saved(step)


def generators(device: torch.device) -> State:
    """The states of all generators: torch's on the CPU and on the device, Python's and NumPy's."""
    return {
        "random": torch.get_rng_state(),
        "random_python": random.getstate(),
        "random_numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_generators(state: State, device: torch.device) -> None:
    """Bring all generators to the states that `generators` returned."""
    torch.set_rng_state(state["random"].cpu())
    random.setstate(state["random_python"])
    np.random.set_state(tuple(state["random_numpy"]))
    if state["random_cuda"] is not None:
        # Only the trial's device: this machine may have other GPUs than the one that saved.
        torch.cuda.set_rng_state(state["random_cuda"].cpu(), device)


def _held(learner: Learner) -> dict[str, Any]:
    """The generators of their own that net, optimizer and objective draw from."""
    return held_generators.of_net(learner.model, optimizer=learner.optimizer, objective=learner.objective)


def restore(learner: Learner, state: State) -> TrainingState:
    """Bring the learner and the generators to a checkpoint's state."""
    learner.model.load_state_dict(state["model"])
    learner.optimizer.load_state_dict(state["optimizer"])
    if (averaged := learner.averaged) is not None:
        # A net may name its tensors itself, which torch's load_state_dict of the outer module would ignore.
        kept = dict(state["averaged"])
        averaged.n_averaged.copy_(kept.pop("n_averaged"))
        averaged.module.load_state_dict({name.removeprefix("module."): value for name, value in kept.items()})
    set_generators(state, learner.data.device)
    held_generators.set_states(_held(learner), state.get("of_learner", {}))
    sums = {
        name: value.to(learner.data.device) if isinstance(value, torch.Tensor) else value
        for name, value in state["totals"].items()
    }
    return TrainingState(DivergenceCheck(**state["divergence"]), Totals(sums), state["seconds"])


def is_complete(record: journal.Record, state: State, evaluations_per_epoch: int) -> bool:
    """Whether a record has all steps and evaluations before a checkpoint's state."""
    step = state["step"]
    if "divergence" not in state:
        # A probe's trainings are evaluated at their ends only, and the checkpoint has these evaluations.
        return record.missing(step, set()) is None
    due = journal.evaluation_points(step, state["divergence"]["steps_per_epoch"], evaluations_per_epoch)
    return record.missing(step, due) is None


def notes_of(record: journal.Record) -> list[str]:
    """The notes of the attempts that are part of the result, about how they were resumed."""
    begun = max((place for place, attempt in enumerate(record.attempts) if attempt.start == 0), default=0)
    return [note for attempt in record.attempts[begun + 1 :] for note in attempt.notes]
