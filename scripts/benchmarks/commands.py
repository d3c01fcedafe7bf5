"""Whole commands: start and memory, and a sweep beside the peer's."""

import os
import re
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from statistics import median

from benchmarks import processes
from benchmarks.journals import check_store
from benchmarks.page import Requirement, Result, Table, not_installed
from benchmarks.processes import PROGRAM
from benchmarks.timing import Cost, interleaved
from benchmarks.work import STEP_METRICS, Options
from onecycle_sweeps.machine import cores

DATA_ROOT = Path(os.environ.get("ONECYCLE_DATA", "data")).absolute()
SHORT = ("policy=constant", "max_lr=0.1", "epochs=1", "batch_size=1024")
# The least that any program must do that trains with torch on cached images.
LEAST = """import os, sys, time, numpy, torch
arrays = [numpy.load(file, mmap_mode='c') for file in sys.argv[1:]]
open(os.environ['STAMPS'], 'w').write(f'{os.getpid()} train {time.time()}\\n')
time.sleep(600)"""
BARE, STAMP_SECONDS, SETTLE_SECONDS = "import torch, map the data", 300.0, 1.0
POLICIES, EPOCHS, BATCH, IMAGES, QUICK_BATCHES = ("constant", "step", "clr", "onecycle"), 2, 128, 60_000, 10
OURS, PEER = "this program", "Hydra + Lightning + MLFlowLogger"


def start(options: Options) -> Result:
    """The time to the first training step, and the memory of workers."""
    folder, workers, seeds = options.scratch, cores(), count()
    processes.run([*PROGRAM, f"data={options.data}", *SHORT], folder)
    arrays = [str(path) for path in folder.glob("runs/data/*/*.npy")]
    net = ("model._target_=benchmarks.timing.StampedCNN", "precision=fp32", "max_lr=0.1", "epochs=100")
    last: dict[str, list[float]] = {}

    def command(workers: int, *overrides: str) -> list[str]:
        """The program's command for as many seeds as workers; none is trained twice, as it would not start again."""
        chosen = ",".join(str(next(seeds)) for _ in range(workers))
        return [*PROGRAM, f"data={options.data}", *net, "batch_size=128", f"seed={chosen}", *overrides]

    def first_step(name: str, words: Sequence[str], workers: int) -> Cost:
        seconds, _ = first_steps(words, folder, workers)
        last.setdefault(name, []).append(seconds[-1])
        return Cost(seconds[0])

    swept = f"a sweep of {workers} seeds, {workers} workers"
    sides = {
        BARE: lambda: first_step(BARE, [sys.executable, "-c", LEAST, *arrays], 1),
        "one trial": lambda: first_step("one trial", command(1), 1),
        swept: lambda: first_step(swept, command(workers, "-m"), workers),
    }
    taken = interleaved(sides, options.rounds, warm=0)
    rows = [(name, taken.wall(name), taken.ratio(name, BARE), median(last[name])) for name in taken]
    columns = ("command", "s to the first step", "ratio", "s, last worker")
    caption = f"""From a process's start to the first training step on {options.data}, which is already decoded; \
"{BARE}" is a fresh Python that does no more. {options.turns}"""
    table = Table("Start", caption, columns, rows)
    sizes = {}
    for workers in (1,) if options.quick else (1, 2, 4):
        words = command(workers, f"hydra.launcher.workers={workers}", "-m")
        sizes[workers] = first_steps(words, folder, workers, SETTLE_SECONDS)[1]
    rows = [(workers, size, size / workers) for workers, size in sizes.items()]
    caption = f"""The memory (Pss) of all processes of a sweep of simple_cnn on {options.data}, one thread a worker, \
{SETTLE_SECONDS:g} s after the last worker's first step; each once."""
    memory = Table("Memory", caption, ("workers", "MiB in all", "MiB a worker"), rows)
    return Result([table, memory], (), (), {"seconds": taken, "seconds to the last": last, "MiB": sizes})


def first_steps(command: Sequence[str], folder: Path, workers: int, settle: float = 0.0) -> tuple[list[float], float]:
    """The seconds from a command's start to each worker's first step, and the MiB of its processes `settle` s later.

    The command is then stopped. Raises RuntimeError if the steps do not come.
    """
    # The first process of a sweep checks its trials and takes a step too.
    began, checks = time.time(), int(command[-1] == "-m")
    with processes.started(command, folder) as process:
        stamps: dict[str, str] = {}
        while len(stamps) < checks + workers:
            if process.poll() is not None or time.time() > began + STAMP_SECONDS:
                raise RuntimeError(f"{len(stamps)} of {checks + workers} processes took a step in {STAMP_SECONDS:g} s")
            time.sleep(0.01)
            # Backwards, so that the first stamp of each process is the one that stays.
            stamps = dict(reversed(re.findall(r"(\d+) train (\S+)\n", (folder / "stamps").read_text())))
        time.sleep(settle)
        memory = sum(processes.mebibytes(one, "smaps_rollup", "Pss:") for one in processes.tree(process.pid))
    return sorted(float(stamp) - began for stamp in stamps.values())[checks:], memory


def sweep(options: Options) -> Result:
    """The program's command and the peer's, if the peer's packages and Fashion-MNIST are here."""
    raw = DATA_ROOT / "FashionMNIST" / "raw"
    missing = "" if raw.is_dir() else f"all of it: there is no {raw}; ONECYCLE_DATA names another folder"
    if reason := not_installed("lightning", "all of it") or missing:
        return Result([], (), [reason])
    trials = 2 if options.quick else options.trials or 24
    policies, seeds = POLICIES[:trials], range(max(1, trials // len(POLICIES)))
    steps = EPOCHS * (QUICK_BATCHES if options.quick else IMAGES // BATCH)
    swept = [f"policy={','.join(policies)}", f"seed={','.join(map(str, seeds))}", "max_lr=0.1"]
    swept += [f"epochs={EPOCHS}", f"batch_size={BATCH}", "-m"]
    ours = [*PROGRAM, "data=fashion_mnist", f"data.root={DATA_ROOT}"]
    theirs = [sys.executable, "-m", "benchmarks.peers.lightning", f"data={DATA_ROOT}"]
    if options.quick:
        images = QUICK_BATCHES * BATCH
        ours += ["data._target_=benchmarks.work.excerpt", f"+data.train={images}", f"+data.test={images}"]
        theirs += [f"limit={QUICK_BATCHES}"]
    # What the peer logs is written out, because importing it takes seconds.
    sides = {
        OURS: ([*ours, *swept], STEP_METRICS, "final/val_accuracy"),
        PEER: ([*theirs, *swept], ("lr-SGD", "lr-SGD-momentum", "train_loss"), "val_acc"),
    }
    rows, spent = [], {}
    for name, (words, series, measure) in sides.items():
        folder = options.scratch / name
        folder.mkdir()
        spent[name] = processes.run(words, folder)
        runs = check_store(f"sqlite:///{folder}/mlflow.db", series, trials, steps)
        reached = f"{median(run.data.metrics[measure] for run in runs):.2%}"
        rows.append((name, spent[name].wall, spent[name].cpu / trials, trials * len(series) * steps, reached))
    columns = ("command", "s", "CPU s a trial", "points in MLflow", "val accuracy")
    caption = f"""{trials} trials of simple_cnn, {EPOCHS} epochs of {steps // EPOCHS * BATCH:,} images of \
Fashion-MNIST, from an empty folder to exit, once. Points are rate, momentum and loss; the accuracy is the median."""
    times = spent[PEER].wall / spent[OURS].wall
    required = Requirement(f"a sweep of {trials} trials beside today's: times as fast", times, 6, at_least=True)
    return Result([Table("A sweep", caption, columns, rows)], [required], (), spent)
