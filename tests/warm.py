"""Commands of the program as forks of a process that has imported its libraries, which takes seconds of each command.

A command is still a process of its own, with its own arguments, environment, folder, files and signals, and so is each
process that it starts, jobs on a cluster's nodes included; only the imports are shared, and the pictures of a report
are left empty unless a test asks for them. What these do is left to the tests that start commands afresh.
`warm_start/sitecustomize.py` hands commands over to this one.
"""

import atexit
import fcntl
import gc
import importlib
import io
import marshal
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
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

HOOK = Path(__file__).with_name("warm_start")
# The socket of the process that forks, for this session's commands and for the processes that they start.
ADDRESS = "ONECYCLE_TESTS_WARM"
# Set in the environment of commands that draw.
PICTURES = "ONECYCLE_TESTS_PICTURES"
PROGRAM = "onecycle_sweeps"
OPTIONS = ("-u", "-B")
# A message has a command's words and environment; Linux passes so many files at most.
MESSAGE_BYTES, MOST_FILES = 1 << 18, 253
# Numbers of files that are free in every command.
ASIDE = 512
# With another value of one of these, an interpreter starts in another way.
READ_AT_START = ("LANG", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONHOME", "LD_PRELOAD")
LOADED = (
    *("onecycle_sweeps.cli", "onecycle_sweeps.launching.execution", "onecycle_sweeps.launching.commands"),
    *("onecycle_sweeps.launching.slurm.watch", "onecycle_sweeps.tracking", "onecycle_sweeps.trial.rehearsal"),
    *("hydra.main", "hydra._internal.hydra", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "rich.live"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "PIL.PngImagePlugin"),
    *("alembic.command", "mlflow.store.tracking.sqlalchemy_workspace_store", "sqlalchemy.dialects.sqlite"),
    *("onecycle_sweeps.report.page", "onecycle_sweeps.sources.digits", "sklearn.datasets", "scipy.optimize"),
    "email.policy",
)


class Request(NamedTuple):
    """A command: its words after `python`, how it is started, and the numbers of its open files.

    A leader has a session of its own.
    """

    words: list[str]
    folder: str
    environment: dict[str, str]
    is_leader: bool
    files: list[int]
    ignored: list[int]
    blocked: list[int]

    @property
    def first(self) -> int:
        """The place of the first word that is no plain option."""
        return next((place for place, word in enumerate(self.words) if word not in OPTIONS), len(self.words))

    @property
    def is_spawned(self) -> bool:
        return any(word.startswith("from multiprocessing.spawn ") for word in self.words)

    def can_be_forked(self) -> bool:
        option, what = (*self.words[self.first : self.first + 2], "", "")[:2]
        is_ours = option == "-m" and what.partition(".")[0] == PROGRAM
        is_a_helper = option == "-c" and what.startswith("from multiprocessing.")
        starts_alike = all(self.environment.get(name) == os.environ.get(name) for name in READ_AT_START)
        return (is_ours or is_a_helper) and starts_alike


class Command(NamedTuple):
    """A command that runs: its process, and the connection to its client, which stands in its place."""

    process: int
    connection: socket.socket
    is_spawned: bool


def environment(shared: Path, outside: Mapping[str, str] = os.environ, *, pictures: bool = False) -> dict[str, str]:
    """The environment `outside` of a command that is to be forked, with or without its pictures.

    `shared` is a folder of the session. Its first call starts the process that forks, which ends after the one that
    runs the session.
    """
    path = os.pathsep.join(filter(None, (str(HOOK), outside.get("PYTHONPATH"))))
    drawn = {PICTURES: "drawn"} if pictures else {}
    return {**outside, ADDRESS: _address(shared), "PYTHONPATH": path, **drawn}


@cache
def _address(shared: Path) -> str:
    found = shared / "warm"
    with (shared / "warm.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not found.exists():
            # A socket's path has at most 108 characters, so the session's folder is too deep.
            address = Path(tempfile.mkdtemp(prefix="warm")) / "socket"
            session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            _start(address, session)
            found.write_text(str(address))
    return found.read_text()


def _start(address: Path, session: int) -> None:
    # What stands before the installed libraries, such as older ones, does so here too.
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", str(HOOK))]
    outside = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    words = [sys.executable, __file__, str(address), str(session)]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    # A test's folder would count it among the processes that a command has left there.
    process = subprocess.Popen(words, stdin=null, stdout=pipe, env=outside, cwd="/", start_new_session=True)
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline(), "the process that forks commands has not started"
    # It outlives this process, which Popen would warn of.
    process.returncode = 0


def serve(address: str, session: int) -> None:
    """Fork a command for each connection, for as long as the process of the session lives."""
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in LOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    # Each command would read the program's code, and compile the templates of its pages.
    importlib.import_module("onecycle_sweeps.provenance").program_modules()
    templates = importlib.import_module("onecycle_sweeps.report.page").environment()
    for name in templates.list_templates():
        templates.get_template(name)
    assert threading.active_count() == 1, threading.enumerate()
    # Otherwise each command's garbage collections would look at all that is loaded, and so copy it.
    gc.collect()
    gc.freeze()
    # What the libraries would tidy up at their end is this process's to tidy, and takes 7,000 page faults of a fork.
    for finalizer in vars(weakref.finalize)["_registry"]:
        finalizer.atexit = False
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    os.dup2(0, 1)
    commands: dict[int, Command] = {}
    while commands or _is_alive(session):
        connections = [command.connection for command in commands.values()]
        ready, _, _ = select.select([listener, *commands, *connections], [], [], 1.0)
        for ended, command in list(commands.items()):
            if ended in ready:
                _conclude(command)
                os.close(ended)
                del commands[ended]
            elif command.connection in ready:
                _pass_on(command, ended)
        if listener in ready:
            connection, _ = listener.accept()
            if command := _begun(connection):
                commands[os.pidfd_open(command.process)] = command
            else:
                connection.close()
    shutil.rmtree(Path(address).parent)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _begun(connection: socket.socket) -> Command | None:
    """Fork the command that is asked for; None if it cannot be forked, or who asked has ended."""
    message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, MOST_FILES)
    request = Request(*marshal.loads(message)) if message else None
    process = None
    if request and request.can_be_forked() and not (process := os.fork()):
        _become(request, files)
    for file in files:
        os.close(file)
    with suppress(OSError):
        connection.send(b"n" if process is None else b"y")
    return Command(process, connection, request.is_spawned) if request and process else None


def _pass_on(command: Command, pidfd: int) -> None:
    """Send the command the signal that its client got, or kill it if the client has ended."""
    try:
        number = command.connection.recv(1)
    except OSError:
        number = b""
    signal.pidfd_send_signal(pidfd, number[0] if number else signal.SIGKILL)


def _conclude(command: Command) -> None:
    """Tell the client of a command that has ended its status."""
    if command.is_spawned:
        # The program kills the group of such a process, and knows only the number of the one in its place.
        with suppress(ProcessLookupError):
            os.killpg(command.process, signal.SIGKILL)
    _, status = os.waitpid(command.process, 0)
    with suppress(OSError):
        command.connection.send(status.to_bytes(4, "little"))
    command.connection.close()


def _become(request: Request, files: list[int]) -> NoReturn:
    """Run a command as a fresh Python would."""
    if request.is_leader:
        os.setsid()
    os.chdir(request.folder)
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD, ASIDE) for file in files]
    os.closerange(0, ASIDE)
    for file, number in zip(aside, request.files, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request.environment)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
    _open_standard_files(request)
    outside = request.environment.get("PYTHONPATH", "")
    sys.path[:] = [request.folder, *filter(None, outside.split(os.pathsep)), *sys.path]
    # What a killed process has written stays, so nothing has to wait for the disk.
    os.fsync = lambda file: None
    if PICTURES not in request.environment:
        canvas = importlib.import_module("onecycle_sweeps.report.canvas")
        vars(canvas).update(write=empty_pictures, save=empty_picture, inline=no_drawing, compose=no_drawing)
        importlib.import_module("onecycle_sweeps.report.page").environment().globals["inline"] = no_drawing
    option, what, *arguments = request.words[request.first :]
    sys.argv[:], sys.orig_argv[:] = [option, *arguments], [sys.executable, *request.words]
    if option == "-c":
        getattr(atexit, "_clear")()  # noqa: B009
        _end_with(lambda: exec(what, {"__name__": "__main__"}))
    if what != PROGRAM:
        sys.modules.pop(what, None)
    _end_with(lambda: runpy.run_module(what, run_name="__main__", alter_sys=True))


def empty_pictures(plot: Any, folder: Path) -> list[Path]:
    """Leaves the files of a figure empty, since drawing takes a second of each report."""
    return [empty_picture(None, folder / f"{plot.name}{suffix}") for suffix in (".png", ".svg")]


def empty_picture(_: Any, path: Path, **__: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def no_drawing(_: Any) -> str:
    """Leaves a figure out of a page."""
    return ""


def _open_standard_files(request: Request) -> None:
    at_once = "-u" in request.words or bool(request.environment.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False) if 0 in request.files else None
    for name, number, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        raw = os.fdopen(number, "wb", 0 if at_once else -1, closefd=False)
        lines = number == 2 or os.isatty(number)
        made = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=lines, write_through=at_once)
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


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
    import quick_composing

    with quick_composing.quick_composing():
        quick_composing.parse_all()
        serve(sys.argv[1], int(sys.argv[2]))
