"""Drives a training: evaluates, records, saves, and says what came of it."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from onecycle_sweeps import checkpoint, files, journal
from onecycle_sweeps.batch_norm import norms, recalibrated
from onecycle_sweeps.config import nodes
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.policies import Policy
from onecycle_sweeps.scheduler import check_groups, used
from onecycle_sweeps.training import Learner, evaluate, steps
from onecycle_sweeps.trial import guards
from onecycle_sweeps.trial.recording import Recorder, Watch
from onecycle_sweeps.trial.resolve import Resolved
from onecycle_sweeps.trial_folder import TrialFolder

State = dict[str, Any]


class Stopped(Exception):
    """The attempt was asked to leave; what it had done is saved."""


@dataclass(frozen=True)
class Attempt:
    """One execution of a trial: where it writes, and when it is to leave."""

    trial: TrialFolder
    number: int
    book: Journal
    stopped: Callable[[], bool]
    place: Mapping[str, str] | None = None


def train(attempt: Attempt, config: Config, resolved: Resolved, learner: Learner, state: State | None) -> State:
    """Train to the end from a checkpoint's state or from the start; returns the trial's result.

    Raises Stopped after saving when the attempt is asked to leave, Superseded when a later attempt has begun.
    """
    policy = nodes.policy(config, resolved["max_lr"], resolved["steps_per_epoch"])
    check_groups(learner.optimizer, policy(0).momentum is not None)
    momentum = used(learner.optimizer).momentum
    watch = Watch(resolved["steps_per_epoch"], config["batch_size"])
    spent = 0.0
    if state:
        _restore(learner, state)
        watch, spent = Watch(**state["watch"]), state["seconds"]
    began = time.monotonic() - spent
    cause = _drive(attempt, config, learner, policy, watch, began)
    seconds = time.monotonic() - began
    attempt.trial.check_current(attempt.number)
    record = journal.read(attempt.trial.journal)
    metrics = _metrics(record, learner, watch.seen, seconds) if not cause else {"seconds": seconds}
    with as_evaluated(config, learner):
        if not cause and learner.data.test is not None:
            metrics["final/test_accuracy"] = evaluate(learner, learner.data.test).accuracy
        if config["save_model"]:
            attempt.trial.put("model.pt", checkpoint.packed(learner.model.state_dict()), attempt.number)
    count = len(record.series(journal.LR)[0]) if cause else policy.total_steps
    warnings = [*_notes(record), *learner.data.facts.doubts, *guards.off_plan(record, policy, momentum, count)]
    chance = guards.chance(learner.data.val)
    if not cause:
        warnings += guards.doubts(record, chance, bool(norms(learner)))
    return {
        "status": "diverged" if cause else "finished",
        "cause": cause,
        "metrics": metrics,
        "steps": watch.seen,
        "steps_per_epoch": resolved["steps_per_epoch"],
        "chance": chance,
        "warnings": warnings,
    }


def _drive(
    attempt: Attempt, config: Config, learner: Learner, policy: Policy, watch: Watch, began: float
) -> str | None:
    """Take every step that is left; returns why the training diverged, if it did."""
    recorder = Recorder(attempt.book)
    per_epoch = config["evaluations_per_epoch"]
    interval, saved = 60 * config["checkpoint_minutes"], time.monotonic()
    for step in steps(learner, policy, watch.seen):
        done = step.index + 1
        leaving = attempt.stopped()
        due = recorder.add(step)
        evaluating = journal.is_evaluation_point(done, watch.steps_per_epoch, per_epoch)
        saving = (leaving or time.monotonic() - saved >= interval) and done < policy.total_steps
        if not (due or saving or evaluating or done % watch.steps_per_epoch == 0):
            continue
        if cause := recorder.flush(watch):
            return cause
        if evaluating:
            with as_evaluated(config, learner):
                seen = evaluate(learner, learner.data.val)
            values = {journal.TRAIN_ACCURACY: watch.accuracy(), journal.VAL_LOSS: seen.loss}
            values[journal.VAL_ACCURACY] = seen.accuracy
            attempt.book.append(step.index, {name: [value] for name, value in values.items()})
        if saving:
            save(attempt, learner, watch, time.monotonic() - began)
            saved = time.monotonic()
        if saving and leaving:
            raise Stopped(f"saved at step {done} of {policy.total_steps}")
    return None


def as_evaluated(config: Config, learner: Learner) -> AbstractContextManager[None]:
    """Evaluate within it: the batch norms are recalibrated if the config asks for that."""
    return recalibrated(learner) if config.get("bn_recalibrate") else nullcontext()


def save(attempt: Attempt, learner: Learner, watch: Watch, seconds: float) -> None:
    """Make the journal and then a checkpoint at this step durable, unless a later attempt has begun."""
    learner.data.check()
    attempt.book.sync()
    state = {
        "step": watch.seen,
        "watch": asdict(watch),
        "seconds": seconds,
        "model": learner.model.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "random_python": random.getstate(),
        "random_numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "random_cuda": torch.cuda.get_rng_state(device) if (device := _device(learner)).type == "cuda" else None,
    }
    attempt.trial.put("checkpoint.pt", checkpoint.packed(files.with_format(state)), attempt.number)
    attempt.book.saved(watch.seen)


def _restore(learner: Learner, state: State) -> None:
    learner.model.load_state_dict(state["model"])
    learner.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"].cpu())
    random.setstate(state["random_python"])
    np.random.set_state(tuple(state["random_numpy"]))
    if state["random_cuda"] is not None:
        # The trial's own device alone: a machine may have others than the one that saved.
        torch.cuda.set_rng_state(state["random_cuda"].cpu(), _device(learner))


def _device(learner: Learner) -> torch.device:
    return learner.data.train.images.device


def complete(record: journal.Record, state: State, evaluations_per_epoch: int) -> bool:
    """Whether a record has all that a checkpoint's state counts on: each step before it, and each evaluation."""
    step = state["step"]
    due = journal.evaluation_points(step, state["watch"]["steps_per_epoch"], evaluations_per_epoch)
    return record.missing(step, due) is None


def _notes(record: journal.Record) -> list[str]:
    """What there is to know of how attempts went on that are part of the result."""
    begun = max((place for place, attempt in enumerate(record.attempts) if attempt.start == 0), default=0)
    return [note for attempt in record.attempts[begun + 1 :] for note in attempt.notes]


def _metrics(record: journal.Record, learner: Learner, count: int, seconds: float) -> dict[str, float]:
    accuracies = record.series(journal.VAL_ACCURACY)[1]
    return {
        "final/val_accuracy": accuracies[-1],
        "best/val_accuracy": max(accuracies),
        "seconds": seconds,
        "images_per_second": count * learner.batch_size / seconds,
    }
