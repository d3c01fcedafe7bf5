"""A server's folder: its ports, its secrets, and its processes, whose ids are in files."""

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

# Below the ports that Linux assigns to outgoing connections.
PORTS = range(10000, 12000)
# A program that ends is noticed at once. On a busy machine MLflow needs minutes to create its tables.
START_SECONDS = 600.0
STOP_SECONDS = 20.0
FREE_SECONDS = 5.0
POLL_SECONDS = 0.1
NEVER_STARTED, ALIVE, DEAD, ID_REUSED = "never started", "alive", "dead", "id reused"
POSTGRES_PASSWORD, ADMIN_PASSWORD, SECRET_KEY = "postgres_password", "mlflow_admin_password", "mlflow_secret_key"
SECRET_BYTES = 32


class ServerFolder:
    """A folder, and the processes that were started for it."""

    def __init__(self, path: Path) -> None:
        self.path, self.secrets = path, path / "secrets"
        self._settings_file = path / "server.json"

    def prepare(self, public_host: str) -> None:
        """Create the folder; its ports and secrets do not change from then on."""
        for name in ("pid", "log", "artifacts"):
            (self.path / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        create_secrets(self.secrets)
        if not self._settings_file.exists():
            free = (port for port in random.sample(PORTS, len(PORTS)) if _is_free(port))
            settings = {"public_host": public_host, "ports": {"postgres": next(free), "mlflow": next(free)}}
            self._settings_file.write_text(json.dumps(settings))

    @cached_property
    def _settings(self) -> dict[str, Any]:
        if not self._settings_file.exists():
            raise SystemExit(f"mlflow-server: there is no server in {self.path}: `up` creates one")
        return json.loads(self._settings_file.read_text())

    @property
    def ports(self) -> dict[str, int]:
        """The port of each program."""
        return self._settings["ports"]

    @property
    def public_host(self) -> str:
        """The name by which browsers reach the server, without its port."""
        return self._settings["public_host"]

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], answers: Callable[[], bool]
    ) -> None:
        """Start a program in a session of its own and wait until it answers; exits with a message if it does not."""
        if self.is_alive(name):
            raise SystemExit(f"mlflow-server: {name} already runs in {self.path}")
        self.stop(name)
        # A process that was killed a moment ago may not have released its port.
        deadline = time.monotonic() + FREE_SECONDS
        while not _is_free(self.ports[name]):
            if time.monotonic() > deadline:
                raise SystemExit(f"mlflow-server: another program uses port {self.ports[name]} of {name}")
            time.sleep(POLL_SECONDS)
        with (self.path / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.path / "pid" / name).write_text(f"{process.pid}\n")
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop(name)
                raise SystemExit(f"mlflow-server: {name} did not start: see {Path(log.name)}")
            time.sleep(POLL_SECONDS)

    def is_alive(self, name: str) -> bool:
        """Whether the program runs."""
        return self._process(name)[1] == ALIVE

    def stop(self, *names: str) -> None:
        """Stop programs one after the other; one that does not end in time is killed."""
        for name in names:
            pid, status = self._process(name)
            if status == ALIVE:
                # On SIGTERM, PostgreSQL would wait for its clients to leave.
                os.kill(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while self.is_alive(name) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            if status in (ALIVE, DEAD):
                # The children of a process that was killed are still in its group.
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            (self.path / "pid" / name).unlink(missing_ok=True)

    def _process(self, name: str) -> tuple[int, str]:
        """The id of a program's process, and whether it is alive, dead, or its id belongs to another process now."""
        path = self.path / "pid" / name
        if not path.exists():
            return 0, NEVER_STARTED
        pid = int(path.read_text())
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return pid, DEAD
        state, session, ticks = fields[0], int(fields[3]), int(fields[19])
        if session != pid or _boot_time() + ticks / os.sysconf("SC_CLK_TCK") > path.stat().st_mtime + 1:
            return pid, ID_REUSED
        return pid, DEAD if state in "ZX" else ALIVE


def create_secrets(folder: Path) -> None:
    """Create the secrets that are missing, each in a file of its own.

    A container's users differ from the host's and have to read the files, so it is the folder that is closed to others.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in (POSTGRES_PASSWORD, ADMIN_PASSWORD, SECRET_KEY):
        path = folder / name
        if not path.exists():
            path.write_text(secrets.token_urlsafe(SECRET_BYTES))
            path.chmod(0o444)


def _boot_time() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime")))


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
