"""An MLflow store: which address can be one, and a client for it that fails soon and in one line."""

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

from onecycle_sweeps import files, memory
from onecycle_sweeps.credentials import address, redacted, with_secrets
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
# MLflow must not retry a request: a server may have done what it did not answer, and a retry would make a second run.
# The next pass looks for what is there before it makes anything.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_SECONDS),
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class StoreUnreachable(Exception):
    """The store cannot be used at the moment; the message is one line without credentials."""


def check_uri(uri: str) -> None:
    """Raise ValueError, in one line, for a URI that cannot be a store, as far as can be seen without opening it."""
    scheme, separator, _ = uri.partition("://")
    dialect, rest = scheme.partition("+")[0], address(uri).removeprefix(scheme)
    if is_server(uri):
        _check_server(uri)
    elif dialect == "sqlite" and separator:
        _check_database_file(uri)
    elif dialect in SERVER_DIALECTS and separator:
        _check_driver(uri)
    elif re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise ValueError(f"tracking.uri={uri} has no scheme: write a server's address as http://{uri}")
    elif near := difflib.get_close_matches(dialect.lower(), (*SERVER_SCHEMES, *DIALECTS), 1, 0.7) if separator else []:
        raise ValueError(f"tracking.uri={address(uri)} has an unknown scheme: did you mean {near[0]}{rest}?")
    elif uri.partition(":")[0] in ("file", uri) and uri not in ("databricks", "databricks-uc", "uc"):
        raise ValueError(
            f"tracking.uri={uri} is a folder, and MLflow recommends a database instead: use sqlite:///mlflow.db "
            "(`mlflow migrate-filestore` copies a folder's runs into one)"
        )
    else:
        raise ValueError(
            f"tracking.uri={address(uri)} is not a store that this program can fill: use a database, such as "
            "sqlite:///mlflow.db, or the address of an MLflow server, http://..."
        )


def _check_server(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"tracking.uri={address(uri)} names no server: write http://HOST or http://HOST:PORT"
        ) from None


def _check_database_file(uri: str) -> None:
    file = database_file(uri)
    if not file or file.name.startswith(":") or str(file).startswith("file:"):
        path = uri.partition("://")[2].lstrip("/")
        name = path if path and not path.startswith((":", "file:")) else "mlflow.db"
        raise ValueError(
            f"tracking.uri={uri} names no file: write sqlite:///{name} (three slashes) for one in the working folder, "
            f"sqlite:////abs/{name} (four) for one elsewhere"
        )
    if file.exists():
        if not file.is_file():
            raise ValueError(f"tracking.uri: {file} is a folder: name a file, such as sqlite:///{file}/mlflow.db")
        if not os.access(file, os.R_OK | os.W_OK):
            raise ValueError(f"tracking.uri: you may not write to {file}: name another file")
        with file.open("rb") as opened:
            if (head := opened.read(len(SQLITE_HEAD))) and head != SQLITE_HEAD:
                raise ValueError(f"tracking.uri: {file} is not an sqlite database: name another file")
        return
    above = next(folder for folder in file.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"tracking.uri: cannot create {file}, since {above} is not writable: name another file")


def _check_driver(uri: str) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError

    try:
        create_engine(uri).dispose()
    except (ArgumentError, ImportError, ValueError) as error:
        line = redacted(" ".join(str(error).split()))
        hint = "; for PostgreSQL: pip install 'psycopg[binary]'" if uri.startswith("postgresql") else ""
        raise ValueError(f"tracking.uri={address(uri)} cannot be opened here: {line}{hint}") from error


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """The file of an sqlite store; None for any other store."""
    path = uri.partition(":///")[2].partition("?")[0]
    return Path(path) if uri.startswith("sqlite") and path else None


def stamp(uri: str) -> str | None:
    """A text that changes with any change of an sqlite store; None where the file alone does not show its changes.

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
    """Hold a lock file, open for reading and writing, until it is closed or its process ends.

    Raises StoreUnreachable if other processes hold it for too long, or once `expired()` is true.
    """
    try:
        return files.lock(path, seconds=LOCK_SECONDS, give_up=expired)
    except files.AlreadyLocked:
        raise StoreUnreachable(f"other processes hold {path}") from None


@contextmanager
def connected(uri: str, expired: Callable[[], bool] = never) -> Iterator["MlflowClient"]:
    """A client of the store. An sqlite file is locked meanwhile, since MLflow's first use of one allows no race.

    Any failure of the store inside the block is raised as StoreUnreachable.
    """
    try:
        if (file := database_file(uri)) is None:
            yield _client(with_secrets(uri))
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_name(f"{file.name}.lock"), expired):
            _create_database(uri, file)
            if file.stat().st_ino != _first_inode(file):
                raise StoreUnreachable(f"{file} was replaced while this process used it: run sync to fill it again")
            yield _client(uri)
    except _store_errors() as error:
        line = " ".join(redacted(str(error)).split()) or type(error).__name__
        raise StoreUnreachable(f"the MLflow store {address(uri)} cannot be used: {line[:LINE_LENGTH]}") from error


def ping(uri: str) -> None:
    """Raise StoreUnreachable where a store does not answer, or does not let this client in."""
    with connected(uri) as client:
        if is_server(uri):
            client.search_experiments(max_results=1)


@cache
def _first_inode(file: Path) -> int:
    """The inode of the database that MLflow opened in this process and keeps open, whatever becomes of its name."""
    return file.stat().st_ino


def _create_database(uri: str, file: Path) -> None:
    """Create a missing database under another name and rename it: MLflow cannot use one that is only half created."""
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
    _collect_seldom()
    return client


@cache
def _collect_seldom() -> None:
    """Scanning what the imports left, and the batches in flight, takes a third of the time of shipping points."""
    # Counting what is frozen takes tens of milliseconds.
    if not gc.get_freeze_count():
        gc.freeze()
        memory.collect_seldom()


def _try_database(uri: str) -> None:
    """Fail at once where MLflow would retry for minutes."""
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
