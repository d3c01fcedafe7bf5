"""Worker processes on this machine: forked from one server that has imported torch, each with a trial or a pack.

The server is multiprocessing's fork server, whose memory the workers share. A worker keeps its data between trials,
runs in a session that signals from the terminal do not reach, and saves and leaves when the launching process closes
its pipe or dies.
"""

import atexit
import importlib
import os
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import Pipe, connection, forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from onecycle_sweeps import machine, memory, terminal
from onecycle_sweeps.config.schema import TRAIN, UNPACKED, Packing
from onecycle_sweeps.launching.queue import LEFT_STATUS, READY, Event, Execution, Queue
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import RUNNING, STOPPED, TrialFolder

# Limit the threads of libraries, which read them when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PRELOADED = ["onecycle_sweeps.launching.preload"]
# The module whose function `serve` a worker runs.
WORK = "onecycle_sweeps.launching.execution"
CONTEXTS = {"forkserver": get_context("forkserver"), "spawn": get_context("spawn")}
TICK_SECONDS = 0.5
# How long workers may take to save before they are killed.
LEAVE_SECONDS = 60.0
# How long a process may live on after it has closed its pipe: unloading torch takes seconds.
END_SECONDS = 10.0
# How long torch may take to count GPUs: starting a driver takes seconds.
COUNT_SECONDS = 60.0
# The exit status that multiprocessing reports if the fork server died first. A process may also exit with it.
UNKNOWN_STATUS = 255
# The most trials of a pack with packed=auto.
MOST_PACKED = 32


class WorkerLost(Exception):
    """A worker process could not start; the message says why."""


@dataclass
class Worker:
    """A worker process: it runs its `entries`, one trial or one pack, with `environment` set, and prints into `log`."""

    environment: dict[str, str]
    log: Path
    entries: tuple[Entry, ...] = ()
    is_ready: bool = False
    process: BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process; raises WorkerLost."""
        self.entries, self.is_ready = (), False
        self._has_run = self._is_exclusive = self._was_killed = False
        self._closed_at: float | None = None
        orders, self._orders = Pipe(duplex=False)
        self._answers, answers = Pipe(duplex=False)
        try:
            with orders, answers:
                self.process = start_process("forkserver", WORK, self.environment, self.log, orders, answers)
        except OSError as error:
            raise WorkerLost(f"a worker process cannot be started: {error}") from error

    def is_free(self) -> bool:
        """Whether it can run a trial."""
        return not self.entries and not self._answers.closed and not self.has_ended()

    def give(self, entries: tuple[Entry, ...], trials: Sequence[TrialFolder], packing: Packing = UNPACKED) -> bool:
        """Let the worker run a trial or a pack; False if it has died.

        A trial for which Hydra sets an environment, logging or callbacks has a process to itself.
        """
        needs_hydra = any(trial.needs_hydra for trial in trials)
        if self._has_run and (self._is_exclusive or needs_hydra):
            self.leave()
            self.kill()
            self.start()
        self._has_run, self._is_exclusive = True, needs_hydra
        try:
            self._orders.send(([str(trial.path) for trial in trials], packing))
        except (BrokenPipeError, ConnectionResetError):
            return False
        self.entries = entries
        return True

    def receive(self) -> list[list[Execution]]:
        """The answers of the worker that have arrived: how the trials of each order have ended."""
        answers: list[Any] = []
        try:
            while not self._answers.closed and self._answers.poll():
                answers.append(self._answers.recv())
        except (EOFError, OSError):
            self._answers.close()
            self._closed_at = time.monotonic()
        self.is_ready = self.is_ready or READY in answers
        return [answer for answer in answers if answer != READY]

    def has_ended(self) -> bool:
        """Whether the process has ended. One that lives on without its pipe is killed after END_SECONDS."""
        status = self.process.exitcode
        if status == UNKNOWN_STATUS:
            # It exited with this status, or its fork server has died, and the worker may still be alive.
            return self._answers.closed or not _exists(self.process.pid or 0)
        if status is None and self._closed_at is not None and time.monotonic() - self._closed_at > END_SECONDS:
            if self._was_killed:
                # A process that hangs in the kernel does not end even when it is killed.
                return True
            self._was_killed, self._closed_at = True, time.monotonic()
            self._send_sigkill()
        return status is not None

    def sources(self) -> list[Any]:
        """What to give `connection.wait`, so that it waits for an answer of the worker or for its end."""
        answers = [] if self._answers.closed else [self._answers]
        return [*answers, *([self.process.sentinel] if self.process.exitcode is None else [])]

    def ending(self) -> str:
        """How the process ended, in a line."""
        if self._was_killed:
            return f"the worker closed its pipe but did not exit, so it was killed after {END_SECONDS:g} s"
        return f"the worker {how_it_ended(self.process.exitcode)}"

    def leave(self) -> None:
        """Make the process save and leave."""
        with suppress(OSError):
            self._orders.close()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the process, for at most `seconds`; returns whether it has ended."""
        deadline = time.monotonic() + seconds
        while not self.has_ended() and (left := deadline - time.monotonic()) > 0:
            connection.wait(self.sources(), min(left, TICK_SECONDS))
            self.receive()
        return self.has_ended()

    def kill(self) -> None:
        """End the process now."""
        if not self.has_ended():
            self._send_sigkill()
            self.wait(END_SECONDS)

    def _send_sigkill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signal.SIGKILL)


class WorkerPool:
    """The worker processes of a command, which stay from one launch to the next until `leave`."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []

    def grow(self, sweep: Sweep, environments: Sequence[dict[str, str]]) -> None:
        """Start a worker for each environment that has none."""
        # At exit multiprocessing waits for its processes, so they have to leave before.
        atexit.unregister(self.leave)
        atexit.register(self.leave)
        for i, environment in list(enumerate(environments))[len(self.workers) :]:
            self.workers.append(Worker(environment, sweep.folder / f"worker-{i}.log"))

    def wait(self, seconds: float) -> None:
        """Return once a worker has answered or ended, at the latest after `seconds`."""
        connection.wait([source for worker in self.workers for source in worker.sources()], seconds)

    def leave(self) -> None:
        """Make the workers save and leave, and wait until they have; a second Ctrl-C kills them.

        A worker without a trial has nothing to save and is killed at once: unloading torch takes seconds.
        """
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.leave()
        deadline = time.monotonic() + LEAVE_SECONDS
        with suppress(KeyboardInterrupt):
            for worker in workers:
                if worker.entries:
                    worker.wait(max(0.0, deadline - time.monotonic()))
        for worker in workers:
            worker.kill()


def run(
    pool: WorkerPool,
    sweep: Sweep,
    trials: Sequence[Entry],
    environments: Sequence[dict[str, str]],
    packed: int | Literal["auto"] = 1,
) -> Generator[Event]:
    """Run the trials, with a worker in each environment; yields what happens, at least every TICK_SECONDS.

    Up to `packed` trials that differ in little are given to a worker together; auto: MOST_PACKED, where it saves time.

    The workers stay for the next launch. Closing the generator before its end makes them save and leave. Raises
    WorkerLost if a worker cannot start.
    """
    packing = Packing(MOST_PACKED, must_win=True) if packed == "auto" else Packing(packed)
    queue = Queue(sweep, trials, packing.most)
    given_together, said = False, set[str]()
    try:
        pool.grow(sweep, environments)
        yield Event(places=len(environments))
        while queue.waiting or any(worker.entries for worker in pool.workers):
            yield from queue.fail_dependents()
            for worker in pool.workers:
                if worker.is_free() and (entries := queue.take(sum(one.is_free() for one in pool.workers))):
                    folders = [sweep.trial(entry.signature) for entry in entries]
                    given_together |= len(entries) > 1
                    given = worker.give(entries, folders, packing)
                    for entry in entries:
                        if given:
                            yield Event(entry, RUNNING)
                        else:
                            queue.record(entry, Execution(STOPPED))
            pool.wait(TICK_SECONDS)
            for worker in pool.workers:
                yield from _take_answers(queue, worker, said)
            yield Event()
        if not (packing.must_win or given_together) and min(packing.most, _trainings(trials)) > 1:
            yield Event(
                news=f"packed={packing.most} has packed nothing: trainings are divided among the workers "
                f"({len(environments)} here), and packed if they differ only in seed, policy, rate, momentum and "
                "weight decay"
            )
    except BaseException:
        pool.leave()
        raise


def _trainings(trials: Sequence[Entry]) -> int:
    return sum(entry.kind == TRAIN for entry in trials)


def _take_answers(queue: Queue, worker: Worker, said: set[str]) -> Generator[Event]:
    """Record what a worker has answered; if it has died, its trial fails and another process takes its place.

    The trials of a pack run again, each by itself, which shows which of them ends its process. `said` has the reasons
    that were given for trials that are not packed, each of which is news once.
    """
    ended = worker.has_ended()
    for executions in worker.receive():
        entries, worker.entries = worker.entries, ()
        for entry, execution in zip(entries, executions, strict=False):
            if (reason := execution.not_packed) and reason not in said:
                said.add(reason)
                yield Event(news=f"not packed: {reason}")
            if event := queue.record(entry, execution):
                yield event
    if not ended:
        return
    if not worker.is_ready:
        raise WorkerLost(f"{worker.ending()} before it could begin; its output is in {worker.log}")
    entries, cause, status = worker.entries, worker.ending(), worker.process.exitcode
    worker.leave()
    worker.start()
    if status == LEFT_STATUS:
        for entry in entries:
            queue.record(entry, Execution(STOPPED, cause))
    elif len(entries) > 1:
        queue.set_apart(entries)
        yield Event(news=f"{cause} with {len(entries)} packed trials: each of them is run again by itself")
    else:
        for entry in entries:
            yield queue.fail(entry, cause)


def slots(device: str, threads: int, workers: int | None, jobs_per_gpu: int, trials: int) -> list[dict[str, str]]:
    """The environment of each worker: jobs_per_gpu workers for each GPU, or on a CPU as many as its cores allow.

    `workers` overrides the number. There are never more than `trials`.
    """
    if not trials:
        return []
    shared = dict.fromkeys(THREAD_VARIABLES, str(threads))
    gpus = machine.gpus(count_gpus) if device in ("auto", "cuda") else []
    if gpus:
        places = gpus * jobs_per_gpu
    else:
        places = [{}] * (jobs_per_gpu if device.startswith("cuda") else max(1, machine.cores() // threads))
    count = workers or len(places)
    return [shared | places[i % len(places)] for i in range(min(count, trials))]


def start_server() -> None:
    """Start the fork server unless it is running, without waiting for its imports; raises OSError."""
    forkserver.set_forkserver_preload(PRELOADED)
    # Ctrl-C would end a fork server that is still starting, but the server inherits a blocked signal.
    with _ctrl_c_blocked():
        forkserver.ensure_running()


def stop_server() -> None:
    """End the fork server, but not its workers. If Python's private names have changed, it ends with this process."""
    server = getattr(forkserver, "_forkserver", None)
    if pid := getattr(server, "_forkserver_pid", None):
        with suppress(OSError, AttributeError):
            os.kill(pid, signal.SIGKILL)
            server._stop()  # pyright: ignore[reportOptionalMemberAccess]


def start_process(
    method: Literal["forkserver", "spawn"], module: str, environment: Mapping[str, str], log: Path, *arguments: Any
) -> BaseProcess:
    """Start a process that calls the function `serve` of a module, and prints into `log`; raises OSError.

    It leads a new session and process group, which Ctrl-C in the terminal does not reach.
    """
    process = CONTEXTS[method].Process(target=_begin, args=(module, dict(environment), str(log), *arguments))
    for attempt in (1, 2):
        try:
            if method == "forkserver":
                start_server()
            process.start()
        except (EOFError, ConnectionError) as error:
            if attempt == 2:
                raise OSError(
                    "the process that starts workers died: check for free memory and for a limit on processes"
                ) from error
        else:
            break
    return process


@cache
def count_gpus() -> int:
    """How many GPUs torch finds; 0 if it does not answer in time.

    Another process asks torch, because a process that has used CUDA cannot be forked.
    """
    reader, writer = Pipe(duplex=False)
    process = CONTEXTS["forkserver"].Process(target=_send_gpus, args=(writer,))
    try:
        start_server()
        process.start()
        writer.close()
        count = reader.recv() if reader.poll(COUNT_SECONDS) else 0
        process.kill()
        return count
    except (EOFError, OSError):
        return 0


def how_it_ended(status: int | None) -> str:
    """How a process ended, by its exit status, which is negative after a signal."""
    if status is None:
        return "ended, exit status unavailable"
    if status == UNKNOWN_STATUS:
        return "exited with status 255, or its fork server died, which leaves the status unknown"
    if status >= 0:
        return f"exited with status {status}"
    hint = ": out of memory, perhaps" if -status == signal.SIGKILL else ""
    return f"was killed by signal {-status} ({signal.Signals(-status).name}){hint}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _begin(module: str, environment: Mapping[str, str], log: str, *arguments: Any) -> None:
    """The first function of a new process; it imports the module itself, so that a failed import is in the log."""
    os.setsid()
    memory.collect_seldom()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    terminal.redirect_output(Path(log))
    os.environ.update(environment)
    importlib.import_module(module).serve(*arguments)


def _send_gpus(writer: Connection) -> None:
    import torch

    writer.send(torch.cuda.device_count() if torch.cuda.is_available() else 0)


@contextmanager
def _ctrl_c_blocked() -> Generator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
