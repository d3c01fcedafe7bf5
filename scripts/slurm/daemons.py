"""The daemons of a cluster: how each is started, and how to tell that it answers."""

import getpass
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

# Debian installs daemons in folders that are not on a user's PATH.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
# mariadb-install-db takes twice as long, because it also loads help texts and time zones.
SYSTEM_TABLES = [Path("/usr/share") / name / "mysql_system_tables.sql" for name in ("mysql", "mariadb")]
SMALL_DATABASE = ("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--debug-no-sync")
UP_SECONDS = 60.0
CLIENT_SECONDS = 20.0


class PortTaken(Exception):
    """Another program took a port after it was found free."""


class Cluster:
    """A cluster in a folder: starts its daemons, which have SLURM_CONF of this folder in their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A daemon must not see variables of a job or of another cluster.
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        self.environment = outside | {"PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self.socket = folder / "mariadb.socket"
        # slurmdbd.conf has no key for the socket.
        self.environment["MYSQL_UNIX_PORT"] = str(self.socket)

    def start(self, name: str) -> None:
        """Start a daemon; returns once it answers, if other daemons need it."""
        folder = self.folder
        if name == "munged":
            # --force: munged would want the parent folders to be accessible to everyone.
            files = {"key-file": "key", "socket": "socket", "seed-file": "seed"}
            options = [f"--{option}={folder}/munge/{file}" for option, file in files.items()]
            self.run("munged", "--force", *options, f"--pid-file={folder}/pid/munged", f"--log-file={self.log(name)}")
        elif name == "mariadbd":
            self._start_mariadbd()
            self._wait(name, self.socket.exists)
        elif name == "slurmdbd":
            self.run("slurmdbd")
            self._wait(name, lambda: self.answers("sacctmgr", "--noheader", "show", "cluster"))
        elif name == "slurmctld":
            self.run("slurmctld")
            self._wait(name, lambda: "is UP" in self.answers("scontrol", "ping"))
        else:
            self.run("slurmd", "-N", name)

    def _start_mariadbd(self) -> None:
        data = self.folder / "database"
        base = ["mariadbd", "--no-defaults", f"--user={getpass.getuser()}", f"--datadir={data}", *SMALL_DATABASE]
        if not data.exists():
            (data / "mysql").mkdir(parents=True)
            tables = next(path for path in SYSTEM_TABLES if path.exists()).read_text()
            self.run(*base, "--bootstrap", text=f"use mysql;\n{tables}")
        self.socket.unlink(missing_ok=True)
        with self.log("mariadbd").open("ab") as log:
            daemon = subprocess.Popen(
                [*base, f"--socket={self.socket}", "--skip-networking", "--skip-grant-tables"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid" / "mariadbd").write_text(f"{daemon.pid}\n")

    def run(self, *command: str, text: str = "") -> str:
        """The output of a program; exits with its message if it fails."""
        done = self._done(command, text)
        if done.returncode:
            said = f"{done.stdout}{done.stderr}".strip()
            raise SystemExit(f"slurm-cluster: {command[0]} failed: {said or f'see {self.folder}/log'}")
        return done.stdout

    def answers(self, *command: str) -> str:
        """The output of a client program; empty if it fails."""
        try:
            done = self._done(command)
        except subprocess.TimeoutExpired:
            return ""
        return "" if done.returncode else done.stdout or "\n"

    def _done(self, command: tuple[str, ...], text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, input=text, capture_output=True, text=True, timeout=CLIENT_SECONDS
        )

    def _wait(self, name: str, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + UP_SECONDS
        while not condition():
            logs = self.logs()
            if "already in use" in logs:
                raise PortTaken
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"slurm-cluster: waited {UP_SECONDS:g} s in vain for {name}; the last lines of the logs:\n{logs}"
                )
            time.sleep(0.03)

    def log(self, name: str) -> Path:
        """The log of a daemon."""
        return self.folder / "log" / f"{name}.log"

    def logs(self) -> str:
        """The last lines of each daemon's log."""
        found = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(line for path in found for line in [f"-- {path}", *path.read_text().splitlines()[-8:]])

    def wait_for_nodes(self, count: int) -> None:
        """Return once all nodes are idle."""
        show = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T")
        self._wait("idle nodes", lambda: self.answers(*show).split() == ["idle"] * count)
