"""Whole commands as users type them, and fresh processes: their wall time, CPU time and memory."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from benchmarks.timing import Cost

T = TypeVar("T")
PROGRAM = (sys.executable, "-m", "onecycle_sweeps")


@contextmanager
def started(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen]:
    """A running command, whose output goes to output.txt in its folder and whose STAMPS is a file there.

    It is stopped at the end. Raises RuntimeError with the end of its output if it has failed by then.
    """
    environment = os.environ | {"STAMPS": str(folder / "stamps")}
    (folder / "stamps").write_text("")
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield process
        if process.poll():
            text = (folder / "output.txt").read_text()[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {text}")
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(command: Sequence[str], folder: Path, meanwhile: Callable[[subprocess.Popen], object] = lambda _: None) -> Cost:
    """Run a command to its end; `meanwhile` is called once, with its process."""
    peak, began = 0.0, time.perf_counter()
    with started(command, folder) as process:
        meanwhile(process)
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            # The peak of rusage may include the process that started it.
            peak = mebibytes(process.pid, "status", "VmHWM:") or peak
            time.sleep(0.01)
        wall = time.perf_counter() - began
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak)


def apart(function: Callable[..., T], *arguments: object) -> T:
    """What a function returns in a fresh Python process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    lists = [path.read_text() for path in Path(f"/proc/{root}/task").glob("*/children")]
    return [root, *(one for child in " ".join(lists).split() for one in tree(int(child)))]


def cpu_seconds(process: int) -> float:
    """The CPU time that a process has used itself."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mebibytes(process: int, file: str, key: str) -> float:
    """The value of a key in a process's file of /proc; 0 once the process has ended."""
    try:
        return int(Path(f"/proc/{process}/{file}").read_text().split(key)[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0
