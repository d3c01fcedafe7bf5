"""Runs a user's own training function as a trial: it is called with a `Run`, which records and saves what it does.

The function has the loop. Its `Run` passes each step on to a course (`TrainingCourse`, `RangeTestCourse` or
`ProbeCourse`), which records the step, and decides when to evaluate, to save and to stop.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from onecycle_sweeps import checkpoint, files, journal, measures, provenance, range_test, seeding, torch_settings
from onecycle_sweeps.config import function_node, nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.loop import StepTaken
from onecycle_sweeps.measures import LOSS, VAL, Measure
from onecycle_sweeps.policies import Compressed, Policy, check_policy
from onecycle_sweeps.provenance import Code
from onecycle_sweeps.range_test import Descent, probes
from onecycle_sweeps.range_test.probes import Probe
from onecycle_sweeps.scheduler import check_groups, is_adaptive, used
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.trial import build, guards
from onecycle_sweeps.trial.build import Resolved
from onecycle_sweeps.trial.optimizer import make_optimizer
from onecycle_sweeps.trial.probing import INTERRUPTED, Trained, Untrained, run_probe
from onecycle_sweeps.trial.range_testing import ramp_evaluations, ramp_of, range_test_result, record_seed
from onecycle_sweeps.trial.train import (
    DivergenceCheck,
    Recorder,
    RunningAttempt,
    State,
    Stopped,
    notes_of,
)
from onecycle_sweeps.trial.users_run import Run

log = logging.getLogger("onecycle_sweeps")
# A rate at which a step changes no weight.
SMALLEST_RATE = 1e-30


def drive(
    attempt: RunningAttempt,
    config: Config,
    code: Code,
    rate: tuple[float | None, str | None],
    fixed: Resolved,
    state: State | None,
    tested: Mapping[str, Any],
) -> dict[str, Any]:
    """Call the function to the end from a checkpoint's state or from the start; returns the trial's result.

    Settings that an earlier attempt `fixed` are kept; a probe starts from `tested`, the result of its range test.
    Raises ValueError, in one line, for what cannot be a trial, Stopped when the attempt must stop, and what the
    function raises.
    """
    device, threads = build.choose_device(config, fixed), build.choose_threads(config, fixed)
    build.check_files(attempt.trial, config)
    build.prepare_torch(config, device, threads)
    resolved = {
        "max_lr": rate[0],
        "max_lr_from": rate[1],
        "device": device,
        "threads": threads,
        **build.gpu(device),
        "measures": measures.as_records([function_node.measure(config)]),
        **provenance.as_record(code),
    }
    if config["task"] == schema.RANGE_TEST:
        result = _run_range_test(attempt, config, resolved)
    elif config["task"] == schema.PROBE:
        trainer = FunctionTrainer(attempt, config, resolved | (fixed if state else {}))
        result = run_probe(attempt, config, tested, trainer, state)
        result["steps_per_epoch"] = trainer.resolved["steps_per_epoch"]
    else:
        result = _train(attempt, config, resolved, fixed, state)
    build.check_files(attempt.trial, config)
    return result


class TrainingCourse:
    """A training's course: its steps go to the journal, its state to the checkpoint."""

    def __init__(
        self, attempt: RunningAttempt, config: Config, resolved: Resolved, fixed: Resolved, state: State | None
    ) -> None:
        self.attempt, self.config, self.resolved, self.fixed = attempt, config, resolved, fixed
        self.state: State | None = state and state["run"]
        self.check = DivergenceCheck(**state["divergence"]) if state else DivergenceCheck(1)
        self.start = self.check.steps
        self.cause: str | None = None
        self.policy: Policy | None = None
        self._before = state["seconds"] if state else 0.0
        self._recorder = Recorder(attempt.journal, config, resolved["device"])
        self._began = self._saved = self._seen = time.monotonic()
        self._saved_step: int | None = None

    @property
    def seconds(self) -> float:
        """The seconds of training up to the last step or evaluation, of all attempts."""
        return self._before + self._seen - self._began

    def begin(self, optimizer: Any, steps_per_epoch: int, total_steps: int) -> Policy:
        """See Course; what the first attempt resolves is written here, where the number of steps is known."""
        policy = nodes.policy(self.config, self.resolved["max_lr"], steps_per_epoch, total_steps)
        check_policy(f"policy._target_={self.config['policy']['_target_']}", policy, total_steps)
        check_groups(optimizer, policy(0).momentum is not None)
        known = {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps}
        if self.start and (before := {key: self.fixed[key] for key in known}) != known:
            raise ValueError(
                f"the trial began with {before['total_steps']} steps, {before['steps_per_epoch']} an epoch, and has "
                f"{total_steps}, {steps_per_epoch} an epoch, in this attempt: rerun=true starts it again"
            )
        momentum = self.fixed["momentum"] if self.start else used(optimizer).momentum
        self.resolved |= {**known, "momentum": momentum}
        self.attempt.trial.write("resolved", self.resolved, attempt=self.attempt.number)
        log.info("max_lr is %.4g, from %s", self.resolved["max_lr"], self.resolved["max_lr_from"])
        self.check.steps_per_epoch, self.policy = steps_per_epoch, policy
        self._began = self._saved = self._seen = time.monotonic()
        return policy

    def is_due(self, done: int, loss: Tensor | None) -> bool:
        """See Course: after each part of an epoch, and after the last step."""
        return self.must_evaluate(done)

    def must_evaluate(self, done: int) -> bool:
        """See Course."""
        per_epoch = self.config["evaluations_per_epoch"]
        due = journal.is_evaluation_point(done, self.check.steps_per_epoch, per_epoch)
        return due or done == self.resolved["total_steps"]

    def take(self, step: StepTaken, found: Mapping[str, float] | None, state: Callable[[], State] | None) -> bool:
        """See Course."""
        done, total, self._seen = step.index + 1, self.resolved["total_steps"], time.monotonic()
        leaving = self.attempt.stopped() and done < total
        due = self._recorder.add(step)
        timely = leaving or time.monotonic() - self._saved >= 60 * self.config["checkpoint_minutes"]
        saving = state is not None and timely and done < total
        at_end_of_epoch = done % self.check.steps_per_epoch == 0 or done == total
        if due or found or saving or leaving or at_end_of_epoch:
            self.cause = self._recorder.flush(self.check)
        if self.cause:
            return True
        if found:
            self.evaluate(step.index, found)
        if state and saving:
            self._save(done, state())
        if leaving:
            where = f"step {done} of {total}"
            if self._saved_step is None:
                why = function_node.nothing_saved(self.config)
                raise Stopped(f"stopped at {where}, and {why}: the trial will start again")
            raise Stopped(f"saved at step {self._saved_step}, stopped at {where}")
        return False

    def evaluate(self, step: int, found: Mapping[str, float]) -> None:
        """See Course."""
        self._seen = time.monotonic()
        self.attempt.journal.append(step, {f"{VAL}{name}": [value] for name, value in found.items()})

    def has_diverged(self) -> bool:
        """See Course."""
        self.cause = self.cause or self._recorder.flush(self.check)
        return self.cause is not None

    def _save(self, done: int, state: State) -> None:
        build.check_files(self.attempt.trial, self.config)
        self.attempt.journal.sync()
        kept = {"step": done, "divergence": asdict(self.check), "seconds": self.seconds, "run": state}
        self.attempt.trial.put("checkpoint.pt", checkpoint.packed(files.with_format(kept)), self.attempt.number)
        self.attempt.journal.saved(done)
        self._saved, self._saved_step = time.monotonic(), done


class RangeTestCourse:
    """A range test's course for one seed: its steps are kept until its end, which divergence brings about."""

    start, state = 0, None

    def __init__(self, attempt: RunningAttempt, config: Config, began: Callable[[Any, int], None]) -> None:
        self.attempt, self.ramp, self._began = attempt, ramp_of(config), began
        self.points = ramp_evaluations(config)
        self.taken: list[StepTaken] = []
        self.losses: list[float] = []
        self.evaluations: dict[int, Mapping[str, float]] = {}
        self._descent = Descent()

    def begin(self, optimizer: Any, steps_per_epoch: int, total_steps: int) -> Policy:
        """See Course: the ramp has its own number of steps."""
        del total_steps
        check_groups(optimizer)
        self._began(optimizer, steps_per_epoch)
        return self.ramp

    def is_due(self, done: int, loss: Tensor | None) -> bool:
        """See Course: at the points of a linear ramp, and after the last step."""
        ends = loss is not None and self._descent.after(loss).diverged
        return self.must_evaluate(done) or ends or done == self.ramp.total_steps

    def must_evaluate(self, done: int) -> bool:
        """See Course."""
        return done - 1 in self.points

    def take(self, step: StepTaken, found: Mapping[str, float] | None, state: Callable[[], State] | None) -> bool:
        """See Course: nothing is saved, since a range test that was stopped starts again."""
        del state
        self.taken.append(step)
        self.losses.append(float(step.loss))
        self._descent = self._descent.after(self.losses[-1])
        if found:
            self.evaluate(step.index, found)
        if self.attempt.stopped():
            raise Stopped("a resumed range test starts again")
        return self._descent.diverged

    def has_diverged(self) -> bool:
        """See Course."""
        return self._descent.diverged

    def evaluate(self, step: int, found: Mapping[str, float]) -> None:
        """See Course."""
        if step in self.points:
            self.evaluations[step] = found


class ProbeCourse:
    """A short training's course, for a probe."""

    start, state = 0, None

    def __init__(
        self, attempt: RunningAttempt, config: Config, probe: Probe, began: Callable[[Any, int, int], None]
    ) -> None:
        self.attempt, self.config, self.probe, self._began = attempt, config, probe, began
        self.taken: list[StepTaken] = []
        self.losses: list[float] = []
        self.found: Mapping[str, float] | None = None

    def begin(self, optimizer: Any, steps_per_epoch: int, total_steps: int) -> Policy:
        """See Course: the whole training's policy in fewer steps."""
        policy = nodes.policy(self.config, self.probe.rate, steps_per_epoch, total_steps)
        check_groups(optimizer, policy(0).momentum is not None)
        self._began(optimizer, steps_per_epoch, total_steps)
        return Compressed(policy, min(self.probe.steps, total_steps))

    def is_due(self, done: int, loss: Tensor | None) -> bool:
        """See Course: after the last step."""
        return self.must_evaluate(done)

    def must_evaluate(self, done: int) -> bool:
        """See Course."""
        return done == self.probe.steps

    def take(self, step: StepTaken, found: Mapping[str, float] | None, state: Callable[[], State] | None) -> bool:
        """See Course: a training that was not at its end is taken again."""
        del state
        self.taken.append(step)
        self.losses.append(float(step.loss))
        self.found = found or self.found
        if self.attempt.stopped():
            raise Stopped(INTERRUPTED)
        return self.has_diverged()

    def has_diverged(self) -> bool:
        """See Course."""
        return bool(self.losses) and not math.isfinite(self.losses[-1])

    def evaluate(self, step: int, found: Mapping[str, float]) -> None:
        """See Course."""
        if step + 1 == self.probe.steps:
            self.found = found


@dataclass
class FunctionTrainer:
    """Takes the short trainings of a probe by calling the function, which compares rates by its headline measure."""

    attempt: RunningAttempt
    config: Config
    resolved: Resolved
    whole: int = 0
    is_adaptive: bool = False

    @property
    def measures(self) -> Sequence[Measure]:
        """See Trainer."""
        return (function_node.measure(self.config),)

    def untrained(self) -> Untrained:
        """See Trainer: a function evaluates only after a step, so that takes one at a rate that changes nothing."""
        course = self.train(Probe(SMALLEST_RATE, 1, probes.SEED))
        if course.found is None:
            raise ValueError(f"the loss of the first step is {course.losses[-1]}")
        return Untrained(course.found, self.whole, self.resolved["steps_per_epoch"], self.is_adaptive)

    def train(self, probe: Probe) -> Trained:
        """See Trainer."""
        course = ProbeCourse(self.attempt, self.config, probe, self._begin)
        _call(self.attempt, self.config, self.resolved, course, probe.seed)
        return Trained(course.taken, course.losses, None if course.has_diverged() else course.found)

    def _begin(self, optimizer: Any, steps_per_epoch: int, total_steps: int) -> None:
        self.whole, self.is_adaptive = total_steps, is_adaptive(optimizer)
        planned = schema.planned_steps(self.config, total_steps)
        self.resolved |= {"steps_per_epoch": steps_per_epoch, "total_steps": planned}
        self.resolved["momentum"] = used(optimizer).momentum
        self.attempt.trial.write("resolved", self.resolved, attempt=self.attempt.number)


def _train(
    attempt: RunningAttempt, config: Config, resolved: Resolved, fixed: Resolved, state: State | None
) -> dict[str, Any]:
    course, headline = TrainingCourse(attempt, config, resolved, fixed, state), function_node.measure(config)
    run, warnings = _call(attempt, config, resolved, course, config["seed"])
    attempt.trial.check_current(attempt.number)
    record = journal.read(attempt.trial.journal)
    metrics = {"seconds": course.seconds}
    if not course.cause:
        metrics |= _final(record, headline)
    assert course.policy
    count = len(record.series(journal.LR)[0]) if course.cause else course.policy.total_steps
    warnings = [*notes_of(record), *warnings, *guards.off_plan(record, course.policy, resolved["momentum"], count)]
    warnings += [*guards.cut_short(course.policy), *run.loader_warnings]
    if skipped := int(run.skipped):
        warnings.append(f"a GradScaler skipped {skipped} of {count} updates")
    if run.partly_logged:
        warnings.append(
            f"in {run.partly_logged} of {count} steps run.log was not called for every batch, so the recorded loss is "
            "the mean over the others only: call it once for each batch"
        )
    if run.evaluated_early:
        warnings.append(
            f"run.evaluated was called {run.evaluated_early} times before the update of its step, so its values are "
            "those of the net before that step: evaluate after optimizer.step()"
        )
    if run.others:
        found = "; ".join(f"{what}, in {steps} of {count} steps" for what, steps in run.others.items())
        warnings.append(
            f"optimizers other than that of run.steps took updates ({found}), at rates that do not follow the policy: "
            "unless that is meant, as for a second net, make their parameters param groups of the one optimizer"
        )
    if run.outdated:
        warnings.append(
            f"{', '.join(sorted(run.outdated))} changed after run.checkpoint in the same turn, so a resume begins with "
            "an earlier value: call run.checkpoint after the change, or give it an object with a state_dict"
        )
    if run.asked_epochs not in (None, config["epochs"]):
        warnings.append(f"epochs={config['epochs']} was asked for, but the function trained {run.asked_epochs}")
    elif not run.knows_epochs and config["epochs"] != schema.DEFAULT_EPOCHS:
        warnings.append(
            f"epochs={config['epochs']} does not change how long {function_node.name(config)} trains, which does not "
            f"read run.epochs: it has {run.total_steps} steps of its own"
        )
    return {
        "status": "diverged" if course.cause else "finished",
        "cause": course.cause,
        "metrics": metrics,
        "steps": course.check.steps,
        "steps_per_epoch": resolved["steps_per_epoch"],
        "chance": None,
        "warnings": warnings,
    }


def _final(record: journal.Record, headline: Measure) -> dict[str, float]:
    """The last value of each measure that was recorded, and the best one of the headline."""
    names = {name for block in record.blocks for name in block.metrics if measures.is_of_val(name)}
    found = {name: record.series(name)[1] for name in sorted(names)}
    others = (Measure(name.removeprefix(VAL), "max") for name in found if name != LOSS.val)
    last = {measure.final_val: found[measure.val][-1] for measure in (*others, headline)}
    return last | {headline.best_val: headline.best(found[headline.val])}


def _run_range_test(attempt: RunningAttempt, config: Config, resolved: Resolved) -> dict[str, Any]:
    began, tests, warnings = time.monotonic(), list[range_test.OneSeed](), list[str]()

    def note_begin(optimizer: Any, steps_per_epoch: int) -> None:
        total = schema.planned_steps(config)
        resolved.update(steps_per_epoch=steps_per_epoch, total_steps=total, momentum=used(optimizer).momentum)
        attempt.trial.write("resolved", resolved, attempt=attempt.number)

    for seed in build.seeds(config):
        course = RangeTestCourse(attempt, config, note_begin)
        _, warnings = _call(attempt, config, resolved, course, seed)
        measured = [function_node.measure(config)]
        offset = sum(len(test.lrs) for test in tests)
        tests.append(record_seed(attempt, measured, offset, course.taken, course.losses, course.evaluations))
    return range_test_result(config, resolved, tests, time.monotonic() - began, warnings)


def _call(
    attempt: RunningAttempt,
    config: Config,
    resolved: Resolved,
    course: TrainingCourse | RangeTestCourse | ProbeCourse,
    seed: int,
) -> tuple[Run, list[str]]:
    """Call the function once; returns its run when it has taken all its steps, and warnings about its data."""
    seeding.seed_all(seed)
    function = function_node.bound(config)
    given, data = _by_name(attempt, config, resolved, seed)
    shown = {key: value for key, value in schema.what_counts(config).items() if key != "needs"}
    run = Run(
        function_node.name(config),
        course,
        function_node.measure(config),
        seed=seed,
        device=torch.device(resolved["device"]),
        epochs=config.get("epochs", 1),
        config=deepcopy(shown),
        folder=attempt.trial.path,
    )
    # The process may run other trials, which must not get the settings of this function.
    with run.watched(), torch_settings.kept():
        try:
            function(run, **given)
        except Exception as error:
            if run.raised is not None and run.raised is not error:
                raise run.raised from error
            # After a divergence a function may fail over weights that are not finite.
            diverged = not isinstance(course, RangeTestCourse) and course.has_diverged()
            if run.raised is error or not diverged:
                if isinstance(error, StopIteration):
                    # Generators run the trial, and let none pass.
                    raise RuntimeError(in_one_line(error)) from error
                raise
            log.warning("%s failed after its training had diverged: %s", function_node.name(config), in_one_line(error))
    run.finish()
    if data is not None:
        data.check()
    return run, [] if data is None else list(data.warnings)


def _by_name(attempt: RunningAttempt, config: Config, resolved: Resolved, seed: int) -> tuple[dict[str, Any], Any]:
    """What reaches the function by the names of its parameters, and the data if it is among them.

    `data` is batches on the device, `model` and `objective` are built, and may have facts of the data as parameters;
    `optimizer` is a function that makes the optimizer for a model.
    """
    given: dict[str, Any] = {key: config[key] for key in function_node.given(config)}
    offered, data = {}, None
    facts = build.read_facts(attempt.trial, config) if "data" in given else None
    if facts is not None:
        offered = build.offered_by(config, facts)
    if "model" in given:
        net = build.make_net(config, offered, seed)
        resolved = resolved | {"normalisation": getattr(net, "normalisation", None)}
        given["model"] = build.on_device(net, resolved["device"])
    if facts is not None:
        given["data"] = data = build.load_data(attempt.trial, config, facts, resolved)
    if "objective" in given:
        given["objective"] = build.make_objective(config, offered)
    if "optimizer" in given:
        given["optimizer"] = partial(make_optimizer, config["optimizer"])
    return given, data
