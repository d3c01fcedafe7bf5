"""How PostgreSQL and MLflow are started, and when they answer."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import secret_files
from place import Place

DOCKER = Path(__file__).resolve().parents[2] / "docker"
USER = DATABASE = "mlflow"
# PostgreSQL refuses to be run by root: then it is run by the user whom Debian's package makes.
ITS_USER = "postgres"
PACKAGE = "apt-get install --no-install-recommends postgresql"
# Debian keeps the programs of each version apart.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])


def start_postgres(place: Place) -> None:
    """PostgreSQL on loopback, with a database that only the server's password opens."""
    if shutil.which("initdb", path=PATH) is None:
        raise SystemExit(f"mlflow-server: no initdb: {PACKAGE}")
    database = place.folder / "database"
    if not database.exists():
        _make_database(place, database)
    if not place.is_alive("postgres"):
        # Where no init reaps, one that was killed keeps its id, and the next would take it for alive.
        (database / "postmaster.pid").unlink(missing_ok=True)
    port = str(place.ports["postgres"])
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "timezone": "UTC"}
    command = _as_its_user("postgres", "-D", str(database.resolve()), *(f"--{k}={v}" for k, v in options.items()))
    place.start("postgres", command, {}, lambda: _succeeds("pg_isready", "-q", "-h", "127.0.0.1", "-p", port))


def _make_database(place: Place, link: Path) -> None:
    """Fill a folder of PostgreSQL's own, which has to be one that its user can reach."""
    data = Path(tempfile.mkdtemp(prefix="mlflow-database-"))
    if os.getuid() == 0:
        user = pwd.getpwnam(ITS_USER)
        os.chown(data, user.pw_uid, user.pw_gid)
    secret = (place.secrets / secret_files.POSTGRES_PASSWORD).read_text()
    with tempfile.NamedTemporaryFile("w", dir=data.parent) as password:
        password.write(secret)
        password.flush()
        shutil.chown(password.name, *([ITS_USER] if os.getuid() == 0 else [os.getuid()]))
        made = ("--auth=scram-sha-256", f"--pwfile={password.name}", "--encoding=UTF8", "--locale=C", "--no-sync")
        _run(*_as_its_user("initdb", "-D", str(data), f"--username={USER}", *made))
    _run(*_as_its_user("postgres", "--single", "-D", str(data), "postgres"), text=f"create database {DATABASE}\n")
    link.symlink_to(data)


def start_mlflow(place: Place) -> None:
    """MLflow by the container's own entrypoint."""
    port, secrets = place.ports["mlflow"], place.secrets
    environment = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(place.ports["postgres"]),
        "PGUSER": USER,
        "PGDATABASE": DATABASE,
        "PGPASSWORD_FILE": str(secrets / secret_files.POSTGRES_PASSWORD),
        "MLFLOW_AUTH_ADMIN_PASSWORD_FILE": str(secrets / secret_files.ADMIN_PASSWORD),
        "MLFLOW_FLASK_SERVER_SECRET_KEY_FILE": str(secrets / secret_files.SECRET_KEY),
        "PUBLIC_HOST": f"{place.public_host}:{port}",
        "OTHER_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_ARTIFACTS_DESTINATION": str(place.folder / "artifacts"),
        "PYTHON": sys.executable,
    }
    health = [sys.executable, str(DOCKER / "healthy.py")]
    asked = {key: environment[key] for key in ("PUBLIC_HOST", "MLFLOW_PORT")}
    place.start("mlflow", [str(DOCKER / "serve")], environment, lambda: _succeeds(*health, environment=asked))


PROGRAMS: dict[str, Callable[[Place], None]] = {"postgres": start_postgres, "mlflow": start_mlflow}


def _as_its_user(program: str, *arguments: str) -> list[str]:
    path = shutil.which(program, path=PATH) or program
    other = ["setpriv", f"--reuid={ITS_USER}", f"--regid={ITS_USER}", "--clear-groups"] if os.getuid() == 0 else []
    return [*other, path, *arguments]


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        raise SystemExit(f"mlflow-server: {Path(command[-1]).name} failed: {done.stderr.strip() or done.stdout}")


def _succeeds(program: str, *arguments: str, environment: dict[str, str] | None = None) -> bool:
    path = shutil.which(program, path=PATH) or program
    done = subprocess.run([path, *arguments], env={**os.environ, **(environment or {})}, capture_output=True)
    return done.returncode == 0
