"""How long it takes from a command's start to the first training step, and how much memory workers take."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import processes
from benchmarks.page import Result, Table
from benchmarks.work import Options
from onecycle_sweeps.machine import cores

TIMEOUT_SECONDS, SETTLE_SECONDS = 300.0, 1.0
# The least that any program must do that trains with torch on cached images.
LEAST = "import sys, time, numpy, torch; [numpy.load(f, mmap_mode='c') for f in sys.argv[2:]]; \
open(sys.argv[1], 'a').write(f'{time.time()}\\n')"
ONE, SWEEP, BARE = "one trial", "a sweep of {workers} seeds, {workers} workers", "import torch, map the data"
CAPTION = """From the start of a process to the beginning of the first training step, which the net stamps, on {data} \
that an earlier command has decoded, with a fixed rate. A row is a command; they take turns for {rounds} rounds; \
"{bare}" is a fresh Python that imports torch and numpy and maps the decoded arrays. Seconds are medians; the ratio \
to that row is the median over rounds. A sweep counts to the first step of its first worker, and in the last column \
of its last worker."""
MEMORY = """The memory of a sweep's whole process tree (launcher, workers and whatever else it started), as the sum \
of each process's proportional share (Pss), {settle:g} s after the last worker's first step; simple_cnn on {data}, \
one thread a worker. A row is a number of workers, one command each."""


def run(options: Options) -> Result:
    """Both tables."""
    folder, workers = options.scratch, cores()
    short = ["policy=constant", "max_lr=0.1", "epochs=1", "batch_size=1024"]
    processes.run([*processes.PROGRAM, f"data={options.data}", *short], folder)
    arrays = [str(path) for path in folder.glob("runs/data/*/*.npy")]
    rows: dict[str, Callable[[int], tuple[float, float]]] = {
        BARE: lambda number: least(folder, arrays),
        ONE: lambda number: first_step(folder, [*trial(options), f"seed={number}"], 1),
        SWEEP.format(workers=workers): lambda number: first_step(
            folder, [*trial(options), seeds(100 * (1 + number), workers), "-m"], workers
        ),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for number in range(options.rounds):
        for name, measure in rows.items():
            taken[name].append(measure(number))
    sizes = {count: memory(folder, options, count) for count in ((1,) if options.quick else (1, 2, 4))}
    caption = MEMORY.format(settle=SETTLE_SECONDS, data=options.data)
    sized = [(count, size, size / count) for count, size in sizes.items()]
    tables = [times(taken, options), Table("Memory", caption, ("workers", "MiB in all", "MiB a worker"), sized)]
    return Result(tables, (), (), {"seconds": taken, "MiB": sizes})


def trial(options: Options) -> list[str]:
    """The overrides of a trial that trains for minutes."""
    net = "model._target_=benchmarks.stopwatch.StampedCNN"
    return [net, f"data={options.data}", "max_lr=0.1", "epochs=100", "batch_size=128", "precision=fp32"]


def seeds(first: int, count: int) -> str:
    """The override for a number of seeds."""
    return f"seed={','.join(map(str, range(first, first + count)))}"


def least(folder: Path, arrays: list[str]) -> tuple[float, float]:
    """The seconds of the process that only imports and maps."""
    stamps = _no_stamps(folder)
    began = time.time()
    processes.run([sys.executable, "-c", LEAST, str(stamps), *arrays], folder)
    seconds = _stamps(stamps)[0] - began
    return seconds, seconds


def first_step(folder: Path, overrides: list[str], workers: int) -> tuple[float, float]:
    """The seconds until the first and until the last worker of a command takes its first step."""
    stamps = _no_stamps(folder)
    environment = os.environ | {"STAMPS": str(stamps)}
    with processes.started([*processes.PROGRAM, *overrides], folder, environment) as (_, began):
        times = _await_stamps(stamps, workers, folder)
    return times[0] - began, times[-1] - began


def memory(folder: Path, options: Options, workers: int) -> float:
    """The MiB of a sweep with this number of workers, while all of them train."""
    stamps = _no_stamps(folder)
    overrides = [*trial(options), seeds(10_000 * workers, workers), f"hydra.launcher.workers={workers}", "-m"]
    environment = os.environ | {"STAMPS": str(stamps)}
    with processes.started([*processes.PROGRAM, *overrides], folder, environment) as (process, _):
        _await_stamps(stamps, workers, folder)
        time.sleep(SETTLE_SECONDS)
        return processes.memory(process.pid)


def times(taken: dict[str, list[tuple[float, float]]], options: Options) -> Table:
    rows = []
    for name, rounds in taken.items():
        first, last = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(own[0] / bare[0] for own, bare in zip(rounds, taken[BARE], strict=True))
        rows.append((name, first, ratio, last))
    caption = CAPTION.format(data=options.data, rounds=options.rounds, bare=BARE)
    return Table("Start", caption, ("command", "s to the first step", "ratio", "s, last worker"), rows)


def _no_stamps(folder: Path) -> Path:
    path = folder / "stamps"
    path.unlink(missing_ok=True)
    return path


def _stamps(path: Path) -> list[float]:
    return sorted(map(float, path.read_text().split())) if path.exists() else []


def _await_stamps(path: Path, count: int, folder: Path) -> list[float]:
    """All `count` stamps; raises RuntimeError with the end of the command's output if they do not come."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(found := _stamps(path)) < count:
        if time.monotonic() > deadline:
            output = (folder / "output.txt").read_text()[-2000:]
            raise RuntimeError(f"{len(found)} of {count} workers took a step in {TIMEOUT_SECONDS:g} s: {output}")
        time.sleep(0.01)
    return found
