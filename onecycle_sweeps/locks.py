"""Locks on files: one helper for all who share a folder, on one machine or on several."""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

PAUSE_SECONDS = 0.02
MOUNTS = Path("/proc/self/mountinfo")
# What flock says on a file system without locks, such as Lustre that is mounted without -o flock.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Held(Exception):
    """Another process holds the lock."""


class NoLocks(OSError):
    """The file system knows no locks; the message says so in one line."""


def never() -> bool:
    """No end to waiting."""
    return False


def take(
    path: Path, *, seconds: float | None = None, shared: bool = False, given_up: Callable[[], bool] = never
) -> IO[bytes]:
    """Hold the lock file at `path`, made where it is missing, until what is returned is closed or its process ends.

    It waits `seconds` at most, by default for as long as it takes, and no longer once `given_up()` is true; then it
    raises Held. Raises NoLocks where the file system knows no locks. Whoever replaces or removes the file takes the
    lock from its holder: what is held is always the file that has the name.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", buffering=0)
        try:
            free = _try(file, path, shared)
            if free and _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        if free:
            continue
        if given_up() or (deadline is not None and time.monotonic() >= deadline):
            raise Held(f"another process holds {path}")
        time.sleep(PAUSE_SECONDS)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file at `path` alone; raises NoLocks."""
    while True:
        try:
            with path.open("rb") as file:
                free = _try(file, path, shared=True)
                if _is_at(file, path):
                    return not free
        except FileNotFoundError:
            return False


def check(folder: Path) -> None:
    """Raise NoLocks where files in a folder cannot be locked, OSError where it cannot be written to."""
    with TemporaryFile(dir=folder) as file:
        _try(file, folder, shared=False)


def file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on; `unknown` where this machine does not tell."""
    try:
        mounts = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    folder = folder.resolve()
    around = [words for words in mounts if folder.is_relative_to(words[4].replace("\\040", " "))]
    # Of several at one place the last one counts.
    best = max(enumerate(around), key=lambda found: (len(found[1][4]), found[0]), default=None)
    return best[1][best[1].index("-") + 1] if best else "unknown"


def _try(file: IO[bytes], path: Path, shared: bool) -> bool:
    """Whether the lock on an open file was free, and is held from now on."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        raise NoLocks(
            f"{path} cannot be locked ({error.strerror}): its file system, {file_system(path)}, is mounted without "
            "locks. Choose a runs_dir on one with locks, or have this one mounted with them (Lustre: -o flock)"
        ) from error
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
