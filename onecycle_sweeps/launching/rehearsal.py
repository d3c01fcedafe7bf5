"""What cannot work is refused before the first trial: each distinct choice is tried once, where torch is or will be."""

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.launching.fork_server import ForkServer, how_it_ended
from onecycle_sweeps.launching.forking import RUNNING
from onecycle_sweeps.launching.refusal import Order, Refusal
from onecycle_sweeps.planning import Trial

WORK = "onecycle_sweeps.launching.rehearsing"
# What a trial's config says of its rate, seed and length does not change whether it can take a step.
NO_MATTER = ("seed", "epochs", "evaluations_per_epoch", "runs_dir", "tracking", "threads", "target_accuracy", "rerun")


Perform = Callable[[Sequence[Order]], Refusal | None]
LOOK_SECONDS, LAST_LINE_SECONDS = 0.1, 1.0


@dataclass(frozen=True)
class Rehearsals:
    """Those of one command; a choice that was tried for one launch is not tried for the next."""

    perform: Perform
    elsewhere: bool = False
    _tried: set[str] = field(default_factory=set)

    def check(self, trials: Sequence[Trial], runs_dir: Path) -> None:
        """Raise ConfigError for the first trial that could take no step."""
        orders: dict[str, Order] = {}
        for trial in trials:
            config = {key: value for key, value in trial.config.items() if key not in NO_MATTER}
            # By their nets, so that each is built once.
            key = json.dumps([config["model"], config["data"], config["batch_size"], config], sort_keys=True)
            if key not in self._tried:
                orders[key] = Order(trial.config, str(runs_dir), self.elsewhere)
        if not orders:
            return
        refusal = self.perform([orders[key] for key in sorted(orders)])
        if refusal and not (refusal.killed and self.elsewhere):
            error = ConfigError(refusal.line)
            if refusal.traceback:
                error.add_note(refusal.traceback)
            raise error
        self._tried.update(orders)


def here(orders: Sequence[Order]) -> Refusal | None:
    """Try them in this process, which imports torch for it."""
    from onecycle_sweeps.launching.rehearsing import first_refusal

    return first_refusal(orders)


def apart(server: ForkServer, orders: Sequence[Order]) -> Refusal | None:
    """Try them in a process that the server forks, and which may die of it.

    Raises OSError where there can be no such process.
    """
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile() as errors:
        given.writelines(f"{json.dumps(asdict(order))}\n" for order in orders)
        given.seek(0)
        answers, answering = os.pipe()
        heard = os.fdopen(answers)
        try:
            with open(answering, "w") as said:
                pid = server.fork({}, [given.fileno(), said.fileno(), errors.fileno()], WORK)
        except BaseException:
            heard.close()
            raise
        process = _Process(server, pid, heard)
        try:
            refusals = process.answer()
            return _died(process, errors) if refusals is None else next(iter(refusals), None)
        finally:
            process.end()


def in_a_process_of_its_own(orders: Sequence[Order]) -> Refusal | None:
    """Try them in a process that imports torch for it."""
    server = ForkServer()
    try:
        return apart(server, orders)
    finally:
        server.close()


class _Process:
    """A process that tries trials: the lines it says, until it has answered or has ended."""

    def __init__(self, server: ForkServer, pid: int, heard: IO[str]) -> None:
        self.trying = ""
        self.status: int | str | None = RUNNING
        self._server, self._pid = server, pid
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(heard,), daemon=True)
        self._reader.start()

    def answer(self) -> list[Refusal] | None:
        """The refusals that it found, at most one; None where it ended without an answer."""
        while (line := self._line()) is not None:
            answer: dict[str, Any] = json.loads(line)
            if "refusals" in answer:
                return [Refusal(*refusal) for refusal in answer["refusals"]]
            self.trying = answer["trying"]
        return None

    def end(self) -> None:
        """End it, with what the user's code has started in it."""
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        until = time.monotonic() + LAST_LINE_SECONDS
        while self._server.status(self._pid) == RUNNING and time.monotonic() < until:
            time.sleep(LOOK_SECONDS / 10)

    def _line(self) -> str | None:
        """The next line; None after the last, though what the user's code has started may hold the pipe open."""
        while True:
            try:
                return self._lines.get(timeout=LOOK_SECONDS)
            except Empty:
                if self.status != RUNNING:
                    return None
                self.status = self._server.status(self._pid)
                if self.status != RUNNING:
                    self._reader.join(LAST_LINE_SECONDS)

    def _read(self, heard: IO[str]) -> None:
        with heard:
            for line in heard:
                self._lines.put(line)


def _died(process: _Process, errors: IO[bytes]) -> Refusal:
    """What to say of a process that ended without an answer."""
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    how = how_it_ended(process.status) if isinstance(process.status, int) else "ended with an unknown exit status"
    did = f"model._target_={process.trying} was tried on a few samples, and the process that did it {how}"
    return Refusal(": ".join([did, *last]), killed=process.status == -signal.SIGKILL)
