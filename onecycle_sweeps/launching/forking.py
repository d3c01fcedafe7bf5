"""The program that workers are forked from: what they need is imported once, before the first of them."""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from onecycle_sweeps import provenance

MOST_BYTES, STANDARD_FILES = 2**16, 3
RUNNING = "running"
# How long torch may take to count the GPUs: a driver that wakes up takes seconds.
COUNT_SECONDS = 60.0


def main(module: str) -> None:
    """Answer the launching process at standard input until it closes it.

    Each process forked runs the `serve` of the module asked for; `module` is imported before the first.
    """
    importlib.import_module(module)
    # What is edited from here on is not what the workers run.
    provenance.program_modules()
    line = socket.socket(fileno=os.dup(0))
    ended: dict[int, int | None] = {}
    # A collection in one of the processes would write to all objects, and so copy the pages that they lie in.
    gc.freeze()
    with suppress(BrokenPipeError):
        while (request := receive(line))[0]:
            match json.loads(request[0]):
                case {"fork": environment, "work": work}:
                    answer = _fork(environment, request[1])
                    if answer is None:
                        line.close()
                        return importlib.import_module(work).serve()
                    ended.pop(answer.get("pid", 0), None)
                case {"status": pid}:
                    answer = {"status": _status(pid, ended)}
                case _:
                    answer = {"gpus": _gpus()}
            send(line, answer)


def send(line: socket.socket, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    """Send a message, and copies of open files along with it. A stream serves, which macOS has too, unlike packets."""
    data = json.dumps(message).encode() + b"\n"
    sent = socket.send_fds(line, [data], files)
    line.sendall(data[sent:])


def receive(line: socket.socket) -> tuple[bytes, list[int]]:
    """The next message and its files; an empty one where the other side has closed the line."""
    data, files = b"", []
    while not data.endswith(b"\n"):
        chunk, sent, _, _ = socket.recv_fds(line, MOST_BYTES, STANDARD_FILES)
        files += sent
        if not chunk:
            return b"", files
        data += chunk
    return data, files


def _fork(environment: Mapping[str, str], files: Sequence[int]) -> dict[str, Any] | None:
    """The id of the process that was forked, or why there is none; and None in the process itself."""
    try:
        if pid := os.fork():
            return {"pid": pid}
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.environ.update(environment)
        return None
    except OSError as error:
        return {"error": str(error)}
    finally:
        for file in files:
            os.close(file)


def _status(pid: int, ended: dict[int, int | None]) -> int | str | None:
    """How a process has ended, or RUNNING; None of one that an earlier program forked."""
    if pid not in ended:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if not found:
            return RUNNING
        ended[pid] = os.waitstatus_to_exitcode(status)
    return ended[pid]


def _gpus() -> int:
    """How many GPUs torch finds, 0 where it does not tell in time.

    A process of its own asks, since one that has asked must not fork any more.
    """
    counted, counting = os.pipe()
    if not (pid := os.fork()):
        try:
            os.write(counting, str(_count()).encode())
        finally:
            os._exit(0)
    os.close(counting)
    with os.fdopen(counted, "rb", buffering=0) as answer:
        told = answer.read(16) if select.select([answer], [], [], COUNT_SECONDS)[0] else b""
    os.kill(pid, signal.SIGKILL)
    # One that hangs in a driver may not end even so, and is not waited for.
    os.waitpid(pid, 0 if told else os.WNOHANG)
    return int(told or 0)


def _count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


if __name__ == "__main__":
    # Where the launching process finds code, its workers do.
    sys.path += [place for place in sys.argv[2:] if place not in sys.path]
    main(sys.argv[1])
