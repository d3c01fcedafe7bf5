"""Executes trials and draws their pictures: one after the other in this process, or as ordered in a worker process."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from onecycle_sweeps import journal, memory, terminal, trial
from onecycle_sweeps.config.schema import UNPACKED, Packing
from onecycle_sweeps.launching.queue import BUSY, LEFT_STATUS, READY, SUPERSEDED, UNFINISHED, Event, Execution, Queue
from onecycle_sweeps.outcome import sweeper_value
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.trial.build import keep_freed_memory, lost_gpu
from onecycle_sweeps.trial_folder import CANCELLED, FAILED, RUNNING, STOPPED, Busy, Superseded, TrialFolder

log = logging.getLogger("onecycle_sweeps")
# How often to check whether a running trial was cancelled, and whether one in this process has ended.
CANCEL_CHECK_SECONDS, TICK_SECONDS = 1.0, 0.25


def execute(
    folder: TrialFolder,
    stopped: Callable[[], bool],
    place: Mapping[str, str] | None = None,
    packing: Packing = UNPACKED,
) -> Execution:
    """Run a trial and draw its pictures; an error in the trial is returned, not raised. `packing`: see `trial.run`.

    A trial that was cancelled does not begin; one that is cancelled while it runs stops within CANCEL_CHECK_SECONDS.
    """
    if folder.is_cancelled():
        return Execution(CANCELLED)
    keep_freed_memory()
    memory.collect_as_usual()
    run = partial(_run_within_hydra if folder.needs_hydra else _run, packing=packing)
    execution = run(folder, _stopped_or_cancelled(folder, stopped), place)
    if execution.status in (STOPPED, BUSY) and folder.is_cancelled():
        return Execution(CANCELLED)
    if execution.status not in UNFINISHED:
        _draw(folder)
    return execution


def execute_together(folders: Sequence[TrialFolder], stopped: Callable[[], bool], packing: Packing) -> list[Execution]:
    """Run trials as a pack where that is possible, and draw the pictures of each; see `trial.run_together`."""
    if len(folders) == 1:
        return [execute(folders[0], stopped, packing=packing)]
    keep_freed_memory()
    memory.collect_as_usual()
    todo = [folder for folder in folders if not folder.is_cancelled()]
    ended = dict.fromkeys((folder.signature for folder in folders), Execution(CANCELLED))
    reasons: list[str] = []
    outcomes = trial.run_together(todo, stopped, must_win=packing.must_win, refused=reasons.append)
    for folder, outcome in zip(todo, outcomes, strict=True):
        execution = replace(_ended(outcome), not_packed=None if packing.must_win else next(iter(reasons), None))
        if execution.status in (STOPPED, BUSY) and folder.is_cancelled():
            execution = Execution(CANCELLED)
        elif execution.status not in UNFINISHED:
            _draw(folder)
        ended[folder.signature] = execution
    return [ended[folder.signature] for folder in folders]


def run_here(sweep: Sweep, trials: Sequence[Entry]) -> Generator[Event]:
    """Execute the trials one after the other in a thread of this process, so that the main thread can show progress.

    Closing the generator makes the running trial save and stop.
    """
    # The threads that this one starts inherit it.
    keep_freed_memory()
    queue = Queue(sweep, trials)
    stopping = threading.Event()
    yield Event(places=1)
    while queue.waiting:
        yield from queue.fail_dependents()
        if not (entry := queue.next()):
            stopping.wait(TICK_SECONDS)
            continue
        yield Event(entry, RUNNING)
        with ThreadPoolExecutor(max_workers=1) as threads:
            execution = threads.submit(execute, sweep.trial(entry.signature), stopping.is_set)
            try:
                while wait([execution], TICK_SECONDS).not_done:
                    yield Event()
            except BaseException:
                stopping.set()
                raise
        if event := queue.record(entry, execution.result()):
            yield event


def serve(orders: Connection, answers: Connection) -> None:
    """Execute the trials whose folders arrive by `orders`, and answer each order with their Executions.

    When `orders` is closed, for instance because the launching process has died, the running trial saves and stops, and
    the process ends. SIGTERM does the same, with LEFT_STATUS as exit status.
    """
    terminal.replace_unencodable()
    stopping = threading.Event()
    asked: SimpleQueue[tuple[list[str], Packing] | None] = SimpleQueue()
    status = 0

    def leave() -> None:
        stopping.set()
        asked.put(None)

    def listen() -> None:
        with suppress(EOFError, OSError):
            while True:
                asked.put(orders.recv())
        leave()

    def terminate(*_: object) -> None:
        nonlocal status
        status = LEFT_STATUS
        leave()

    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=listen, daemon=True).start()
    log.setLevel(logging.INFO)
    log.propagate = False
    with suppress(BrokenPipeError):
        answers.send(READY)
        while (order := asked.get()) is not None and not stopping.is_set():
            paths, packing = order
            folders = [TrialFolder(Path(path)) for path in paths]
            terminal.redirect_output(folders[0].log)
            executions = execute_together(folders, stopping.is_set, packing)
            answers.send(executions)
            if any(execution.status == FAILED for execution in executions) and lost_gpu():
                # This process cannot use the GPU any more; another one will run the trials that wait.
                os._exit(LEFT_STATUS)
    sys.exit(status)


def _stopped_or_cancelled(folder: TrialFolder, stopped: Callable[[], bool]) -> Callable[[], bool]:
    """A function that says whether to stop: `stopped` does, or the trial was cancelled, which is a file on disk."""
    checked = time.monotonic()

    def has_to_stop() -> bool:
        nonlocal checked
        if stopped():
            return True
        if time.monotonic() - checked < CANCEL_CHECK_SECONDS:
            return False
        checked = time.monotonic()
        return folder.is_cancelled()

    return has_to_stop


class _Unfinished(BaseException):
    """The trial has not ended. Hydra must not count its job as failed, because another attempt will continue it."""


def _run_within_hydra(
    folder: TrialFolder, stopped: Callable[[], bool], place: Mapping[str, str] | None, packing: Packing
) -> Execution:
    """Run a trial as Hydra's launchers run a job: with its environment, output folder and callbacks."""
    from onecycle_sweeps import hydra_job

    execution = Execution(BUSY, f"another process works on {folder.path}")
    if folder.is_locked():
        return execution

    def task() -> float:
        nonlocal execution
        execution = _run(folder, stopped, place, packing)
        if execution.status == FAILED:
            raise trial.TrialFailed(execution.cause)
        if execution.status in UNFINISHED:
            raise _Unfinished
        return sweeper_value(folder)

    try:
        hydra_job.run(folder.hydra(), folder.config(), (place or {}).get("slurm_job_id"), task)
    except _Unfinished:
        pass
    except Exception as error:
        log.exception("Hydra's part of the job failed")
        return Execution(FAILED, in_one_line(error))
    return execution


def _run(
    folder: TrialFolder, stopped: Callable[[], bool], place: Mapping[str, str] | None, packing: Packing
) -> Execution:
    try:
        return _ended(trial.run(folder, stopped, place, packing))
    except (Busy, trial.Stopped, Superseded, trial.TrialFailed, OSError) as reason:
        return _ended(reason)


def _ended(outcome: Mapping[str, Any] | BaseException) -> Execution:
    """The Execution for a trial's result, or for the reason that it has none; any other exception is raised."""
    match outcome:
        case Mapping():
            return Execution(outcome["status"], outcome["cause"])
        case Busy():
            return Execution(BUSY, str(outcome))
        case trial.Stopped():
            return Execution(STOPPED, str(outcome))
        case Superseded():
            return Execution(SUPERSEDED, str(outcome))
        case trial.TrialFailed():
            return Execution(FAILED, str(outcome))
        case OSError():
            return Execution(FAILED, in_one_line(outcome))
    raise outcome


def _draw(folder: TrialFolder) -> None:
    """Draw what the trial recorded, even if it failed; an error in drawing does not fail the trial."""
    if journal.latest_block(folder.journal) is None:
        return
    try:
        # Imported late, so that the training does not wait for libraries that only its pictures need.
        from onecycle_sweeps import report

        if folder.config()["task"] == "range_test":
            report.write_range_test_csv(folder)
            report.draw_range_test(folder)
        else:
            report.draw_trajectory(folder)
    except Exception:
        log.exception("the pictures of %s could not be drawn", folder.path)
