"""Ships beside the training: a process of its own, since a tracker in the trainer's would take time from its steps."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from onecycle_sweeps import sweep
from onecycle_sweeps.credentials import redacted
from onecycle_sweeps.tracking.due import is_due
from onecycle_sweeps.tracking.shipping import deliver, ship
from onecycle_sweeps.tracking.store import never


class Shipper:
    """Ships the sweep of a folder, which may grow, every `interval` seconds, from when it is entered until it is left.

    `only` is the signature of the one trial to ship, if not all are.
    Leaving it makes a last pass of at most `grace` seconds; it neither fails nor stops its caller.
    """

    def __init__(self, folder: Path, *, only: str = "", interval: float = 3.0, grace: float = 60.0) -> None:
        self._folder, self._only, self._interval, self._grace = folder, only, interval, grace

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, str(self._folder), str(self._interval), str(self._grace), self._only]
        with (self._folder / "shipper.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                start_new_session=True,
            )
        return self

    def deliver(self, files: Sequence[Path], description: str) -> str | None:
        """Bring the store up to date, the report's files and description with it; returns why that failed, if so."""
        assert self._process.stdin and self._process.stdout
        order = {"files": [str(file) for file in files], "description": description}
        with suppress(BrokenPipeError):
            print(json.dumps(order), file=self._process.stdin, flush=True)
        if answer := self._process.stdout.readline():
            return json.loads(answer)["undelivered"]
        return f"the shipping process ended with status {self._process.wait()}: {self._folder / 'shipper.log'}"

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(self._grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()


def work(folder: Path, interval: float, grace: float, only: str) -> None:
    """Ship until standard input ends, as it also does when the launching process dies; each line is a delivery."""
    answers = os.fdopen(os.dup(1), "w", 1, "utf-8")
    os.dup2(2, 1)
    orders: SimpleQueue[str] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(line)
        orders.put("")

    threading.Thread(target=listen, daemon=True).start()
    delivered = False
    while True:
        try:
            order = json.loads(orders.get(timeout=interval) or "null")
        except Empty:
            _pass(folder, only)
            continue
        if order is None:
            break
        undelivered = deliver(sweep.load(folder), [Path(file) for file in order["files"]], order["description"])
        delivered = undelivered is None
        with suppress(BrokenPipeError):
            print(json.dumps({"undelivered": undelivered}), file=answers)
    if not delivered:
        _pass(folder, only, time.monotonic() + grace)


def _pass(folder: Path, only: str, deadline: float | None = None) -> None:
    """Ship what there is; whatever goes wrong stands in the log, and the next pass or `sync` does it again."""
    try:
        whole, trials = sweep.load(folder), [only] if only else None
        if is_due(whole, trials):
            ship(whole, only=trials, expired=(lambda: time.monotonic() > deadline) if deadline else never)
    except Exception as error:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {redacted(str(error))}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
