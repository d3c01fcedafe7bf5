"""A real SLURM cluster for one test: runs its client programs, and kills its daemons and nodes."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "slurm-cluster"
CLIENT_SECONDS = 60
UP_SECONDS = 400
# The options of scripts/slurm-cluster by the name that a test uses; other words are passed on as they are.
OPTIONS = {
    "no accounting": (),
    "accounting": ("--accounting",),
    "no requeue": ("--no-requeue",),
    "silent preemption": ("--silent-preemption",),
}


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up, and the environment of its clients."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """The output of a client command; fails if the command does."""
        done = self.attempt(*command, cwd=cwd)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def attempt(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a client command, which may fail."""
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )

    def sbatch(self, script: str, *options: str) -> str:
        """Submit a job that runs a line of shell; returns its id. `output` has what it prints."""
        return self.run("sbatch", "--parsable", f"--output={self.folder}/%j.out", *options, f"--wrap={script}")

    def output(self, job: str) -> str:
        """What a job of `sbatch` has printed so far."""
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def state(self, job: str) -> str:
        """A job's state, such as RUNNING; the controller knows it for a while after the end too."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def settle(self, job: str) -> None:
        """Return once the controller has written a job to disk; killed earlier, it would start a running job again."""
        written, now = self.folder / "state" / "job_state", time.time()
        self.run("scontrol", "update", f"jobid={job}", "admincomment=settled")
        self.wait_for(lambda: written.exists() and written.stat().st_mtime > now, "the controller's state on disk")

    def pid(self, daemon: str) -> int:
        """The process of a daemon: munged, slurmctld, n1, n2, ..., mariadbd, slurmdbd."""
        return int((self.folder / "pid" / daemon).read_text())

    def processes(self, node: str | None = None) -> list[int]:
        """The living processes of the cluster, or the daemon, steps and jobs of one node."""
        paths = [path for path in Path("/proc").glob("[0-9]*") if _is_alive(path) and self._has(path, node)]
        return sorted(int(path.name) for path in paths)

    def kill(self, daemon: str) -> None:
        """Kill a daemon; jobs continue."""
        pid = self.pid(daemon)
        os.kill(pid, signal.SIGKILL)
        self.wait_for(lambda: not _is_alive(Path(f"/proc/{pid}")), f"the death of {daemon}")

    def crash(self, node: str) -> None:
        """Kill all processes of a node, including its jobs."""
        while found := self.processes(node):
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def start(self, daemon: str) -> None:
        """Restart a daemon that was killed."""
        _script("start", self.folder, daemon)

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Return once the condition holds; fails after so many seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
            time.sleep(0.2)

    def _has(self, process: Path, node: str | None) -> bool:
        try:
            environment = (process / "environ").read_text(errors="replace").split("\0")
            if f"SLURM_CONF={self.folder}/slurm.conf" not in environment:
                return False
            if node is None or f"SLURMD_NODENAME={node}" in environment:
                return True
            # The process of a job step is recognised by its log only.
            return self.folder / "log" / f"{node}.log" in [link.readlink() for link in (process / "fd").iterdir()]
        except OSError:
            return False


@contextmanager
def up(folder: Path, *options: str) -> Iterator[Cluster]:
    """A cluster that is up within the context; skips the test if this machine has no SLURM."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    for program in ("slurmctld", "slurmdbd", "mariadbd") if "--accounting" in options else ("slurmctld",):
        if shutil.which(program, path=path) is None:
            pytest.skip(f"no {program}: scripts/slurm-cluster names the packages")
    try:
        _script("up", folder, *options)
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        yield Cluster(folder, outside | {"SLURM_CONF": f"{folder}/slurm.conf"})
    finally:
        _script("down", folder)
        # It has tens of megabytes, and pytest keeps the folders of three runs.
        shutil.rmtree(folder / "database", ignore_errors=True)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without accounting, or with the options of parametrize("cluster", ["accounting"], indirect=True).

    Several options are separated by commas: "accounting, no requeue, --set KillWait=30".
    """
    words = str(getattr(request, "param", "no accounting")).split(", ")
    # A socket's path has at most 108 characters, so the test's own folder is too deep.
    with up(
        tmp_path_factory.mktemp("slurm"), *(option for word in words for option in OPTIONS.get(word, word.split()))
    ) as made:
        yield made


def _script(command: str, folder: Path, *options: str) -> None:
    words = [str(SCRIPT), command, str(folder), *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=UP_SECONDS, check=False)
    assert done.returncode == 0, done.stderr


def _is_alive(process: Path) -> bool:
    """Whether a process is alive; a zombie, which may stay for long without an init, is not."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
