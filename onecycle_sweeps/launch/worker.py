"""A worker process as its launching process sees it: orders go in, a line comes back for each."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.sweep import Entry

READY = "ready"
# The exit status of a worker that was asked by a signal to leave.
LEFT = 128 + signal.SIGTERM


class WorkerLost(Exception):
    """A worker process could not start; the message says why."""


@dataclass
class Worker:
    """One worker process, which executes one trial at a time; `environment` is what its place on the machine sets.

    Its lines come to `heard`, and when it has died an empty one.
    """

    environment: dict[str, str]
    log: Path
    heard: "Heard"
    entry: Entry | None = None
    ready: bool = False
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process in a session of its own, so that a Ctrl-C reaches the launching process alone."""
        self.entry, self.ready = None, False
        with self.log.open("a") as errors:
            try:
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
            except OSError as error:
                raise WorkerLost(f"a worker process cannot be started: {error}") from error
        threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()

    def _listen(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self.heard.put((self, line))
        self.heard.put((self, ""))

    def is_free(self) -> bool:
        """Whether it can take a trial."""
        return self.entry is None and self.process.poll() is None

    def give(self, entry: Entry, trial: TrialFolder) -> None:
        """Let the worker execute a trial."""
        assert self.process.stdin
        self.entry = entry
        # A worker that has died takes no order: the end of its output tells why.
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{trial.path}\n")

    def last_words(self) -> str:
        """How the process ended: its signal or exit status."""
        self.leave()
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


Heard = SimpleQueue[tuple[Worker, str]]
