"""A worker process as its launching process sees it: orders go in, a line comes back for each."""

import json
import os
import selectors
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from onecycle_sweeps.launching.fork_server import ForkServer, how_it_ended
from onecycle_sweeps.launching.forking import MOST_BYTES, RUNNING
from onecycle_sweeps.sweep import Entry
from onecycle_sweeps.trial_folder import TrialFolder

READY = "ready"
# How long a process may live on once its pipe is closed: taking torch down takes seconds.
END_SECONDS = 10.0
# So often a process that says nothing is looked at: a child of it may hold its pipe open after its end.
LOOK_SECONDS = 1.0
TICK_SECONDS = 0.02
# The exit status of a worker that was asked by a signal to leave.
LEFT = 128 + signal.SIGTERM


class WorkerLost(Exception):
    """A worker process could not start; the message says why."""


@dataclass
class Worker:
    """One worker process, which executes one trial at a time; `environment` is what its place on the machine sets.

    Its lines come to `heard`, and when it has ended an empty one; `status` is then how it ended, if that is known. A
    process that lives on after its pipe was closed is killed, and has `outlived` it.
    """

    environment: dict[str, str]
    log: Path
    heard: "Heard"
    server: ForkServer
    entry: Entry | None = None
    ready: bool = False
    pid: int = field(init=False)
    status: int | None = field(init=False)
    outlived: bool = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process in a session of its own, so that a Ctrl-C reaches the launching process alone."""
        self.entry, self.ready, self.status, self.outlived = None, False, None, False
        self._silent, self._ended = threading.Event(), threading.Event()
        self._given = self._apart = False
        (orders, ordering), (answers, answering) = os.pipe(), os.pipe()
        self._orders, output = os.fdopen(ordering, "w", 1, "utf-8"), os.fdopen(answers, "rb", buffering=0)
        try:
            with open(orders, "rb") as given, open(answering, "wb") as said, self.log.open("ab") as errors:
                self.pid = self.server.fork(self.environment, [given.fileno(), said.fileno(), errors.fileno()])
        except BaseException as error:
            self._orders.close()
            output.close()
            if isinstance(error, OSError):
                raise WorkerLost(f"a worker process cannot be started: {error}") from error
            raise
        threading.Thread(target=self._listen, args=(output, self.pid, self._silent, self._ended), daemon=True).start()

    def _listen(self, output: IO[bytes], pid: int, silent: threading.Event, ended: threading.Event) -> None:
        """Hear one process out, in a thread of its own: the launching process waits for none.

        Of one that is `silent` already, since another takes its place, nothing more is heard.
        """
        with output, selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            begun = b""
            while True:
                if selector.select(LOOK_SECONDS):
                    if not (said := output.read(MOST_BYTES)):
                        break
                    *lines, begun = (begun + said).split(b"\n")
                    for line in lines:
                        self.heard.put((self, line.decode() + "\n"))
                elif isinstance(self.server.status(pid), int):
                    break
        replaced = silent.is_set()
        silent.set()
        status, outlived = self._see_off(pid)
        if not replaced:
            self.status, self.outlived = status, outlived
        ended.set()
        if not replaced:
            self.heard.put((self, ""))

    def _see_off(self, pid: int) -> tuple[int | None, bool]:
        """Wait for the end of a process that says no more; returns its status, and whether it had to be killed."""
        outlived, deadline = False, time.monotonic() + END_SECONDS
        while (status := self.server.status(pid)) == RUNNING:
            if time.monotonic() > deadline:
                # One that hangs in the kernel does not even die of that, and is not waited for either.
                if outlived:
                    break
                outlived, deadline = True, deadline + END_SECONDS
                _kill(pid)
            time.sleep(TICK_SECONDS)
        return status if isinstance(status, int) else None, outlived

    def is_free(self) -> bool:
        """Whether it can take a trial."""
        return self.entry is None and not self._silent.is_set()

    def give(self, entry: Entry, trial: TrialFolder) -> bool:
        """Let the worker execute a trial; whether it takes it, which one that has died does not.

        A trial for which Hydra sets an environment, logging or callbacks has a process of its own.
        """
        if self._given and (self._apart or trial.needs_hydra):
            self._silent.set()
            self.leave()
            self.kill()
            self.start()
        self._given, self._apart = True, trial.needs_hydra
        try:
            self._orders.write(f"{json.dumps(str(trial.path))}\n")
        except BrokenPipeError:
            return False
        self.entry = entry
        return True

    def last_words(self) -> str:
        """How the process ended: its signal or exit status."""
        self.leave()
        if self.outlived:
            return f"the worker closed its pipe and lived on, so it was killed after {END_SECONDS:g} s"
        if self.status is None:
            return "the worker ended after the process that it was forked from, so how is not known"
        return f"the worker {how_it_ended(self.status)}"

    def leave(self) -> None:
        """Ask the process to save and leave."""
        with suppress(BrokenPipeError):
            self._orders.close()

    def wait(self, seconds: float) -> bool:
        """Whether it has left within that time."""
        return self._silent.wait(seconds)

    def kill(self) -> None:
        """End the process now."""
        if not self._ended.is_set():
            _kill(self.pid)
            self._ended.wait(END_SECONDS)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


Heard = SimpleQueue[tuple[Worker, str]]
