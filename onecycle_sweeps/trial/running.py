"""Runs a trial in its folder: builds, resumes, trains, and records the result or why it failed."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from onecycle_sweeps import checkpoint, journal, provenance, torch_settings
from onecycle_sweeps.config import function_node, nodes, schema
from onecycle_sweeps.config.schema import UNPACKED, Config, Packing
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.provenance import Code
from onecycle_sweeps.terminal import in_one_line, with_traceback
from onecycle_sweeps.trial import build, function
from onecycle_sweeps.trial.probing import LoopTrainer, run_probe
from onecycle_sweeps.trial.range_testing import run_range_test
from onecycle_sweeps.trial.train import RunningAttempt, State, Stopped, Training, is_complete, train
from onecycle_sweeps.trial_folder import Busy, Superseded, TrialFolder, check_owner

log = logging.getLogger("onecycle_sweeps")
WAIT_SECONDS = 0.2
# How many attempts of other machines a file system's list may not show yet.
MOST_UNSEEN = 8
# How torch's error begins where a process that reads for a loader has died.
LOST_WORKER = "DataLoader worker"
# The folders of the trials whose logs get what is logged in this context.
_LOGGED: ContextVar[tuple[Path, ...]] = ContextVar("logged", default=())


class TrialFailed(Exception):
    """The trial failed; the message is its cause in one line."""


def run(
    trial: TrialFolder,
    stopped: Callable[[], bool] = lambda: False,
    place: Mapping[str, str] | None = None,
    packing: Packing = UNPACKED,
) -> dict[str, Any]:
    """The trial's result: the recorded one, or that of training from its checkpoint or from the start.

    `place`, where the attempt runs, is recorded with it; `packing` is for the seeds of a range test. Raises Busy while
    another process runs the trial, Stopped, after saving, once `stopped()` is true, Superseded when a later attempt has
    begun, and TrialFailed with the cause, which is also recorded in the folder. What the trial
    sets in torch ends with it.
    """
    with torch_settings.kept():
        return run_alone(running(trial, stopped, place, packing=packing))


def run_alone(training: Training) -> dict[str, Any]:
    """Run a training that takes its steps alone; returns its result."""
    taking = None
    while True:
        try:
            ready = training.send(taking)
        except StopIteration as end:
            return end.value
        taking = ready.alone() if ready else None


def running(
    trial: TrialFolder,
    stopped: Callable[[], bool] = lambda: False,
    place: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    packing: Packing = UNPACKED,
) -> Training:
    """Run a trial as `run` does, step by step: a training in our own loop yields as `train` does, others never."""
    with trial.lock(), _logging_to(trial):
        try:
            check_owner(trial.path / "config.yaml")
            config = trial.config()
            if reason := trial.unusable():
                raise reason
        except (PermissionError, Unreadable) as error:
            raise TrialFailed(str(error)) from error
        if (result := trial.result()) and trial.is_done(config):
            # It is still there if the attempt was killed right after it wrote its result.
            with suppress(OSError):
                trial.remove("checkpoint.pt")
            return result
        code = provenance.code_of_trial(config)
        provenance.forget_changed_modules(code)
        number = trial.attempts() + 1
        try:
            number, record = _next_attempt(trial, number)
            # From now on an earlier attempt that still runs cannot replace files.
            trial.remove_temporary()
            state, notes = _usable_checkpoint(trial, config, code)
            record.begin(start := state["step"] if state else 0, place, notes)
        except OSError as error:
            raise _failed(trial, number, error) from error
        log.info("trial %s, attempt %d, begins at step %d", trial.signature, number, start)
        trial.remove("failure.json")
        attempt = RunningAttempt(trial, number, record, stopped, place, clock, packing)
        return (yield from _conclude(attempt, config, code, state))


def _next_attempt(trial: TrialFolder, number: int) -> tuple[int, Journal]:
    """The journal of the next attempt and its number, which is at least `number`."""
    for later in range(MOST_UNSEEN):
        # A network file system may not list yet what another machine has written.
        with suppress(FileExistsError):
            return number + later, Journal(trial.journal, number + later)
    return number + MOST_UNSEEN, Journal(trial.journal, number + MOST_UNSEEN)


def _conclude(attempt: RunningAttempt, config: Config, code: Code, state: State | None) -> Training:
    trial, number, record = attempt.trial, attempt.number, attempt.journal
    try:
        with nodes.environment(config):
            driven = yield from _drive(attempt, config, code, state)
        result = driven | {"kind": config["task"], "attempt": number, "finished": time.time()}
        record.sync()
        trial.write("result", result, attempt=number)
    except (Stopped, Superseded) as reason:
        _note_end(attempt, reason)
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if attempt.stopped() and str(error).startswith(LOST_WORKER):
            # What stops a trial, such as a service that ends, may have sent its signal to each process.
            reason = Stopped(f"stopped with the processes of its loader, and goes on where it last saved: {error}")
            _note_end(attempt, reason)
            raise reason from error
        # Only the trial's own code raises the last two: Ctrl-C reaches only the launching process.
        raise _failed(trial, number, error, record) from error
    log.info("trial %s %s: %s", trial.signature, result["status"], result["cause"] or result["metrics"])
    for warning in result["warnings"]:
        log.warning("%s", warning)
    # The result is written, so that errors from here on, such as a full disk, do not fail the trial.
    for last in (
        lambda: record.saved(result["steps"]),
        lambda: trial.remove("checkpoint.pt"),
        lambda: record.end(result["status"], result["cause"]),
    ):
        try:
            last()
        except OSError as error:
            log.error("the result is written, but the checkpoint or the journal could not be closed: %s", error)
    return result


def _note_end(attempt: RunningAttempt, reason: Stopped | Superseded) -> None:
    log.info("attempt %d stops: %s", attempt.number, reason)
    with suppress(OSError):
        attempt.journal.end("stopped" if isinstance(reason, Stopped) else "superseded", str(reason))


def _drive(attempt: RunningAttempt, config: Config, code: Code, state: State | None) -> Training:
    trial, fixed = attempt.trial, attempt.trial.resolved() or {}
    resumed = bool(fixed) and state is not None
    rate = build.choose_max_lr(config, fixed, lambda: _needed(attempt, config)["metrics"]["suggestion/max_lr"])
    test = _needed(attempt, config) if config["task"] == schema.PROBE else {}
    if schema.LOOP in config:
        with build.reporting_out_of_memory(f"a training by {function_node.name(config)}"):
            return function.drive(attempt, config, code, rate, fixed, state if fixed else None, test)
    with build.reporting_out_of_memory(f"a training at batch_size={config['batch_size']}"):
        resolved, learner = build.begin(trial, config, rate, fixed, code, resumed=resumed)
        if not resumed:
            trial.write("resolved", resolved, attempt=attempt.number)
            if resolved["max_lr"] is not None:
                log.info("max_lr is %.4g, from %s", resolved["max_lr"], resolved["max_lr_from"])
        elif (here := resolved | provenance.as_record(code) | build.gpu(resolved["device"])) != resolved:
            resolved = here
            trial.write("resolved", resolved, attempt=attempt.number)
        data = learner.data
        if config["task"] == schema.PROBE:
            # Only one learner at a time uses the device's memory.
            measured, learner = learner.objective.measures, None
            made = partial(build.make_learner, config, resolved, data)
            trainer = LoopTrainer(attempt, config, resolved["steps_per_epoch"], measured, made)
            found = run_probe(attempt, config, test, trainer, state)
            result = found | {"steps_per_epoch": resolved["steps_per_epoch"]}
        elif config["task"] == schema.RANGE_TEST:
            # Unless they are packed, only one learner at a time uses the device's memory.
            built, learner = [learner], None
            others = (partial(build.make_learner, config, resolved, data, seed) for seed in build.seeds(config)[1:])
            result = run_range_test(attempt, config, resolved, data, [built.pop, *others])
        else:
            result = yield from train(attempt, config, resolved, learner, state)
    data.check()
    return result


def _needed(attempt: RunningAttempt, config: Config) -> dict[str, Any]:
    """The result of the probe or range test that the trial needs, which is run here if it has none."""
    word, signature = schema.rate_from(config)
    assert signature
    needed = attempt.trial.sibling(signature)
    while True:
        try:
            return run(needed, attempt.stopped, attempt.place)
        except Busy:
            if attempt.stopped():
                raise Stopped(f"another process runs the {word}") from None
            time.sleep(WAIT_SECONDS)
        except TrialFailed as error:
            raise ValueError(f"{word} {signature}: {error}") from error


def _usable_checkpoint(trial: TrialFolder, config: Config, code: Code) -> tuple[State | None, list[str]]:
    """The state to continue from, or None to start from step 0, and notes for the user on what has changed."""
    try:
        state = checkpoint.load(trial.checkpoint)
    except checkpoint.Corrupt as error:
        return None, [_warned(f"{error}: the trial starts again from step 0")]
    record = journal.read(trial.journal)
    if record.torn:
        log.warning("%d lines of the journal in %s are incomplete and left out", record.torn, trial.journal)
    if state is None:
        steps = max((block.end for block in record.blocks), default=0)
        if schema.LOOP in config and config["task"] == schema.TRAIN and steps:
            lost = f"{steps} steps of an earlier attempt are lost, since {function_node.nothing_saved(config)}"
            return None, [_warned(f"{lost}: the trial starts again from step 0")]
        return None, []
    step, again = state["step"], "the trial starts again from step 0"
    if "divergence" not in state and config["task"] != schema.PROBE:
        return None, [_warned(f"{trial.checkpoint} was saved by an earlier version of the program: {again}")]
    if not is_complete(record, state, config["evaluations_per_epoch"]):
        return None, [_warned(f"the journal lacks values before step {step}: {again}")]
    if (resolved := trial.resolved()) is None:
        return None, [_warned(f"resolved.json, with the code of the steps before {step}, is missing: {again}")]
    change = provenance.change(resolved, provenance.as_record(code))
    if change.code:
        return None, [_warned(f"{', '.join(change.code)} changed after step {step} was reached: {again}")]
    if change.versions:
        return state, [_warned(f"{', '.join(change.versions)}: the trial continues from step {step} nevertheless")]
    return state, []


def _warned(line: str) -> str:
    log.warning("%s", line)
    return line


def _failed(trial: TrialFolder, number: int, error: BaseException, record: Journal | None = None) -> Exception:
    """The failure of an attempt, recorded in the folder and the journal if they can be written."""
    log.error("attempt %d failed", number, exc_info=error)
    cause, superseded = in_one_line(error), None
    if lost := build.lost_gpu():
        cause = f"the GPU is lost ({lost}): {cause}"
    failure = {"cause": cause, "attempt": number, "time": time.time(), "traceback": with_traceback(error)}
    for note in (
        lambda: trial.write("failure", failure, attempt=number),
        lambda: record and record.end("failed", cause),
    ):
        try:
            note()
        except OSError as reason:
            log.error("the failure could not be recorded: %s", reason)
        except Superseded as reason:
            superseded = reason
    return superseded or TrialFailed(cause)


@contextmanager
def _logging_to(trial: TrialFolder) -> Iterator[None]:
    handler = logging.FileHandler(trial.log, delay=True, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # The trials of a pack take turns in one thread, each in its own context.
    handler.addFilter(lambda _: trial.path in _LOGGED.get())
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    before = _LOGGED.set((*_LOGGED.get(), trial.path))
    try:
        yield
    finally:
        _LOGGED.reset(before)
        log.removeHandler(handler)
        # A full disk must not hide how the trial ended.
        with suppress(OSError):
            handler.close()
