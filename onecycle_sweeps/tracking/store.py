"""A store that MLflow keeps: its address, the lock beside it, and a client that fails soon and with one line."""

import difflib
import gc
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from onecycle_sweeps import files
from onecycle_sweeps.credentials import redacted, whole
from onecycle_sweeps.files import never as never

if TYPE_CHECKING:
    from mlflow import MlflowClient

TIMEOUT_SECONDS = 10
LOCK_SECONDS = 600
LINE_LENGTH = 400
SERVER_SCHEMES = ("http", "https")
SERVER_DIALECTS = ("postgresql", "mysql", "mssql")
DIALECTS = ("sqlite", *SERVER_DIALECTS)
SQLITE_HEAD = b"SQLite format 3\0"
# A batch of points is some tens of thousands of objects in MLflow, none of which outlives it.
YOUNG_OBJECTS = 50_000
# Each request is made once, and soon given up: a server may have done what it gave no answer to, and to ask it again
# would make a second run. The next pass finds what is there.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_SECONDS),
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class StoreUnreachable(Exception):
    """The store cannot be used at this moment; the message is one line, without credentials."""


def check_uri(uri: str) -> None:
    """Raise ValueError, in one line, for a URI that is no store, as far as that is seen without opening it."""
    scheme, mark, _ = uri.partition("://")
    dialect, place = scheme.partition("+")[0], address(uri).removeprefix(scheme)
    if is_server(uri):
        _check_server(uri)
    elif dialect == "sqlite" and mark:
        _check_database_file(uri)
    elif dialect in SERVER_DIALECTS and mark:
        _check_driver(uri)
    elif re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise ValueError(f"tracking.uri={uri} has no scheme: a server's address begins as in http://{uri}")
    elif near := difflib.get_close_matches(dialect.lower(), (*SERVER_SCHEMES, *DIALECTS), 1, 0.7) if mark else []:
        raise ValueError(f"tracking.uri={address(uri)} has an unknown scheme: did you mean {near[0]}{place}?")
    elif uri.partition(":")[0] in ("file", uri) and uri not in ("databricks", "databricks-uc", "uc"):
        raise ValueError(
            f"tracking.uri={uri} is a folder, and MLflow advises a database in its place: sqlite:///mlflow.db "
            "(`mlflow migrate-filestore` takes over what a folder holds)"
        )
    else:
        raise ValueError(
            f"tracking.uri={address(uri)} is no store that this program can fill: take a database, such as "
            "sqlite:///mlflow.db, or the address of an MLflow server, http://..."
        )


def _check_server(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(f"tracking.uri={address(uri)} names no server: http://HOST or http://HOST:PORT") from None


def _check_database_file(uri: str) -> None:
    file = database_file(uri)
    if not file or file.name.startswith(":") or str(file).startswith("file:"):
        path = uri.partition("://")[2].lstrip("/")
        name = path if path and not path.startswith((":", "file:")) else "mlflow.db"
        raise ValueError(
            f"tracking.uri={uri} names no file: sqlite:///{name} (three slashes) lies in the working folder, "
            f"sqlite:////abs/{name} (four) elsewhere"
        )
    if file.exists():
        if not file.is_file():
            raise ValueError(f"tracking.uri: {file} is a folder: name a file, such as sqlite:///{file}/mlflow.db")
        if not os.access(file, os.R_OK | os.W_OK):
            raise ValueError(f"tracking.uri: {file} is not yours to write: name another file")
        with file.open("rb") as opened:
            if (head := opened.read(len(SQLITE_HEAD))) and head != SQLITE_HEAD:
                raise ValueError(f"tracking.uri: {file} is no sqlite database: name another file")
        return
    above = next(folder for folder in file.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"tracking.uri: {file} cannot be made, since {above} cannot be written to: name another file")


def _check_driver(uri: str) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError

    try:
        create_engine(uri).dispose()
    except (ArgumentError, ImportError, ValueError) as error:
        line = redacted(" ".join(str(error).split()))
        hint = "; for PostgreSQL: pip install 'psycopg[binary]'" if uri.startswith("postgresql") else ""
        raise ValueError(f"tracking.uri={address(uri)} cannot be opened here: {line}{hint}") from error


def address(uri: str) -> str:
    """Where the store is, without credentials or query."""
    scheme, mark, rest = uri.partition("://")
    rest = rest.partition("?")[0]
    return scheme + mark + (rest if scheme.startswith("sqlite") else rest.rpartition("@")[2])


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """The file of an sqlite store; None for any other store."""
    path = uri.partition(":///")[2].partition("?")[0]
    return Path(path) if uri.startswith("sqlite") and path else None


def stamp(uri: str) -> str | None:
    """What differs after any change of an sqlite store; None where that cannot be seen from outside.

    SQLite counts a file's changes at its byte 24, unless a write-ahead log holds them (https://sqlite.org/fileformat2.html).
    """
    if (path := database_file(uri)) is None:
        return None
    try:
        with path.open("rb") as file:
            head, status = file.read(28), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    if len(head) < 28 or head[18] != 1:
        return None
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {int.from_bytes(head[24:])}"


def locked(path: Path, expired: Callable[[], bool]) -> IO[bytes]:
    """Hold a lock file, open to be read and written, until it is closed or its process ends.

    Raises StoreUnreachable if others hold it for too long.
    """
    try:
        return files.lock(path, seconds=LOCK_SECONDS, give_up=expired)
    except files.AlreadyLocked:
        raise StoreUnreachable(f"other processes hold {path}") from None


@contextmanager
def reached(uri: str, expired: Callable[[], bool] = never) -> Iterator["MlflowClient"]:
    """A client of the store, alone with it where it is an sqlite file: MLflow's first use of one allows no race.

    What goes wrong with the store in the meantime is raised as StoreUnreachable.
    """
    try:
        if (file := database_file(uri)) is None:
            yield _client(whole(uri))
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_name(f"{file.name}.lock"), expired):
            _make_database(uri, file)
            if file.stat().st_ino != _used_first(file):
                raise StoreUnreachable(f"{file} was replaced while this process used it: sync fills it again")
            yield _client(uri)
    except _store_errors() as error:
        line = " ".join(redacted(str(error)).split()) or type(error).__name__
        raise StoreUnreachable(f"the MLflow store {address(uri)} cannot be used: {line[:LINE_LENGTH]}") from error


def greet(uri: str) -> None:
    """Ask a store something; raises StoreUnreachable where it does not answer, or does not let this client in."""
    with reached(uri) as client:
        if is_server(uri):
            client.search_experiments(max_results=1)


@cache
def _used_first(file: Path) -> int:
    """The inode of the database that MLflow keeps open in this process, whatever becomes of the name."""
    return file.stat().st_ino


def _make_database(uri: str, file: Path) -> None:
    """Make a fresh database aside and put it in place whole: MLflow cannot use one whose making was cut short."""
    if file.exists() and file.stat().st_size:
        return
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    _client(f"{uri.partition(':///')[0]}:///{part}").search_experiments(max_results=1)
    os.replace(part, file)


def _client(uri: str) -> "MlflowClient":
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not is_server(uri):
        _try_database(uri)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    client = MlflowClient(uri, uri)
    if not gc.get_freeze_count():
        # Looking again and again through what the imports left, and through batches on their way, takes a third of
        # the time that points take.
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS)
    return client


def _try_database(uri: str) -> None:
    """Fail at once where MLflow would try for minutes."""
    import sqlalchemy

    timeout = {} if uri.startswith("sqlite") else {"connect_timeout": TIMEOUT_SECONDS}
    engine = sqlalchemy.create_engine(uri, connect_args=timeout)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _store_errors() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError, ImportError
