"""Whole commands as users type them, and fresh processes: their wall time, CPU time and memory."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PROGRAM = (sys.executable, "-m", "onecycle_sweeps")
EXIT_SECONDS = 60.0
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Spent:
    """Seconds from start to exit, CPU seconds with all descendants, and the peak memory of the process in MiB."""

    wall: float
    cpu: float
    peak: float


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ) -> Spent:
    """Run a command to its end; raises RuntimeError with the end of its output if it fails."""
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
            time.sleep(POLL_SECONDS)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, most)


def apart(function: Callable[..., T], *arguments: object, timeout: float | None = None) -> T:
    """What a function returns in a fresh Python process; raises multiprocessing.TimeoutError after `timeout` s."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(function, arguments).get(timeout)


@contextmanager
def started(command: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ):
    """A running command, terminated at the end; gives its process and the time of its start."""
    with (folder / "output.txt").open("w") as output:
        began = time.time()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield process, began
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
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
    """The proportional share of memory (Pss) of a process and its descendants, in MiB."""
    total = 0
    for process in tree(root):
        with suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def peak(process: int) -> float | None:
    """The peak memory of a process in MiB; that of rusage may include the process that started it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None
