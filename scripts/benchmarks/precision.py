"""Which number format, memory format and optimizer implementation trains fastest, and when torch.compile pays."""

import multiprocessing
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
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
CAPTION = """Training steps at batch {batch} on one thread, always on the same random images. A row is a number \
format with a memory format, an optimizer (SGD with Nesterov, AdamW) and one of torch's implementations of it; "fp32, \
channels_last" with SGD is the program's default on a CPU (torch chooses the implementation). Timed is a step, in \
turn with all other rows, {rounds} rounds of about {seconds:g} s or one step: images a second (median), and the speed \
beside the row "fp32, contiguous" of the same optimizer and implementation in the same round (median of ratios)."""
COMPILED = """torch.compile on the same steps (SGD, fused) in fresh processes. A row is a net and a number format. \
"Cold" is the time of the first step with an empty compiler cache, "warm" that in another process with the cache that \
the first one left. Images a second are eager and compiled, in turn in one process. The last columns are the number \
of steps after which compiling has paid for itself, cold and warm."""


@dataclass(frozen=True)
class Setting:
    """How a step is computed; `update` is torch's implementation of an optimizer: fused, foreach or for-loop."""

    bf16: bool = False
    channels_last: bool = True
    optimizer: str = "SGD"
    update: str = "foreach"
    compiled: bool = False

    @property
    def numbers(self) -> str:
        return f"{'bf16' if self.bf16 else 'fp32'}, {'channels_last' if self.channels_last else 'contiguous'}"

    def __str__(self) -> str:
        return f"{self.numbers}, {self.optimizer}, {self.update}"


def stepper(name: str, setting: Setting, batch: int) -> Callable[[], None]:
    """A training step of a net, always on the same random images."""
    channels, side = IMAGES[name]
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    node = composing.plain(program.composed(f"model={name}"))["model"]
    model = program.net(node, channels, 10).to(memory_format=layout)
    ways = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}
    own: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if setting.optimizer == "SGD" else {}
    optimizer = getattr(torch.optim, setting.optimizer)(model.parameters(), lr=1e-3, **own, **ways[setting.update])
    images = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (batch,))
    forward = torch.compile(model) if setting.compiled else model

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
            scores = forward(images)
        loss = cross_entropy(scores.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def run(options: Options) -> Result:
    """A table for each net, and one of torch.compile where there is a C++ compiler."""
    torch.set_num_threads(1)
    batch = 16 if options.quick else 128
    names = ["simple_cnn"] if options.quick else list(IMAGES)
    rounds = {name: eager(name, batch, options) for name in names}
    tables = [table(name, batch, measured) for name, measured in rounds.items()]
    if reason := no_compiler():
        return Result(tables, (), [f"torch.compile: {reason}"], rounds)
    columns = ("net", "numbers", "cold s", "warm s", "eager img/s", "compiled img/s", "pays after (cold)", "(warm)")
    rows = [compile_row(name, bf16, batch, options) for name in names for bf16 in (False, True)]
    return Result([*tables, Table("torch.compile", COMPILED, columns, rows)], (), (), rounds)


def combinations() -> list[Setting]:
    formats = ((False, False), (False, True), (True, True))
    ways = product(formats, ("SGD", "AdamW"), ("fused", "foreach", "for-loop"))
    return [Setting(*numbers, optimizer, update) for numbers, optimizer, update in ways]


def eager(name: str, batch: int, options: Options) -> Rounds:
    """The cost of a step under each setting."""
    sides = {}
    for setting in combinations():
        step = stepper(name, setting, batch)
        step()
        repeat = 1 if options.quick else _repeat(step, SECONDS)
        sides[str(setting)] = lambda step=step, repeat=repeat: costs.timed(step, repeat)
    return costs.interleaved(sides, options.rounds, warm=0)


def table(name: str, batch: int, measured: Rounds) -> Table:
    rows = []
    for setting in combinations():
        speed = 1 / measured.ratio(str(setting), str(Setting(False, False, setting.optimizer, setting.update)))
        images = batch / measured.wall(str(setting))
        rows.append((setting.numbers, setting.optimizer, setting.update, images, speed))
    caption = CAPTION.format(batch=batch, rounds=len(next(iter(measured.values()))), seconds=SECONDS)
    return Table(f"Steps of {name}", caption, ("numbers", "optimizer", "way", "images/s", "beside fp32"), rows)


def compile_row(net: str, bf16: bool, batch: int, options: Options) -> list[Cell]:
    """A net's row of torch.compile, with a cache that is empty at first."""
    cache = options.scratch / f"{net}-{bf16}"
    numbers = f"{'bf16' if bf16 else 'fp32'}, channels_last"
    try:
        cold, warm = (
            processes.apart(compiled, net, bf16, batch, options.rounds, cache, timeout=COMPILE_TIMEOUT)
            for _ in ("cold", "warm")
        )
    except multiprocessing.TimeoutError:
        return [net, numbers, f"not within {COMPILE_TIMEOUT} s", *[None] * 5]
    slow, fast = (statistics.median([cold[side], warm[side]]) for side in ("eager", "compiled"))
    pays = [seconds["compile"] / (slow - fast) if slow > fast else "never" for seconds in (cold, warm)]
    return [net, numbers, cold["compile"], warm["compile"], batch / slow, batch / fast, *pays]


def compiled(net: str, bf16: bool, batch: int, rounds: int, cache: Path) -> dict[str, float]:
    """Seconds to compile, and the median seconds of an eager and of a compiled step, taken in turn."""
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
    torch.set_num_threads(1)
    eager = stepper(net, Setting(bf16, update="fused"), batch)
    fast = stepper(net, Setting(bf16, update="fused", compiled=True), batch)
    began = time.perf_counter()
    fast()
    seconds = time.perf_counter() - began
    eager()
    repeat = _repeat(eager, 0.5)
    turns = {"eager": lambda: costs.timed(eager, repeat), "compiled": lambda: costs.timed(fast, repeat)}
    measured = costs.interleaved(turns, rounds)
    return {"compile": seconds, "eager": measured.wall("eager"), "compiled": measured.wall("compiled")}


def _repeat(step: Callable[[], None], seconds: float) -> int:
    return max(1, min(50, round(seconds / costs.timed(step).wall)))


def no_compiler() -> str | None:
    """Why torch.compile cannot be tried, if it cannot."""
    if not (compiler := shutil.which("g++") or shutil.which("clang++")):
        return "it needs a C++ compiler, and there is neither g++ nor clang++"
    done = subprocess.run([compiler, "--version"], capture_output=True)
    return None if done.returncode == 0 else f"{compiler} does not run"
