"""Whole commands as users type them, and fresh processes: their wall time, CPU time and memory."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


@contextmanager
def started(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[subprocess.Popen]:
    """A running command whose output goes to output.txt in its folder; it is stopped at the end."""
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(command: Sequence[str], folder: Path) -> Spent:
    """Run a command to its end; raises RuntimeError with the end of its output if it fails."""
    most, began = 0.0, time.perf_counter()
    with started(command, folder) as process:
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            most = peak(process.pid) or most
            time.sleep(POLL_SECONDS)
        wall = time.perf_counter() - began
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        output = (folder / "output.txt").read_text()[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, most)


def apart(function: Callable[..., T], *arguments: object, timeout: float | None = None) -> T:
    """What a function returns in a fresh Python process; raises multiprocessing.TimeoutError after `timeout` s."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(function, arguments).get(timeout)


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
    return sum(_mebibytes(process, "smaps_rollup", "Pss:") or 0 for process in tree(root))


def peak(process: int) -> float | None:
    """The peak memory of a process in MiB; that of rusage may include the process that started it."""
    return _mebibytes(process, "status", "VmHWM:")


def _mebibytes(process: int, file: str, key: str) -> float | None:
    """The value of a key in a file of /proc; None once the process has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) / 1024
    return None
