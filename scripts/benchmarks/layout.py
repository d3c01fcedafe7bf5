"""One process on all cores, or one process a core: images a second in sum."""

import multiprocessing
import time
from contextlib import ExitStack
from functools import partial
from multiprocessing.pool import Pool
from threading import Barrier
from typing import Any

import torch

from benchmarks import costs
from benchmarks.costs import Cost
from benchmarks.page import Result
from benchmarks.precision import BF16, FP32, stepper
from benchmarks.work import Options
from onecycle_sweeps.machine import cores

CAPTION = """Bare training steps at batch {batch} on random images (SGD with Nesterov, channels_last), each process \
for {seconds:g} s from a common start. The layouts take turns on {cores} cores for {rounds} rounds while the processes \
of the others wait. Counted are the images a second of all processes together: medians, also of ratios in a round."""
_worker: dict[str, Any] = {}


def run(options: Options) -> Result:
    """A table for each net and number format."""
    count = cores()
    layouts = {f"1 process x {count} threads": (1, count), f"{count} processes x 1 thread": (count, 1)}
    layouts |= {"1 process x 1 thread": (1, 1)}
    seconds, batch = (0.5, 16) if options.quick else (2.0, 128)
    caption = CAPTION.format(batch=batch, seconds=seconds, cores=count, rounds=options.rounds)
    spawn, tables, rounds = multiprocessing.get_context("spawn"), [], {}
    for net in ("simple_cnn",) if options.quick else ("simple_cnn", "resnet20"):
        for numbers in (FP32, BF16):
            with ExitStack() as stack:
                sides = {}
                for name, (processes, threads) in layouts.items():
                    arguments = (spawn.Barrier(processes), threads, net, batch, numbers)
                    pool = stack.enter_context(spawn.Pool(processes, prepare, arguments))
                    sides[name] = partial(train_together, pool, processes, seconds)
                taken = costs.interleaved(sides, options.rounds)
            tables.append(taken.speeds(f"{net}, {numbers}", caption, "layout", batch))
            rounds[f"{net}, {numbers}"] = taken
    return Result(tables, (), (), rounds)


def prepare(barrier: Barrier, threads: int, net: str, batch: int, numbers: str) -> None:
    """Make this process's step and take it once."""
    torch.set_num_threads(threads)
    _worker.update(barrier=barrier, step=stepper(net, batch, numbers))
    _worker["step"]()


def train_together(pool: Pool, processes: int, seconds: float) -> Cost:
    """The wall time of a step of all processes in sum, which train at once."""
    return Cost(1 / sum(pool.map(train, [seconds] * processes, chunksize=1)))


def train(seconds: float) -> float:
    """The steps a second of this process, from the moment when all of them have come here."""
    _worker["barrier"].wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        _worker["step"]()
        count += 1
    return count / (time.perf_counter() - began)
