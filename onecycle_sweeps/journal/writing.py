"""Writes one attempt's file, whole lines after whole lines."""

import errno
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onecycle_sweeps.files import with_format
from onecycle_sweeps.journal.lines import attempt_file


class Journal:
    """The writer of one attempt's file, which it alone opens; each call appends whole lines.

    As soon as the file is there, all earlier attempts are superseded. Without `start` its head is left to `begin`.
    """

    def __init__(
        self, folder: Path, attempt: int, start: int | None = None, place: Mapping[str, str] | None = None
    ) -> None:
        self.path, self._attempt = attempt_file(folder, attempt), attempt
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._torn = False
        if start is not None:
            self.begin(start, place)

    def begin(self, start: int, place: Mapping[str, str] | None = None, notes: Sequence[str] = ()) -> None:
        """Write the head: the step that the attempt continues from, where it runs, and what its user is to know."""
        head = {"attempt": self._attempt, "from": start, "time": time.time(), "host": socket.gethostname()}
        self._write(with_format(head | ({"place": place} if place else {}) | ({"notes": list(notes)} if notes else {})))

    def append(self, step: int, metrics: Mapping[str, Sequence[float]]) -> None:
        """Write the values of consecutive steps, the first of which is `step`.

        Blocks come in order: none begins or ends at an earlier step than the one before it.
        """
        self._write({"time": time.time(), "step": step, "metrics": metrics})

    def sync(self) -> None:
        """Make all that was appended durable: to be called before a checkpoint counts on it."""
        os.fsync(self._file)

    def saved(self, step: int) -> None:
        """Mark that a durable checkpoint or result covers all steps below `step`."""
        self._write({"time": time.time(), "saved": step})

    def end(self, status: str, cause: str | None = None) -> None:
        """Say how the attempt ended and close the file."""
        try:
            self._write({"time": time.time(), "end": status, "cause": cause})
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def _write(self, line: Mapping[str, Any]) -> None:
        data = memoryview((b"\n" if self._torn else b"") + json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._torn = True
        while data:
            written = os.write(self._file, data)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            data = data[written:]
        self._torn = False
