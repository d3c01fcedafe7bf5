"""A server's folder: its ports, its secrets, and its processes, each found again by a file that holds its id."""

import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import secret_files

# Below the ports that Linux gives to outgoing connections.
PORTS = range(10000, 12000)
UP_SECONDS = 180.0
END_SECONDS = 20.0
FREE_SECONDS = 5.0
POLL_SECONDS = 0.1
NEVER, ALIVE, DEAD, ANOTHER = "never started", "alive", "dead", "another process"


class Place:
    """A folder, and the processes that are started there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.secrets = folder, folder / "secrets"
        self._written = folder / "server.json"

    def prepare(self, public_host: str) -> None:
        """Make the folder, with ports and secrets that it keeps."""
        for name in ("pid", "log", "artifacts"):
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        secret_files.make(self.secrets)
        if not self._written.exists():
            free = (port for port in random.sample(PORTS, len(PORTS)) if _is_free(port))
            settings = {"public_host": public_host, "ports": {"postgres": next(free), "mlflow": next(free)}}
            self._written.write_text(json.dumps(settings))

    @cached_property
    def _settings(self) -> dict[str, Any]:
        if not self._written.exists():
            raise SystemExit(f"mlflow-server: there is no server in {self.folder}: `up` makes one")
        return json.loads(self._written.read_text())

    @property
    def ports(self) -> dict[str, int]:
        """The port of each program."""
        return self._settings["ports"]

    @property
    def public_host(self) -> str:
        """The name that browsers call the server by, without its port."""
        return self._settings["public_host"]

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], answers: Callable[[], bool]
    ) -> None:
        """Start a process in a session of its own and return once it answers; fails where one is at work or it ends."""
        if self.is_alive(name):
            raise SystemExit(f"mlflow-server: {name} runs already in {self.folder}")
        self.end(name)
        # What was killed a moment ago may not have let go of it.
        deadline = time.monotonic() + FREE_SECONDS
        while not _is_free(self.ports[name]):
            if time.monotonic() > deadline:
                raise SystemExit(f"mlflow-server: another program has taken port {self.ports[name]} of {name}")
            time.sleep(POLL_SECONDS)
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid" / name).write_text(f"{process.pid}\n")
        deadline = time.monotonic() + UP_SECONDS
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.end(name)
                raise SystemExit(f"mlflow-server: {name} does not come up: {Path(log.name)} says why")
            time.sleep(POLL_SECONDS)

    def is_alive(self, name: str) -> bool:
        """Whether the process that was started last by this name lives."""
        return self._leader(name)[1] == ALIVE

    def end(self, *names: str) -> None:
        """End processes, one after the other, at once where they do not leave in time."""
        for name in names:
            pid, stands = self._leader(name)
            if stands == ALIVE:
                # PostgreSQL takes SIGTERM for a wish to wait for its clients.
                os.kill(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
            deadline = time.monotonic() + END_SECONDS
            while self.is_alive(name) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            if stands in (ALIVE, DEAD):
                # What a leader that was killed has left behind is still of its group.
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            (self.folder / "pid" / name).unlink(missing_ok=True)

    def _leader(self, name: str) -> tuple[int, str]:
        """The id in a program's file, and whether that process lives, is dead, or another has got its id since."""
        path = self.folder / "pid" / name
        if not path.exists():
            return 0, NEVER
        pid = int(path.read_text())
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return pid, DEAD
        state, session, ticks = fields[0], int(fields[3]), int(fields[19])
        if session != pid or _boot_time() + ticks / os.sysconf("SC_CLK_TCK") > path.stat().st_mtime + 1:
            return pid, ANOTHER
        return pid, DEAD if state in "ZX" else ALIVE


def _boot_time() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime")))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
