"""up, down and start of a throw-away cluster; scripts/slurm-cluster says what they are for."""

import argparse
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from string import Template

import ports
import processes

TEMPLATES = Path(__file__).resolve().parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "sacctmgr")
PACKAGES = "slurm-wlm slurm-wlm-basic-plugins munge"
ACCOUNTING_PACKAGES = "slurmdbd mariadb-server-core mariadb-client-core"
# mariadb-install-db takes twice the time, for help texts and time zones.
SYSTEM_TABLES = [Path("/usr/share") / name / "mysql_system_tables.sql" for name in ("mysql", "mariadb")]
SMALL_DATABASE = ("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--debug-no-sync")
REPEATED = ("nodename", "partitionname")
UP_SECONDS = 60.0
CLIENT_SECONDS = 20.0


class PortTaken(Exception):
    """Another program took a port between its being found free and its use."""


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(prog="slurm-cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="from an empty folder to idle nodes; prints the line that makes a client")
    down = commands.add_parser("down", help="end its daemons and jobs; its logs stay")
    start = commands.add_parser("start", help="start one daemon that is dead")
    for command in (up, down, start):
        command.add_argument("folder", metavar="DIR", type=Path)
    start.add_argument("name", metavar="NAME", help="munged, mariadbd, slurmdbd, slurmctld, n1, n2, ...")
    up.add_argument("--nodes", type=int, default=4, help="each has 8 CPUs and 2 GPUs that are /dev/null")
    up.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB, so that sacct answers")
    up.add_argument("--no-requeue", action="store_true", help="JobRequeue=0")
    up.add_argument("--silent-preemption", action="store_true", help="a preempted job gets SIGTERM, and no --signal")
    up.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a line of slurm.conf; KEY= drops it"
    )
    options = parser.parse_args()
    cluster = Cluster(options.folder.resolve())
    if options.command == "up":
        bring_up(cluster, options)
    elif options.command == "start":
        cluster.start(options.name)
    else:
        take_down(cluster)


class Cluster:
    """A folder, and how its daemons are started there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        # No SLURM_ variable of a job or of another cluster may reach a daemon.
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        self.environment = outside | {"PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
        self.socket = folder / "mariadb.socket"
        # slurmdbd.conf has no key for it.
        self.environment["MYSQL_UNIX_PORT"] = str(self.socket)

    def start(self, name: str) -> None:
        """Start a daemon and return once it answers, where something needs it to."""
        folder = self.folder
        if name == "munged":
            # --force, because the folders above need not be open to everyone.
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
        """What a program says; the end of everything where it fails."""
        done = self._done(command, text)
        if done.returncode:
            raise SystemExit(f"{command[0]} failed: {done.stdout}{done.stderr}".strip())
        return done.stdout

    def answers(self, *command: str) -> str:
        """What a client says, or nothing where it fails."""
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
                raise SystemExit(f"waited {UP_SECONDS:g} s in vain for {name}; the ends of the logs:\n{logs}")
            time.sleep(0.03)

    def log(self, name: str) -> Path:
        """Where a daemon writes."""
        return self.folder / "log" / f"{name}.log"

    def logs(self) -> str:
        """The last lines of each daemon."""
        found = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(line for path in found for line in [f"-- {path}", *path.read_text().splitlines()[-8:]])

    def wait_for_nodes(self, count: int) -> None:
        """Return once all nodes are idle."""
        show = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T")
        self._wait("idle nodes", lambda: self.answers(*show).split() == ["idle"] * count)


def bring_up(cluster: Cluster, options: argparse.Namespace) -> None:
    """From nothing to idle nodes; prints the line for a shell."""
    refuse_missing(options.accounting)
    names = ["munged", *(["mariadbd", "slurmdbd"] if options.accounting else []), "slurmctld"]
    names += [f"n{number}" for number in range(1, options.nodes + 1)]
    for attempt in range(5):
        take_down(cluster)
        write(cluster, options)
        try:
            for name in names:
                cluster.start(name)
            cluster.wait_for_nodes(options.nodes)
        except PortTaken:
            print(f"slurm-cluster: a port was taken, attempt {attempt + 1}", file=sys.stderr)
        except BaseException:
            take_down(cluster)
            raise
        else:
            print(f"export SLURM_CONF={cluster.folder}/slurm.conf")
            return
    take_down(cluster)
    raise SystemExit("slurm-cluster: other programs took its ports five times")


def take_down(cluster: Cluster) -> None:
    """End all processes of the cluster and give its ports back."""
    left = processes.end(cluster.folder)
    ports.release(cluster.folder)
    for path in (cluster.folder / "pid").glob("*"):
        path.unlink()
    if left:
        raise SystemExit(f"slurm-cluster: these processes do not die: {left}")


def refuse_missing(accounting: bool) -> None:
    """Name the packages of programs that are not there."""
    needed = (*PROGRAMS, *(ACCOUNTING_PROGRAMS if accounting else ()))
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [name for name in needed if not shutil.which(name, path=path)]
    if missing:
        packages = f"{PACKAGES} {ACCOUNTING_PACKAGES}" if accounting else PACKAGES
        raise SystemExit(f"missing: {', '.join(missing)}. apt-get install --no-install-recommends {packages}")


def write(cluster: Cluster, options: argparse.Namespace) -> None:
    """The folder as the daemons want it, without what an earlier cluster left in it."""
    folder = cluster.folder
    for name in ("munge", "pid", "log", "state", "spool", "gpu", "database"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("munge", "pid", "log", "state", "gpu", *(f"spool/n{n + 1}" for n in range(options.nodes))):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o711)
    (folder / "munge" / "key").touch(0o600)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    for number in range(2):
        (folder / "gpu" / f"nvidia{number}").symlink_to("/dev/null")
    first = ports.claim(folder)
    values = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "user": getpass.getuser(),
        "nodes": options.nodes,
        "controller_port": first,
        "database_port": first + 1,
        "first_node_port": first + 2,
        "last_node_port": first + 1 + options.nodes,
    }
    for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
        lines = Template((TEMPLATES / name).read_text()).substitute(values).splitlines()
        lines = with_settings(lines, settings(options, folder, first + 1)) if name == "slurm.conf" else lines
        (folder / name).touch(0o600)
        (folder / name).write_text("\n".join(lines) + "\n")


def settings(options: argparse.Namespace, folder: Path, port: int) -> list[str]:
    """The lines of slurm.conf that the options stand for."""
    lines = ["JobRequeue=0"] if options.no_requeue else []
    if options.silent_preemption:
        lines.append("SlurmctldParameters=")
    if options.accounting:
        lines += ["AccountingStorageType=accounting_storage/slurmdbd", "AccountingStorageHost=127.0.0.1"]
        lines += [f"AccountingStoragePort={port}", f"AccountingStoragePass={folder}/munge/socket"]
    return lines + options.set


def with_settings(lines: list[str], chosen: list[str]) -> list[str]:
    """A key that is set replaces its line, except where a file may have several of it; one set to nothing goes."""
    keys = {line.partition("=")[0].lower() for line in chosen} - set(REPEATED)
    kept = [line for line in lines if line.partition("=")[0].lower() not in keys]
    return kept + [line for line in chosen if line.partition("=")[2]]


if __name__ == "__main__":
    main()
