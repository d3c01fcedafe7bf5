"""How long from Enter to the first training step, and how much memory workers take."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import processes
from benchmarks.tables import Result, Table
from benchmarks.work import Options
from onecycle_sweeps.launching.machine import cores

TIMEOUT_SECONDS = 300.0
SETTLE_SECONDS = 1.0
# What no program that trains with torch on cached images can do without.
FLOOR = "import sys, time, numpy, torch; [numpy.load(f, mmap_mode='c') for f in sys.argv[2:]]; \
open(sys.argv[1], 'a').write(f'{time.time()}\\n')"
ONE, SWEEP, BARE = "one trial", "a sweep of {workers} seeds, {workers} workers", "import torch, map the data"
CAPTION = """From the start of a process to the beginning of the first training step, which the net stamps, on \
{data} that an earlier command has decoded, with a fixed rate. A row is a command, in turn with the others, {rounds} \
rounds; "{bare}" is a fresh Python that imports torch and numpy and maps the decoded arrays. Seconds are medians; \
the ratio is the median over rounds. A sweep counts to the first step of its first worker, and in the last column of \
its last."""
MEMORY = """The memory of a sweep's whole process tree (launcher, workers and whatever else it started), as the sum \
of each process's proportional share (Pss), {settle:g} s after the last worker's first step; simple_cnn on {data}, a \
thread a worker. A row is a number of workers; one command each."""


def run(options: Options) -> Result:
    """Both tables."""
    folder = options.scratch
    decoded(folder, options)
    workers = cores()
    arrays = [str(path) for path in folder.glob("runs/data/*/*.npy")]
    rows: dict[str, Callable[[int], tuple[float, float]]] = {
        BARE: lambda number: floor(folder, arrays),
        ONE: lambda number: first_step(folder, [*trial(options), f"seed={number}"], 1),
        SWEEP.format(workers=workers): lambda number: first_step(
            folder, [*trial(options), f"seed={seeds(100 * (1 + number), workers)}", "-m"], workers
        ),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for number in range(options.rounds):
        for name, measure in rows.items():
            taken[name].append(measure(number))
    counts = (1,) if options.quick else (1, 2, 4)
    sizes = {count: memory_of(folder, options, count) for count in counts}
    return Result([times(taken, options), sizes_table(sizes, options)], (), (), {"seconds": taken, "MiB": sizes})


def trial(options: Options) -> list[str]:
    """The overrides of a trial that would train for minutes."""
    net = "model._target_=benchmarks.timed_nets.StampedCNN"
    return [net, f"data={options.data}", "max_lr=0.1", "epochs=100", "batch_size=128", "precision=fp32"]


def seeds(first: int, count: int) -> str:
    """So many seeds, as Hydra sweeps them."""
    return ",".join(str(first + i) for i in range(count))


def decoded(folder: Path, options: Options) -> None:
    """Let the program decode the data set, by a command that trains shortly."""
    command = [
        *processes.PROGRAM,
        f"data={options.data}",
        "policy=constant",
        "max_lr=0.1",
        "epochs=1",
        "batch_size=1024",
    ]
    processes.run(command, folder)


def floor(folder: Path, arrays: list[str]) -> tuple[float, float]:
    """The seconds of a process that only gets ready."""
    stamps = _fresh(folder)
    began = time.time()
    processes.run([sys.executable, "-c", FLOOR, str(stamps), *arrays], folder)
    seconds = _stamps(stamps)[0] - began
    return seconds, seconds


def first_step(folder: Path, overrides: list[str], workers: int) -> tuple[float, float]:
    """The seconds until the first and until the last worker of a command took its first step."""
    stamps = _fresh(folder)
    with processes.started([*processes.PROGRAM, *overrides], folder, os.environ | {"STAMPS": str(stamps)}) as (
        _,
        began,
    ):
        times = _awaited(stamps, workers, folder)
    return times[0] - began, times[-1] - began


def memory_of(folder: Path, options: Options, workers: int) -> float:
    """The MiB of a sweep with so many workers, all of them training."""
    stamps = _fresh(folder)
    overrides = [*trial(options), f"seed={seeds(10_000 * workers, workers)}", f"hydra.launcher.workers={workers}", "-m"]
    command = [*processes.PROGRAM, *overrides]
    with processes.started(command, folder, os.environ | {"STAMPS": str(stamps)}) as (process, _):
        _awaited(stamps, workers, folder)
        time.sleep(SETTLE_SECONDS)
        return processes.memory(process.pid)


def times(taken: dict[str, list[tuple[float, float]]], options: Options) -> Table:
    """Seconds to the first step."""
    rows = []
    for name, rounds in taken.items():
        first, last = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(own[0] / bare[0] for own, bare in zip(rounds, taken[BARE], strict=True))
        rows.append((name, first, ratio, last))
    caption = CAPTION.format(data=options.data, rounds=options.rounds, bare=BARE)
    return Table("Start", caption, ("command", "s to the first step", "ratio", "s, last worker"), rows)


def sizes_table(sizes: dict[int, float], options: Options) -> Table:
    """Memory by the number of workers."""
    rows = [(count, size, size / count) for count, size in sizes.items()]
    caption = MEMORY.format(settle=SETTLE_SECONDS, data=options.data)
    return Table("Memory", caption, ("workers", "MiB in all", "MiB a worker"), rows)


def _fresh(folder: Path) -> Path:
    path = folder / "stamps"
    path.unlink(missing_ok=True)
    return path


def _stamps(path: Path) -> list[float]:
    return sorted(map(float, path.read_text().split())) if path.exists() else []


def _awaited(path: Path, count: int, folder: Path) -> list[float]:
    """The stamps once there are so many; raises RuntimeError with the command's last words where they do not come."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(found := _stamps(path)) < count:
        if time.monotonic() > deadline:
            output = (folder / "output.txt").read_text()[-2000:]
            raise RuntimeError(f"{len(found)} of {count} workers took a step in {TIMEOUT_SECONDS:g} s: {output}")
        time.sleep(0.01)
    return found
