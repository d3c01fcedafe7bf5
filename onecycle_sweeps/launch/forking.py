"""The program that workers are forked from: what they need is imported once, before the first of them."""

import gc
import importlib
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

MOST_BYTES, STANDARD_FILES = 2**16, 3


def main(module: str) -> None:
    """Answer the launching process at standard input until it closes it; each process forked runs `module`'s serve."""
    serve = importlib.import_module(module).serve
    line = socket.socket(fileno=os.dup(0))
    # A collection in one of the processes would write to all objects, and so copy the pages that they lie in.
    gc.freeze()
    with suppress(BrokenPipeError):
        while (request := socket.recv_fds(line, MOST_BYTES, STANDARD_FILES))[0]:
            asked = json.loads(request[0])
            answer = _fork(asked["fork"], request[1]) if "fork" in asked else _ended(asked["ended"])
            if answer is None:
                line.close()
                return serve()
            line.send(json.dumps(answer).encode())


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


def _ended(pid: int) -> dict[str, Any]:
    """How a process has ended, once it has; not known of one that an earlier program forked."""
    try:
        return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
    except ChildProcessError:
        return {"status": None}


if __name__ == "__main__":
    # Where the launching process finds code, its workers do.
    sys.path += [place for place in sys.argv[2:] if place not in sys.path]
    main(sys.argv[1])
