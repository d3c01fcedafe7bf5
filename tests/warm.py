"""Commands of the program as forks of a process that has imported its libraries, which takes seconds of each command.

A command is still a process of its own, with its own arguments, environment, folder, output and signals, and so are the
processes that it starts; only the interpreter's start and the imports are shared. What these do is left to the tests
that start commands afresh. Python's own `Popen` starts everything else.
"""

import atexit
import fcntl
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from inspect import signature
from multiprocessing import util
from pathlib import Path
from typing import Any, NoReturn

# The socket of the process that forks, for this session's commands and for the processes that they start.
ADDRESS = "ONECYCLE_TESTS_WARM"
PROGRAM = "onecycle_sweeps"
STATUS_BYTES = 4
# A message has a command's words and environment.
MESSAGE_BYTES = 1 << 18
# With another value of one of these, an interpreter starts in another way.
READ_AT_START = {
    name: os.environ.get(name) for name in ("LANG", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONHOME", "LD_PRELOAD")
}
LOADED = (
    *("onecycle_sweeps.cli", "onecycle_sweeps.launching.execution", "onecycle_sweeps.launching.commands"),
    *("onecycle_sweeps.launching.slurm.watch", "onecycle_sweeps.tracking", "onecycle_sweeps.trial.rehearsal"),
    *("hydra.main", "hydra._internal.hydra", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "rich.live"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "PIL.PngImagePlugin"),
    *("scipy.optimize", "jinja2"),
)


class Popen(subprocess.Popen[str]):
    """A command `python -m onecycle_sweeps...` as a fork; anything else as Python's own class starts it."""

    _reports: socket.socket | None = None

    def _execute_child(self, *given: Any) -> None:
        start: Callable[..., None] = getattr(super(), "_execute_child")  # noqa: B009
        asked = signature(start).bind(*given).arguments
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        words = [os.fspath(word) for word in asked["args"]]
        if not _can_be_forked(words, environment) or asked["preexec_fn"] or asked["pass_fds"]:
            start(*given)
            return
        ends = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        request = {
            "words": words[2:],
            "folder": os.fspath(asked["cwd"] or Path.cwd()),
            "environment": environment,
            "is_leader": next(value for name, value in asked.items() if name.endswith("start_new_session")),
        }
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(environment[ADDRESS])
        files = [own if end == -1 else end for own, end in enumerate(ends)]
        socket.send_fds(connection, [json.dumps(request).encode()], files)
        self.pid = int.from_bytes(connection.recv(STATUS_BYTES), "little")
        self._reports, self._child_created = connection, True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        getattr(self, "_close_pipe_fds")(*(asked[name] for name in names))  # noqa: B009

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._reports is None:
            return getattr(super(), "_try_wait")(wait_flags)  # noqa: B009
        if wait_flags and not select.select([self._reports], [], [], 0)[0]:
            return 0, 0
        status = int.from_bytes(self._reports.recv(STATUS_BYTES), "little")
        self._reports.close()
        return self.pid, status

    def _internal_poll(self, *given: Any, **named: Any) -> int | None:
        if self._reports is None:
            return getattr(super(), "_internal_poll")(*given, **named)  # noqa: B009
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


@cache
def environment(shared: Path) -> dict[str, str]:
    """The variable by which commands find the process that forks them; a session's first call starts it.

    `shared` is a folder of the session. The process ends after the one that runs the session.
    """
    found = shared / "warm"
    with (shared / "warm.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not found.exists():
            # A socket's path has at most 108 characters, so the session's folder is too deep.
            address = Path(tempfile.mkdtemp(prefix="warm")) / "socket"
            session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            _start(address, session)
            found.write_text(str(address))
    return {ADDRESS: found.read_text()}


def _start(address: Path, session: int) -> None:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, __file__, str(address), str(session)]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    process = subprocess.Popen(words, stdin=null, stdout=pipe, env=outside, start_new_session=True)
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline(), "the process that forks commands has not started"
    # It outlives this process, which Popen would warn of.
    process.returncode = 0


def _can_be_forked(words: list[str], environment: dict[str, str]) -> bool:
    is_ours = words[:2] == [sys.executable, "-m"] and words[2].partition(".")[0] == PROGRAM
    starts_alike = all(environment.get(name) == value for name, value in READ_AT_START.items())
    return is_ours and ADDRESS in environment and starts_alike


def serve(address: str, session: int) -> None:
    """Fork a command for each connection, for as long as the process of the session lives."""
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in LOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    os.dup2(0, 1)
    while _is_alive(session):
        ready, _, _ = select.select([listener], [], [], 1.0)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if ready:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                _keep(connection)
            connection.close()
    shutil.rmtree(Path(address).parent)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _keep(connection: socket.socket) -> NoReturn:
    """Fork a command, which sends its process id, wait for it, and send its status."""
    message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
    request = json.loads(message)
    if not (pid := os.fork()):
        if request["is_leader"]:
            os.setsid()
        connection.send(os.getpid().to_bytes(STATUS_BYTES, "little"))
        connection.close()
        _become(request, files)
    for file in (0, 1, 2, *files):
        with suppress(OSError):
            os.close(file)
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):
        connection.send(status.to_bytes(STATUS_BYTES, "little"))
    os._exit(0)


def _become(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Run a command as a fresh Python would."""
    os.chdir(request["folder"])
    for target, file in enumerate(files):
        os.dup2(file, target)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8")
    errors = os.fdopen(2, "wb", closefd=False)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(errors, "utf-8", "backslashreplace", line_buffering=True)
    outside = request["environment"].get("PYTHONPATH", "")
    sys.path[:] = [request["folder"], *filter(None, outside.split(os.pathsep)), *sys.path]
    module, *arguments = request["words"][0], *request["words"][1:]
    sys.argv[:], sys.orig_argv[:] = ["-m", *arguments], [sys.executable, "-m", *request["words"]]
    subprocess.Popen = Popen
    util.spawnv_passfds = _fork
    if module != PROGRAM:
        sys.modules.pop(module, None)
    _end_with(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


def _fork(_: bytes, words: list[Any], kept: tuple[int, ...]) -> int:
    """Start a process of multiprocessing's: its fork server, its tracker, or one that it spawns."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))
    words = [os.fsdecode(word) for word in words]
    position = words.index("-c")
    sys.argv[:] = ["-c", *words[position + 2 :]]
    getattr(atexit, "_clear")()  # noqa: B009
    _end_with(lambda: exec(words[position + 1], {"__name__": "__main__"}))


def _end_with(run: Callable[[], object]) -> NoReturn:
    """Run it, and end as a fresh Python would."""
    status = 0
    try:
        run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    with suppress(BaseException):
        getattr(threading, "_shutdown")()  # noqa: B009
        getattr(atexit, "_run_exitfuncs")()  # noqa: B009
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
