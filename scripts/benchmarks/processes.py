"""Whole commands as their users type them: how long they take, on which cores' time, and in how much memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAM = (sys.executable, "-m", "onecycle_sweeps")
LEAVE_SECONDS = 60.0
LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Spent:
    """A command's seconds from Enter to exit, CPU seconds with all that it started, and its own peak memory in MiB."""

    wall: float
    cpu: float
    peak: float


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ) -> Spent:
    """Run a command to its end; raises RuntimeError with its last words where it fails."""
    log = folder / "output.txt"
    with log.open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        most = 0.0
        while True:
            most = peak(process.pid) or most
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(LOOK_SECONDS)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, most)


@contextmanager
def started(command: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ):
    """A command at work, which is asked to save and leave in the end; gives its process and when it was started."""
    with (folder / "output.txt").open("w") as output:
        began = time.time()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield process, began
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tree(root: int) -> list[int]:
    """A process and all that descend from it, as they are at this moment."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def memory(root: int) -> float:
    """The memory of a command and its descendants in MiB, each shared page counted in parts that add up to one."""
    total = 0
    for process in tree(root):
        with suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def peak(process: int) -> float | None:
    """The most memory that a process has had, in MiB; what rusage says of it may be of the process that started it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None
