"""What a worker executes: a trial's folder, brought to its result and drawn; and the worker's loop around it."""

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from onecycle_sweeps import journal, terminal, trial
from onecycle_sweeps.launching.queue import NOT_AN_END
from onecycle_sweeps.launching.worker import LEFT, READY
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.trial.build import keep_freed_memory, lost_gpu
from onecycle_sweeps.trial_folder import CANCELLED, Busy, Superseded, TrialFolder

log = logging.getLogger("onecycle_sweeps")
BUSY, STOPPED, SUPERSEDED, FAILED = "busy", "stopped", "superseded", "failed"
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """How one execution of a trial ended: its result's status, or failed, cancelled, stopped, superseded, or busy."""

    status: str
    cause: str | None = None


def execute(folder: TrialFolder, stopped: Callable[[], bool], place: Mapping[str, str] | None = None) -> Outcome:
    """Run a trial and draw its pictures; whatever happens to it is in the outcome.

    A trial that is cancelled does not begin, and leaves a moment after it was cancelled.
    """
    if folder.is_cancelled():
        return Outcome(CANCELLED)
    keep_freed_memory()
    run = _as_hydra_runs_it if folder.needs_hydra else _run
    outcome = run(folder, _or_cancelled(folder, stopped), place)
    if outcome.status in (STOPPED, BUSY) and folder.is_cancelled():
        return Outcome(CANCELLED)
    if outcome.status not in (BUSY, STOPPED, SUPERSEDED):
        _draw(folder)
    return outcome


def _or_cancelled(folder: TrialFolder, stopped: Callable[[], bool]) -> Callable[[], bool]:
    """The same question, and from time to time whether the trial was cancelled."""
    looked = time.monotonic()

    def asked() -> bool:
        nonlocal looked
        if stopped():
            return True
        if time.monotonic() - looked < LOOK_SECONDS:
            return False
        looked = time.monotonic()
        return folder.is_cancelled()

    return asked


class _Unfinished(BaseException):
    """The trial has not come to its end: another attempt will be the same job."""


def _as_hydra_runs_it(folder: TrialFolder, stopped: Callable[[], bool], place: Mapping[str, str] | None) -> Outcome:
    """Run a trial as Hydra's own launchers run a job: with its environment, in its output folder, between callbacks."""
    from onecycle_sweeps import hydra_job
    from onecycle_sweeps.launching.session import objective

    outcome = Outcome(BUSY, f"another process works on {folder.path}")
    if folder.is_locked():
        return outcome

    def task() -> float:
        nonlocal outcome
        outcome = _run(folder, stopped, place)
        if outcome.status == FAILED:
            raise trial.TrialFailed(outcome.cause)
        if outcome.status in NOT_AN_END:
            raise _Unfinished
        return objective(folder)

    try:
        hydra_job.run(folder.hydra(), folder.config(), (place or {}).get("slurm_job_id"), task)
    except _Unfinished:
        pass
    except Exception as error:
        log.exception("Hydra's part of the job failed")
        return Outcome(FAILED, in_one_line(error))
    return outcome


def _run(folder: TrialFolder, stopped: Callable[[], bool], place: Mapping[str, str] | None) -> Outcome:
    try:
        result = trial.run(folder, stopped, place)
        return Outcome(result["status"], result["cause"])
    except Busy as reason:
        return Outcome(BUSY, str(reason))
    except trial.Stopped as reason:
        return Outcome(STOPPED, str(reason))
    except Superseded as reason:
        return Outcome(SUPERSEDED, str(reason))
    except trial.TrialFailed as error:
        return Outcome(FAILED, str(error))
    except OSError as error:
        return Outcome(FAILED, in_one_line(error))


def _draw(folder: TrialFolder) -> None:
    """Draw what the trial recorded, also of one that failed; a picture that fails costs no result."""
    if journal.latest_block(folder.journal) is None:
        return
    try:
        # Pictures are drawn after a training: what that takes is not to be waited for before it.
        from onecycle_sweeps import report

        if folder.config()["task"] == "range_test":
            report.write_range_test_csv(folder)
            report.draw_range_test(folder)
        else:
            report.draw_trajectory(folder)
    except Exception:
        log.exception("the pictures of %s could not be drawn", folder.path)


def serve() -> None:
    """Execute the trials whose folders come on standard input, each a line of JSON; answer each by another.

    The end of standard input, as when the launching process dies, asks the trial at work to save and leave; so does
    SIGTERM, after which the exit status is LEFT.
    """
    answers = os.fdopen(os.dup(1), "w", 1, "utf-8")
    os.dup2(2, 1)
    terminal.replace_unencodable()
    stopping = threading.Event()
    orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    status = 0

    def leave() -> None:
        stopping.set()
        orders.put(None)

    def listen() -> None:
        for line in sys.stdin:
            orders.put(line.rstrip("\n"))
        leave()

    def terminate(*_: object) -> None:
        nonlocal status
        status = LEFT
        leave()

    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=listen, daemon=True).start()
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        print(READY, file=answers)
        while (order := orders.get()) is not None and not stopping.is_set():
            folder = TrialFolder(Path(json.loads(order)))
            _send_output_to(folder.log)
            outcome = execute(folder, stopping.is_set)
            print(json.dumps(asdict(outcome)), file=answers)
            if outcome.status == FAILED and lost_gpu():
                # Nothing works on it any more in this process, and another one takes the trials that wait.
                os._exit(LEFT)
    except BrokenPipeError:
        pass
    sys.exit(status)


def _send_output_to(path: Path) -> None:
    """Let what libraries print, and the last words of a crash, stand in the trial's log."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
