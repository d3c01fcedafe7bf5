"""The process that workers are forked from, as its launching process sees it: it imports torch once for all of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any

from onecycle_sweeps.launching.forking import receive, send

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# The module that a worker's work is in: its function `serve`.
WORK = "onecycle_sweeps.launching.job"


class ForkServer:
    """Forks processes that have imported already what a worker needs, and share its memory.

    A server that has died is replaced at the next `fork`; the processes that it forked go on without it. Any thread may
    ask it.
    """

    def __init__(self) -> None:
        self._one_at_a_time = threading.RLock()
        self._gpus: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._errors: IO[bytes] | None = None
        self._open = ExitStack()

    @property
    def pid(self) -> int | None:
        """The server's process; None where there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server unless it runs, and do not wait until it has imported; raises OSError where it cannot be."""
        if self._process and self._process.poll() is None:
            return
        self.close()
        line, theirs = socket.socketpair()
        self._line = self._open.enter_context(line)
        with theirs, tempfile.TemporaryFile() as errors:
            self._errors = self._open.enter_context(os.fdopen(os.dup(errors.fileno()), "rb"))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "onecycle_sweeps.launching.forking", WORK, *sys.path],
                stdin=theirs.fileno(),
                stdout=errors,
                stderr=errors,
                # A process that has threads must not fork, and a trial sets the number of its own.
                env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1"),
                start_new_session=True,
            )

    def fork(self, environment: Mapping[str, str], files: Sequence[int], work: str | None = None) -> int:
        """Fork a process with `files` as its standard input, output and errors, in a session of its own.

        It runs the function `serve` of the module `work`, or a worker's where none is named.
        Returns its id, which stays its own until `status` has told its end; raises OSError where there can be none.
        """
        with self._one_at_a_time:
            for _ in range(2):
                self.start()
                if answer := self._ask({"fork": dict(environment), "work": work or WORK}, files):
                    if "error" in answer:
                        raise OSError(answer["error"])
                    return answer["pid"]
            raise OSError(f"the process that imports torch {self._last_words()}")

    def status(self, pid: int) -> int | str | None:
        """How a process that was forked stands, at once: RUNNING, its exit status, or its signal's number with a minus.

        None where the server that forked it has died before it.
        """
        answer = self._ask({"status": pid})
        return answer["status"] if answer else None

    def gpus(self) -> int:
        """How many GPUs torch finds on this machine."""
        if self._gpus is None:
            self.start()
            self._gpus = (self._ask({"gpus": True}) or {"gpus": 0})["gpus"]
        return self._gpus or 0

    def close(self) -> None:
        """End the server; what it has forked goes on."""
        with self._one_at_a_time:
            if self._process:
                self._process.kill()
                self._process.wait()
            self._open.close()
            self._process = self._line = self._errors = None

    def _ask(self, request: dict[str, Any], files: Sequence[int] = ()) -> dict[str, Any] | None:
        """What the server answers; None from one that has died."""
        with self._one_at_a_time:
            if not self._line:
                return None
            try:
                send(self._line, request, files)
                answer, _ = receive(self._line)
            except (BrokenPipeError, ConnectionResetError):
                return None
            return json.loads(answer) if answer else None

    def _last_words(self) -> str:
        assert self._process and self._errors
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join([how_it_ended(code), *said])


def how_it_ended(code: int) -> str:
    """The end of a process by its exit status, or by its signal's number with a minus."""
    if code >= 0:
        return f"exited with status {code}"
    hint = ": out of memory, perhaps" if -code == signal.SIGKILL else ""
    return f"was killed by signal {-code} ({signal.Signals(-code).name}){hint}"


of_this_process = ForkServer()
