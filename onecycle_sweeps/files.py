"""The program's files: atomic and durable writes, formats, and locks."""

import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar
from weakref import WeakSet

# The format of every file that is written. A file that names no format was written before there were formats, and has
# format 0.
FORMAT = 1
# A temporary file that has not changed for this long belongs to a process that was killed.
STALE_SECONDS = 3600.0
LOCK_RETRY_SECONDS = 0.02
# The pauses before a stale handle is tried again, and before a file that is not whole is read again.
STALE_PAUSES, HALF_PAUSES = (0.01, 0.05, 0.2, 0.5, 1.0), (0.05, 0.2, 0.5)
# On these file systems a machine may see a file that another one has just written without its content.
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "gpfs", "ceph", "glusterfs", "fuse")
MOUNTS = Path("/proc/self/mountinfo")
# The errors of flock on a file system without locks, such as Lustre mounted without -o flock.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
T = TypeVar("T")
Fields = Mapping[str, type | tuple[type, ...]]


class Unreadable(ValueError):
    """One of the program's files cannot be used; the message names it in one line."""


class Damaged(Unreadable):
    """The content is not what any version of the program writes; `remedy` says what happens to the trial."""

    remedy = "the sweep's command trains it again"


class Replaceable(Damaged):
    """The file is damaged, but its trial can continue without it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class UnknownFormat(Unreadable):
    """The file has a format that this version of the program does not know."""


class StaleHandle(OSError, Unreadable):
    """The file server keeps saying that a file or folder has been replaced."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be used: {self.strerror}"


class AlreadyLocked(Exception):
    """Another process holds the lock."""


class NoLocks(OSError):
    """The file system does not support locks."""


def steadily(path: Path, call: Callable[[], T]) -> T:
    """The result of a call that reads or writes `path`, which is repeated for a while if the server answers ESTALE.

    NFS answers so for a file that another machine has replaced or moved, until this machine looks it up again. Raises
    StaleHandle if repeating does not help.
    """
    for pause in (*STALE_PAUSES, None):
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE or isinstance(error, StaleHandle):
                raise
            if pause is None:
                tried = f"{os.strerror(errno.ESTALE)} after {len(STALE_PAUSES) + 1} tries"
                raise StaleHandle(errno.ESTALE, tried, str(path)) from error
        time.sleep(pause)
    raise AssertionError


def never() -> bool:
    """Return False."""
    return False


def write(
    path: Path, content: str | bytes | memoryview, *, before_replacing: Callable[[], object] | None = None
) -> None:
    """Replace a file durably: a reader sees either the previous content or this one.

    `before_replacing` is called at the last moment; if it raises, the file is not replaced.
    Raises FileNotFoundError if another process has removed the temporary file in the meantime.
    """
    steadily(path, lambda: _write(path, content, before_replacing))


def _write(path: Path, content: str | bytes | memoryview, before_replacing: Callable[[], object] | None) -> None:
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if before_replacing:
            before_replacing()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """A hidden path beside a file, unique among processes on all machines."""
    host = socket.gethostname().partition(".")[0]
    return path.with_name(f".{path.name}.{host}-{os.getpid()}-{secrets.token_hex(4)}")


def remove_temporary(folder: Path, names: Collection[str] = ()) -> None:
    """Remove the temporary files of these names in a folder, and all others that killed processes left behind."""
    for temporary in folder.glob(".*.*-*-*"):
        name = temporary.name[1:].rpartition(".")[0]
        try:
            if name in names or time.time() - temporary.lstat().st_mtime > STALE_SECONDS:
                temporary.unlink()
        except FileNotFoundError:
            pass


def sync_folder(folder: Path) -> None:
    """Make a folder's list of files durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically."""
    write(path, to_json(data))


def to_json(data: Mapping[str, Any]) -> str:
    """The text of a JSON file with this content and the format."""
    return json.dumps(with_format(data), indent=2) + "\n"


def with_format(data: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the format in which it is written."""
    return {"format": FORMAT, **{key: value for key, value in data.items() if key != "format"}}


def read_json(path: Path, fields: Fields | None = None) -> dict[str, Any] | None:
    """A JSON file's content without its format; None if there is no such file.

    Raises Unreadable if it is damaged, lacks one of `fields`, or has an unknown format.
    """
    found = read_json_with_format(path, fields)
    return found[1] if found else None


def read_json_with_format(path: Path, fields: Fields | None = None) -> tuple[int, dict[str, Any]] | None:
    """A JSON file's format and content; None if there is no such file. Raises as `read_json` does."""

    def read() -> tuple[int, dict[str, Any]] | None:
        if (data := read_bytes(path)) is None:
            return None
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"{path} is damaged ({'not whole' if data.strip() else 'empty'})") from error
        return split_format(path, content, fields)

    return once_whole(path.parent, read)


def once_whole(folder: Path, read: Callable[[], T]) -> T:
    """The result of `read`, which reads files in a folder and is repeated for a while if it raises Damaged.

    It is repeated only on network file systems, which may show another machine's file before its content.
    """
    for pause in HALF_PAUSES:
        try:
            return read()
        except Damaged:
            if not _is_remote(folder):
                raise
        time.sleep(pause)
    return read()


def read_bytes(path: Path) -> bytes | None:
    """A file's content; None if there is no such file. Raises Unreadable if it cannot be read."""
    try:
        return steadily(path, path.read_bytes)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from error


def listed(folder: Path) -> list[str]:
    """The names in a folder; none if it is missing or may not be read."""
    try:
        return steadily(folder, lambda: os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def split_format(path: Path, content: Any, fields: Fields | None = None) -> tuple[int, dict[str, Any]]:
    """The format and the rest of the content of the file at `path`; raises as `read_json` does."""
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged ({'empty' if content is None else 'not a mapping'})")
    check_format(path, found := content.pop("format", 0))
    for name, kind in (fields or {}).items():
        if name not in content or not isinstance(content[name], kind):
            raise Damaged(f"{path} is damaged ({'no whole' if name in content else 'no'} {name!r})")
    return found, content


def check_format(path: Path, found: Any) -> None:
    """Raise UnknownFormat for a format that this version does not know."""
    if found not in (0, FORMAT) or isinstance(found, bool):
        known = f"this version of the program reads formats up to {FORMAT}"
        raise UnknownFormat(f"{path} has format {found}, and {known}: use the version that wrote it")


# A process that is forked, such as one that reads for a DataLoader, would have the locks of its parent until it ends.
_locked: WeakSet[IO[bytes]] = WeakSet()


def _close_locks() -> None:
    for file in list(_locked):
        file.close()


os.register_at_fork(after_in_child=_close_locks)


def lock(
    path: Path, *, seconds: float | None = None, shared: bool = False, give_up: Callable[[], bool] = never
) -> IO[bytes]:
    """Lock the file at `path`, which is made if it is missing, until the returned file is closed or the process ends.

    A process that is forked meanwhile has no part in the lock. Waits for at most `seconds`, by default without a limit,
    or until `give_up()` is true; then raises AlreadyLocked. Raises NoLocks where the file system has no locks.
    Replacing or removing the file breaks the lock.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    while True:
        file = os.fdopen(steadily(path, lambda: os.open(path, flags, 0o666)), "r+b", buffering=0)
        try:
            locked = _try_lock(file, path, shared)
            if locked and _is_at(file, path):
                _locked.add(file)
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        if locked:
            continue
        if give_up() or (deadline is not None and time.monotonic() >= deadline):
            raise AlreadyLocked(f"another process holds {path}")
        time.sleep(LOCK_RETRY_SECONDS)


def is_locked(path: Path) -> bool:
    """Whether a process has an exclusive lock on the file at `path`; raises NoLocks."""
    while True:
        try:
            with steadily(path, lambda: path.open("rb")) as file:
                free = _try_lock(file, path, shared=True)
                if _is_at(file, path):
                    return not free
        except FileNotFoundError:
            return False


def check_locks(folder: Path) -> None:
    """Raise NoLocks if files in a folder cannot be locked, OSError if the folder is not writable."""
    with TemporaryFile(dir=folder) as file:
        _try_lock(file, folder, shared=False)


def file_system(folder: Path) -> str:
    """The type of a folder's file system; `unknown` if the machine does not report it."""
    try:
        mounts = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    folder = folder.resolve()
    around = [words for words in mounts if folder.is_relative_to(words[4].replace("\\040", " "))]
    # The last one of several mounts on one path counts.
    best = max(enumerate(around), key=lambda found: (len(found[1][4]), found[0]), default=None)
    return best[1][best[1].index("-") + 1] if best else "unknown"


@cache
def _is_remote(folder: Path) -> bool:
    """Whether a folder's file system is one of NETWORK."""
    return file_system(folder).partition(".")[0] in NETWORK


def _try_lock(file: IO[bytes], path: Path, shared: bool) -> bool:
    """Lock an open file if its lock is free, and return whether it was."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        raise NoLocks(
            f"{path} cannot be locked ({error.strerror}): its file system, {file_system(path)}, is mounted without "
            "locks. Choose a runs_dir on another one, or have it mounted with locks (Lustre: -o flock)"
        ) from error
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
