"""How PostgreSQL and MLflow are started, and how to tell that they answer."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from server_folder import ADMIN_PASSWORD, POSTGRES_PASSWORD, SECRET_KEY, ServerFolder

DOCKER = Path(__file__).resolve().parents[2] / "docker"
USER = DATABASE = "mlflow"
# PostgreSQL does not run as root: then it runs as the user that Debian's package creates.
POSTGRES_USER = "postgres"
PACKAGE = "apt-get install --no-install-recommends postgresql"
# Debian installs the programs of each version in a folder of their own.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])


def start_postgres(folder: ServerFolder) -> None:
    """Start PostgreSQL on loopback, with a database that only the server's password opens."""
    if shutil.which("initdb", path=PATH) is None:
        raise SystemExit(f"mlflow-server: no initdb: {PACKAGE}")
    database = folder.path / "database"
    if not database.exists():
        _create_database(folder, database)
    if not folder.is_alive("postgres"):
        # Where no init reaps processes, a killed one keeps its id, and the next PostgreSQL would take it for alive.
        (database / "postmaster.pid").unlink(missing_ok=True)
    port = str(folder.ports["postgres"])
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "timezone": "UTC"}
    arguments = [f"--{key}={value}" for key, value in options.items()]
    command = _as_postgres_user("postgres", "-D", str(database.resolve()), *arguments)
    folder.start("postgres", command, {}, lambda: _succeeds("pg_isready", "-q", "-h", "127.0.0.1", "-p", port))


def _create_database(folder: ServerFolder, link: Path) -> None:
    """Create the database in a folder that PostgreSQL's user can reach, and link to it."""
    data = Path(tempfile.mkdtemp(prefix="mlflow-database-"))
    if os.getuid() == 0:
        user = pwd.getpwnam(POSTGRES_USER)
        os.chown(data, user.pw_uid, user.pw_gid)
    secret = (folder.secrets / POSTGRES_PASSWORD).read_text()
    with tempfile.NamedTemporaryFile("w", dir=data.parent) as password:
        password.write(secret)
        password.flush()
        shutil.chown(password.name, *([POSTGRES_USER] if os.getuid() == 0 else [os.getuid()]))
        options = ("--auth=scram-sha-256", f"--pwfile={password.name}", "--encoding=UTF8", "--locale=C", "--no-sync")
        _run("initdb", "-D", str(data), f"--username={USER}", *options)
    _run("postgres", "--single", "-D", str(data), "postgres", text=f"create database {DATABASE}\n")
    link.symlink_to(data)


def start_mlflow(folder: ServerFolder) -> None:
    """Start MLflow by the container's own entrypoint."""
    port, secrets = folder.ports["mlflow"], folder.secrets
    environment = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(folder.ports["postgres"]),
        "PGUSER": USER,
        "PGDATABASE": DATABASE,
        "PGPASSWORD_FILE": str(secrets / POSTGRES_PASSWORD),
        "MLFLOW_AUTH_ADMIN_PASSWORD_FILE": str(secrets / ADMIN_PASSWORD),
        "MLFLOW_FLASK_SERVER_SECRET_KEY_FILE": str(secrets / SECRET_KEY),
        "PUBLIC_HOST": f"{folder.public_host}:{port}",
        "OTHER_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder.path / "artifacts"),
        "PYTHON": sys.executable,
    }
    health = [sys.executable, str(DOCKER / "healthy.py")]
    needed = {key: environment[key] for key in ("PUBLIC_HOST", "MLFLOW_PORT")}

    def answers() -> bool:
        # A check is a process of its own, so it waits until somebody listens.
        return _is_open(port) and _succeeds(*health, environment=needed)

    folder.start("mlflow", [str(DOCKER / "serve")], environment, answers)


PROGRAMS: dict[str, Callable[[ServerFolder], None]] = {"postgres": start_postgres, "mlflow": start_mlflow}


def _as_postgres_user(program: str, *arguments: str) -> list[str]:
    path = shutil.which(program, path=PATH) or program
    prefix = ["setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--clear-groups"]
    return [*(prefix if os.getuid() == 0 else []), path, *arguments]


def _run(program: str, *arguments: str, text: str = "") -> None:
    command = _as_postgres_user(program, *arguments)
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        raise SystemExit(f"mlflow-server: {program} failed: {done.stderr.strip() or done.stdout}")


def _is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _succeeds(program: str, *arguments: str, environment: dict[str, str] | None = None) -> bool:
    path = shutil.which(program, path=PATH) or program
    done = subprocess.run([path, *arguments], env={**os.environ, **(environment or {})}, capture_output=True)
    return done.returncode == 0
