"""Which number format, memory format and optimizer implementation trains fastest, and when torch.compile pays."""

import multiprocessing
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks import costs, processes, program
from benchmarks.costs import Rounds
from benchmarks.page import Cell, Result, Table
from benchmarks.work import Options
from onecycle_sweeps import composing

# The channels and the side of the images on which a net is timed: Fashion-MNIST's or CIFAR's.
IMAGES = {"simple_cnn": (1, 28), "lenet": (1, 28), "resnet20": (3, 32), "resnet9": (3, 32)}
SECONDS, COMPILE_TIMEOUT = 1.0, 900
CAPTION = """Training steps at batch {batch} on one thread, always on the same random images. "fp32, channels_last" \
with SGD is the program's default on a CPU; "way" is torch's implementation of the optimizer. All rows take turns, \
{rounds} rounds of about {seconds:g} s or one step. Counted are images a second (median), and the speed beside \
"fp32, contiguous" of the same optimizer and way in the same round (median of ratios)."""
COMPILED = """torch.compile on the same steps (SGD, fused) in fresh processes. "Cold" is the first step's time with an \
empty compiler cache, "warm" that in another process with the cache that the first one left. Eager and compiled steps \
take turns in one process. The last columns are the steps after which compiling has paid for itself."""
COMPILED_COLUMNS = (
    "net",
    "numbers",
    "cold s",
    "warm s",
    "eager img/s",
    "compiled img/s",
    "pays after (cold)",
    "(warm)",
)
WAYS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}
OPTIMIZERS: dict[str, Any] = {"SGD": {"momentum": 0.9, "nesterov": True}, "AdamW": {}}
PLAIN, FP32, BF16 = "fp32, contiguous", "fp32, channels_last", "bf16, channels_last"


def stepper(
    name: str, batch: int, numbers: str, optimizer: str = "SGD", update: str = "foreach", compiled: bool = False
) -> Callable[[], None]:
    """A training step of a net, always on the same random images."""
    channels, side = IMAGES[name]
    layout = torch.contiguous_format if numbers == PLAIN else torch.channels_last
    node = composing.plain(program.composed(f"model={name}"))["model"]
    model = program.net(node, channels, 10).to(memory_format=layout)
    settings = OPTIMIZERS[optimizer] | WAYS[update]
    updated = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3, **settings)
    images = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (batch,))
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=numbers == BF16):
            scores = forward(images)
        loss = cross_entropy(scores.float(), labels)
        updated.zero_grad()
        loss.backward()
        updated.step()

    return step


def run(options: Options) -> Result:
    """A table for each net, and one of torch.compile where there is a C++ compiler."""
    torch.set_num_threads(1)
    batch = 16 if options.quick else 128
    names = ["simple_cnn"] if options.quick else list(IMAGES)
    rounds = {name: eager(name, batch, options) for name in names}
    tables = [table(name, batch, taken) for name, taken in rounds.items()]
    if reason := no_compiler():
        return Result(tables, (), [f"torch.compile: {reason}"], rounds)
    rows = [compile_row(name, batch, numbers, options) for name in names for numbers in (FP32, BF16)]
    return Result([*tables, Table("torch.compile", COMPILED, COMPILED_COLUMNS, rows)], (), (), rounds)


def eager(name: str, batch: int, options: Options) -> Rounds:
    """The cost of a step under each setting."""
    sides = {}
    for setting in product((PLAIN, FP32, BF16), OPTIMIZERS, WAYS):
        step = stepper(name, batch, *setting)
        step()
        repeat = 1 if options.quick else _repeat(step, SECONDS)
        sides[" | ".join(setting)] = partial(costs.timed, step, repeat)
    return costs.interleaved(sides, options.rounds, warm=0)


def table(name: str, batch: int, taken: Rounds) -> Table:
    rows = []
    for side in taken:
        numbers, optimizer, update = side.split(" | ")
        base = " | ".join((PLAIN, optimizer, update))
        rows.append((numbers, optimizer, update, batch / taken.wall(side), 1 / taken.ratio(side, base)))
    caption = CAPTION.format(batch=batch, rounds=len(next(iter(taken.values()))), seconds=SECONDS)
    return Table(f"Steps of {name}", caption, ("numbers", "optimizer", "way", "images/s", "beside fp32"), rows)


def compile_row(net: str, batch: int, numbers: str, options: Options) -> list[Cell]:
    """A net's row of torch.compile, with a cache that is empty at first."""
    arguments = (net, batch, numbers, options.rounds, options.scratch / f"{net}-{numbers[:4]}")
    try:
        cold, warm = (processes.apart(compiled, *arguments, timeout=COMPILE_TIMEOUT) for _ in ("cold", "warm"))
    except multiprocessing.TimeoutError:
        return [net, numbers, f"not within {COMPILE_TIMEOUT} s", *[None] * 5]
    slow, fast = (statistics.median([cold[side], warm[side]]) for side in ("eager", "compiled"))
    pays = [seconds["compile"] / (slow - fast) if slow > fast else "never" for seconds in (cold, warm)]
    return [net, numbers, cold["compile"], warm["compile"], batch / slow, batch / fast, *pays]


def compiled(net: str, batch: int, numbers: str, rounds: int, cache: Path) -> dict[str, float]:
    """Seconds to compile, and the median seconds of an eager and of a compiled step, taken in turn."""
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
    torch.set_num_threads(1)
    eager, fast = (stepper(net, batch, numbers, update="fused", compiled=value) for value in (False, True))
    seconds = costs.timed(fast).wall
    eager()
    repeat = _repeat(eager, 0.5)
    sides = {"eager": partial(costs.timed, eager, repeat), "compiled": partial(costs.timed, fast, repeat)}
    taken = costs.interleaved(sides, rounds)
    return {"compile": seconds, "eager": taken.wall("eager"), "compiled": taken.wall("compiled")}


def _repeat(step: Callable[[], None], seconds: float) -> int:
    return max(1, min(50, round(seconds / costs.timed(step).wall)))


def no_compiler() -> str | None:
    """Why torch.compile cannot be tried, if it cannot."""
    if not (compiler := shutil.which("g++") or shutil.which("clang++")):
        return "it needs a C++ compiler, and there is neither g++ nor clang++"
    done = subprocess.run([compiler, "--version"], capture_output=True)
    return None if done.returncode == 0 else f"{compiler} does not run"
