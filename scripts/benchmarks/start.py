"""How long it takes from a command's start to the first training step, and how much memory workers take."""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from benchmarks import costs, processes
from benchmarks.costs import Cost
from benchmarks.page import Result, Table, comparison
from benchmarks.work import Options
from onecycle_sweeps.machine import cores

TIMEOUT_SECONDS, SETTLE_SECONDS = 300.0, 1.0
# The least that any program must do that trains with torch on cached images.
LEAST = """import os, sys, time, numpy, torch
arrays = [numpy.load(file, mmap_mode='c') for file in sys.argv[1:]]
open(os.environ['STAMPS'], 'w').write(str(time.time()))
time.sleep(600)"""
ONE, SWEEP, BARE = "one trial", "a sweep of {workers} seeds, {workers} workers", "import torch, map the data"
CAPTION = """From the start of a process to the first training step, which the net stamps, on {data} that an earlier \
command has decoded, with a fixed rate; medians of {rounds} rounds in turn, the ratio within a round. "{bare}" is a \
fresh Python that imports torch and numpy and maps the decoded arrays. The last column is a sweep's last worker."""
MEMORY = """The memory of a sweep's whole process tree, as the sum of each process's proportional share (Pss), \
{settle:g} s after the last worker's first step; simple_cnn on {data}, one thread a worker, one command a row."""
# No seed is trained twice, because the program would not start a finished trial again.
_seeds = count()


def run(options: Options) -> Result:
    """Both tables."""
    folder, workers = options.scratch, cores()
    short = ["policy=constant", "max_lr=0.1", "epochs=1", "batch_size=1024"]
    processes.run([*processes.PROGRAM, f"data={options.data}", *short], folder)
    arrays = [str(path) for path in folder.glob("runs/data/*/*.npy")]
    last: dict[str, list[float]] = {}

    def first_step(name: str, command: Sequence[str], workers: int) -> Cost:
        seconds, _ = started(command, folder, workers)
        last.setdefault(name, []).append(seconds[-1])
        return Cost(seconds[0])

    sweep = SWEEP.format(workers=workers)
    sides = {
        BARE: lambda: first_step(BARE, [sys.executable, "-c", LEAST, *arrays], 1),
        ONE: lambda: first_step(ONE, command(options, 1), 1),
        sweep: lambda: first_step(sweep, command(options, workers, "-m"), workers),
    }
    taken = costs.interleaved(sides, options.rounds, warm=0)
    columns = {
        "s to the first step": taken.wall,
        "ratio": lambda name: taken.ratio(name, BARE),
        "s, last worker": lambda name: statistics.median(last[name]),
    }
    caption = CAPTION.format(data=options.data, rounds=options.rounds, bare=BARE)
    start = comparison("Start", caption, "command", taken, columns)
    sizes = {}
    for workers in (1,) if options.quick else (1, 2, 4):
        words = command(options, workers, f"hydra.launcher.workers={workers}", "-m")
        sizes[workers] = started(words, folder, workers, SETTLE_SECONDS)[1]
    caption = MEMORY.format(settle=SETTLE_SECONDS, data=options.data)
    rows = [(workers, size, size / workers) for workers, size in sizes.items()]
    memory = Table("Memory", caption, ("workers", "MiB in all", "MiB a worker"), rows)
    return Result([start, memory], (), (), {"seconds": taken, "seconds to the last": last, "MiB": sizes})


def command(options: Options, workers: int, *overrides: str) -> list[str]:
    """The program's command for as many seeds as workers, which train for minutes."""
    shared = ["model._target_=benchmarks.stopwatch.StampedCNN", f"data={options.data}", "precision=fp32"]
    shared += ["max_lr=0.1", "epochs=100", "batch_size=128"]
    seeds = ",".join(str(next(_seeds)) for _ in range(workers))
    return [*processes.PROGRAM, *shared, f"seed={seeds}", *overrides]


def started(command: Sequence[str], folder: Path, stamps: int, settle: float = 0.0) -> tuple[list[float], float]:
    """The seconds from the start of a command to each stamp, and the MiB of all its processes `settle` s later.

    The command is then stopped. Raises RuntimeError with the end of its output if the stamps do not come.
    """
    file = folder / "stamps"
    file.write_text("")
    began = time.time()
    with processes.started(command, folder, os.environ | {"STAMPS": str(file)}) as process:
        while len(found := sorted(map(float, file.read_text().split()))) < stamps:
            if process.poll() is not None or time.time() > began + TIMEOUT_SECONDS:
                output = (folder / "output.txt").read_text()[-2000:]
                raise RuntimeError(f"{len(found)} of {stamps} processes took a step in {TIMEOUT_SECONDS:g} s: {output}")
            time.sleep(0.01)
        time.sleep(settle)
        return [stamp - began for stamp in found], processes.memory(process.pid)
