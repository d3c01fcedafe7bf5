"""Which number format, memory format and optimizer implementation trains fastest, and when torch.compile pays."""

import shutil
import subprocess
from dataclasses import asdict
from itertools import product

import torch

from benchmarks import compiling, costs
from benchmarks.costs import Rounds
from benchmarks.nets import IMAGES, Setting, stepper
from benchmarks.tables import Result, Table
from benchmarks.work import Options

SECONDS = 1.0
CAPTION = """Training steps at batch {batch} on one thread, images and labels made up and always the same. A row is \
a number format with a memory format, an optimizer (SGD with Nesterov, AdamW) and torch's way to run it; "fp32, \
channels_last" with SGD is what this program computes by default on a CPU (torch chooses the way). Counted is a \
step's wall time in turn with all other rows, {rounds} rounds of about {seconds:g} s or one step: images a second \
(median), and the speed beside the row "fp32, contiguous" of the same optimizer and way in the same round (median of \
ratios)."""
COMPILED = """torch.compile on the same steps (SGD, fused) in processes of their own. A row is a net and a number \
format. "Cold" is the time of the first step with an empty compiler cache, "warm" that in another process with the \
cache that the first left. Images a second are eager and compiled, in turn in one process. The last columns: how \
many steps a training must have until compiling has paid for itself, cold and warm."""


def run(options: Options) -> Result:
    """A table for each net, and one on torch.compile where there is a C++ compiler."""
    torch.set_num_threads(1)
    batch = 16 if options.quick else 128
    names = ["simple_cnn"] if options.quick else list(IMAGES)
    tables, rounds = [], {}
    for name in names:
        measured = eager(name, batch, options)
        rounds[name] = {side: [asdict(cost) for cost in taken] for side, taken in measured.items()}
        tables.append(table(name, batch, measured))
    if reason := no_compiler():
        return Result(tables, (), [f"torch.compile: {reason}"], rounds)
    found = [compiling.Case(name, bf16, batch) for name in names for bf16 in (False, True)]
    columns = ("net", "numbers", "cold s", "warm s", "eager img/s", "compiled img/s", "pays after (cold)", "(warm)")
    compiled = Table("torch.compile", COMPILED, columns, [case.row(options) for case in found])
    return Result([*tables, compiled], (), (), rounds)


def settings() -> dict[str, Setting]:
    """Every combination, by the name of its row."""
    formats = ((False, False), (False, True), (True, True))
    found = [
        Setting(bf16, channels_last, optimizer, update)
        for (bf16, channels_last), optimizer, update in product(
            formats, ("SGD", "AdamW"), ("fused", "foreach", "for-loop")
        )
    ]
    return {label(setting): setting for setting in found}


def label(setting: Setting) -> str:
    """The name of a row."""
    return f"{setting.numbers}, {setting.optimizer}, {setting.update}"


def eager(name: str, batch: int, options: Options) -> Rounds:
    """What a step costs under each setting."""
    sides = {}
    for row, setting in settings().items():
        step = stepper(name, setting, batch)
        step()
        repeat = 1 if options.quick else max(1, min(50, round(SECONDS / costs.timed(step).wall)))
        sides[row] = lambda step=step, repeat=repeat: costs.timed(step, repeat)
    return costs.interleaved(sides, options.rounds)


def table(name: str, batch: int, measured: Rounds) -> Table:
    """One net's table."""
    rows = []
    for row, setting in settings().items():
        plain = label(Setting(False, False, setting.optimizer, setting.update))
        speed = 1 / costs.ratio(measured, row, plain)
        rows.append((setting.numbers, setting.optimizer, setting.update, batch / costs.wall(measured, row), speed))
    caption = CAPTION.format(batch=batch, rounds=len(next(iter(measured.values()))), seconds=SECONDS)
    return Table(f"Steps of {name}", caption, ("numbers", "optimizer", "way", "images/s", "beside fp32"), rows)


def no_compiler() -> str | None:
    """Why torch.compile cannot be tried, if it cannot."""
    if not (compiler := shutil.which("g++") or shutil.which("clang++")):
        return "it needs a C++ compiler, and there is neither g++ nor clang++"
    done = subprocess.run([compiler, "--version"], capture_output=True)
    return None if done.returncode == 0 else f"{compiler} does not run"
