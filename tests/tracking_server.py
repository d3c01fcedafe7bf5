"""Real tracking servers for tests: PostgreSQL and MLflow with its login, as in docker/compose.yaml, or MLflow alone."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onecycle_sweeps import tracking

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "mlflow-server"
# A name that cannot be resolved: a server's machine may be unable to look up the server's public name.
PUBLIC_NAME = "mlflow.team.test"
UP_SECONDS, END_SECONDS = 300, 30


@dataclass(frozen=True)
class Server:
    """A running server; `uri` has no login, `environment` has that of its admin."""

    folder: Path
    uri: str
    environment: dict[str, str]

    @property
    def password(self) -> str:
        """The admin's password."""
        return self.environment["MLFLOW_TRACKING_PASSWORD"]

    @property
    def port(self) -> int:
        """The port on loopback."""
        return int(self.uri.rpartition(":")[2])

    @property
    def uri_with_login(self) -> str:
        """The URI with the admin's name and password in it."""
        return self.uri.replace("://", f"://admin:{self.password}@")

    def pid(self, name: str) -> int:
        """The id of the process of `postgres` or `mlflow`, which leads its session."""
        return int((self.folder / "pid" / name).read_text())

    def kill(self, name: str) -> None:
        """Kill `postgres` or `mlflow`, with all its processes."""
        os.kill(self.pid(name), signal.SIGKILL)
        if name == "mlflow":
            os.killpg(self.pid(name), signal.SIGKILL)

    def stop(self, name: str) -> None:
        """Stop `postgres` or `mlflow` in an orderly way; returns once it has ended."""
        os.kill(self.pid(name), signal.SIGINT if name == "postgres" else signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        while self.is_alive(name):
            assert time.monotonic() < deadline, f"{name} does not end"
            time.sleep(0.05)

    def is_alive(self, name: str) -> bool:
        """Whether `postgres` or `mlflow` runs."""
        try:
            return Path(f"/proc/{self.pid(name)}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def start(self, name: str) -> None:
        """Start `postgres` or `mlflow` after its end; returns once it answers."""
        _script("start", self.folder, name)

    def dump(self) -> str:
        """The whole database, as SQL."""
        settings = self.settings()
        words = ["pg_dump", "--host=127.0.0.1", f"--port={settings['PGPORT']}", "--username=mlflow", "mlflow"]
        password = (self.folder / "secrets" / "postgres_password").read_text()
        done = subprocess.run(words, env={**os.environ, "PGPASSWORD": password}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection to the database, by psycopg."""
        import psycopg

        settings = self.settings()
        password = (self.folder / "secrets" / "postgres_password").read_text()
        place = f"host=127.0.0.1 port={settings['PGPORT']} user=mlflow dbname=mlflow connect_timeout=10"
        with psycopg.connect(place, password=password, autocommit=True) as connection:
            yield connection

    def ask(self, query: str, *values: str) -> list[Any]:
        """The rows of a query to the database."""
        with self.connected() as connection:
            return connection.execute(query.encode(), values).fetchall()

    def settings(self) -> dict[str, str]:
        """The environment of the MLflow process."""
        lines = Path(f"/proc/{self.pid('mlflow')}/environ").read_text().split("\0")
        return dict(line.split("=", 1) for line in lines if "=" in line)


@contextmanager
def mlflow_server(uri: str, port: int) -> Iterator[None]:
    """The server that `ui` starts, ready to answer."""
    with subprocess.Popen(
        tracking.ui_command(uri, port),
        env=tracking.ui_environment(uri),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            while not _is_up(port):
                assert server.poll() is None, "mlflow server ended"
                time.sleep(0.2)
            yield
        finally:
            server.terminate()


def _is_up(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def up(folder: Path, **environment: str) -> Iterator[Server]:
    """Set up a server, and stop it afterwards; skips where this machine lacks one of its programs.

    Its database is in TMPDIR.
    """
    if not any(map(shutil.which, ("initdb", "pg_ctlcluster"))):
        pytest.skip("no PostgreSQL: apt-get install --no-install-recommends postgresql")
    for module, package in (("flask_wtf", "mlflow[auth]"), ("psycopg", "psycopg[binary]")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}: pip install '{package}'")
    try:
        said = _script("up", folder, "--public-host", PUBLIC_NAME, **environment)
        uri = next(line.partition("=")[2] for line in said.splitlines() if "TRACKING_URI=" in line)
        password = (folder / "secrets" / "mlflow_admin_password").read_text()
        login = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
        yield Server(folder, uri, login)
    finally:
        _script("down", folder)
        if (folder / "database").exists():
            shutil.rmtree((folder / "database").resolve())


def _script(command: str, folder: Path, *options: str, **more: str) -> str:
    words = [str(SCRIPT), command, str(folder), *options]
    # Settings for clients of other servers must not reach this one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PG"))}
    environment |= {"PYTHON": sys.executable, **more}
    done = subprocess.run(words, capture_output=True, text=True, timeout=UP_SECONDS, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a process; each test has its own experiment and leaves both programs running."""
    with up(tmp_path_factory.mktemp("server")) as made:
        yield made
