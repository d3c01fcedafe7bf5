"""A queue on this machine: persistent worker processes that take trials as their range tests are done."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.launch import machine
from onecycle_sweeps.launch.queue import Event, Queue
from onecycle_sweeps.state import RUNNING
from onecycle_sweeps.sweep import Entry, Sweep

TICK_SECONDS = 0.5
LEAVE_SECONDS = 60.0
READY = "ready"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerLost(Exception):
    """A worker process could not start; the message says why."""


@dataclass
class Worker:
    """One worker process, which executes one trial at a time; `environment` is what its place on the machine sets."""

    environment: dict[str, str]
    log: Path
    entry: Entry | None = None
    ready: bool = False
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process in a session of its own, so that a Ctrl-C reaches the launching process alone."""
        self.entry, self.ready = None, False
        with self.log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "onecycle_sweeps.launch.job"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | self.environment,
                text=True,
                bufsize=1,
                start_new_session=True,
            )

    def give(self, entry: Entry, trial: TrialFolder) -> None:
        """Let the worker execute a trial."""
        assert self.process.stdin
        self.entry = entry
        # A worker that has died takes no order: the end of its output tells why.
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{trial.path}\n")

    @property
    def output(self) -> IO[str]:
        """Its answers, a line each."""
        assert self.process.stdout
        return self.process.stdout

    def last_words(self) -> str:
        """How the process ended: its signal or exit status."""
        code = self.process.wait()
        if code < 0:
            hint = ": out of memory, perhaps" if -code == signal.SIGKILL else ""
            return f"the worker was killed by signal {-code} ({signal.Signals(-code).name}){hint}"
        return f"the worker exited with status {code}"

    def leave(self) -> None:
        """Ask the process to save and leave."""
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.close()


def run(sweep: Sweep, trials: Sequence[Entry], places: Sequence[dict[str, str]]) -> Generator[Event]:
    """Execute the trials, one worker for each place; yields what happens, and at least twice a second.

    Leaving the iteration asks the workers to save and leave. Raises WorkerLost when a worker cannot even start.
    """
    queue = Queue(sweep, trials)
    with _workers(sweep, places) as workers, selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.output, selectors.EVENT_READ, worker)
        while queue.waiting or any(worker.entry for worker in workers):
            yield from queue.orphans()
            for worker in workers:
                if worker.entry is None and (entry := queue.next()):
                    worker.give(entry, sweep.trial(entry.signature))
                    yield Event(entry, RUNNING)
            for key, _ in selector.select(TICK_SECONDS):
                if event := _hear(key.data, queue, selector):
                    yield event
            yield Event()


def _hear(worker: Worker, queue: Queue, selector: selectors.BaseSelector) -> Event | None:
    """Take a worker's line in; a worker that died costs its own trial, and another takes its place."""
    entry, line = worker.entry, worker.output.readline()
    if line == f"{READY}\n":
        worker.ready = True
        return None
    if not line:
        cause = worker.last_words()
        if not worker.ready:
            raise WorkerLost(f"{cause} before it could begin; its output is in {worker.log}")
        selector.unregister(worker.output)
        worker.start()
        selector.register(worker.output, selectors.EVENT_READ, worker)
        return queue.fail(entry, cause) if entry else None
    worker.entry = None
    return queue.take(entry, **json.loads(line)) if entry else None


def places(device: str, threads: int, workers: int | None, jobs_per_gpu: int, trials: int) -> list[dict[str, str]]:
    """The environment of each worker: one per GPU x jobs_per_gpu, or on a CPU as many as the cores carry.

    `workers` overrides the number. No more places are made than there are trials.
    """
    shared = dict.fromkeys(THREAD_VARIABLES, str(threads))
    gpus = machine.gpus() if device in ("auto", "cuda") else []
    if gpus:
        slots = [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(jobs_per_gpu) for gpu in gpus]
    else:
        slots = [{}] * (jobs_per_gpu if device.startswith("cuda") else max(1, machine.cores() // threads))
    count = workers or len(slots)
    return [shared | slots[i % len(slots)] for i in range(max(1, min(count, trials)))]


@contextmanager
def _workers(sweep: Sweep, places: Sequence[dict[str, str]]) -> Iterator[list[Worker]]:
    workers = [Worker(place, sweep.folder / f"worker-{i}.log") for i, place in enumerate(places)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.leave()
        deadline = time.monotonic() + LEAVE_SECONDS
        try:
            for worker in workers:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for worker in workers:
                worker.process.kill()
                worker.process.wait()
