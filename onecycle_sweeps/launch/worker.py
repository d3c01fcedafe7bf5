"""A worker process as its launching process sees it: orders go in, a line comes back for each."""

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.launch.fork_server import ForkServer, how_it_ended
from onecycle_sweeps.sweep import Entry

READY = "ready"
# The exit status of a worker that was asked by a signal to leave.
LEFT = 128 + signal.SIGTERM


class WorkerLost(Exception):
    """A worker process could not start; the message says why."""


@dataclass
class Worker:
    """One worker process, which executes one trial at a time; `environment` is what its place on the machine sets.

    Its lines come to `heard`, and when it has died an empty one; `status` is then how it ended, if that is known.
    """

    environment: dict[str, str]
    log: Path
    heard: "Heard"
    server: ForkServer
    entry: Entry | None = None
    ready: bool = False
    pid: int = field(init=False)
    status: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process in a session of its own, so that a Ctrl-C reaches the launching process alone."""
        self.entry, self.ready, self.status = None, False, None
        self._given = self._apart = False
        self._silent = threading.Event()
        (orders, ordering), (answers, answering) = os.pipe(), os.pipe()
        self._orders, output = os.fdopen(ordering, "w", buffering=1), os.fdopen(answers)
        try:
            with open(orders) as given, open(answering, "w") as said, self.log.open("a") as errors:
                self.pid = self.server.fork(self.environment, [given.fileno(), said.fileno(), errors.fileno()])
        except BaseException as error:
            self._orders.close()
            output.close()
            if isinstance(error, OSError):
                raise WorkerLost(f"a worker process cannot be started: {error}") from error
            raise
        threading.Thread(target=self._listen, args=(output, self._silent), daemon=True).start()

    def _listen(self, output: IO[str], silent: threading.Event) -> None:
        with output:
            for line in output:
                self.heard.put((self, line))
        if not silent.is_set():
            silent.set()
            self.heard.put((self, ""))

    def is_free(self) -> bool:
        """Whether it can take a trial."""
        return self.entry is None and not self._silent.is_set()

    def give(self, entry: Entry, trial: TrialFolder) -> bool:
        """Let the worker execute a trial; whether it takes it, which one that has died does not.

        A trial for which Hydra sets an environment, logging or callbacks has a process of its own.
        """
        if self._given and (self._apart or trial.is_hydras):
            self._silent.set()
            self.leave()
            self.kill()
            self.start()
        self._given, self._apart = True, trial.is_hydras
        try:
            self._orders.write(f"{trial.path}\n")
        except BrokenPipeError:
            return False
        self.entry = entry
        return True

    def last_words(self) -> str:
        """How the process ended: its signal or exit status."""
        self.leave()
        self.status = self.server.status(self.pid)
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
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.status = self.server.status(self.pid)


Heard = SimpleQueue[tuple[Worker, str]]
