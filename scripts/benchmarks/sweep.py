"""A whole sweep from Enter to exit, beside the one that people write with Hydra, Lightning and MLFlowLogger."""

import sqlite3
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, processes, program
from benchmarks.page import Requirement, Result, comparison
from benchmarks.program import Incomplete
from benchmarks.work import Options

POLICIES = ("constant", "step", "clr", "onecycle")
OURS, PEER = "this program", "Hydra + Lightning + MLFlowLogger"
EPOCHS, BATCH, IMAGES, QUICK_BATCHES = 2, 128, 60_000, 10
CAPTION = """{trials} trials ({policies} x {seeds} seeds, max_lr 0.1) of simple_cnn on {images:,} images of \
Fashion-MNIST, {epochs} epochs of {steps} steps at batch {batch}, from an empty folder to exit, each once: this \
program's sweep, and benchmarks/peers/lightning.py under Hydra's basic launcher. CPU seconds are of all processes; \
points are rate, momentum and loss at each step of each trial; the accuracy is the median over trials."""


@dataclass(frozen=True)
class Command:
    """A sweep's command line, and the names that its store has for rate, momentum and loss, and for the accuracy."""

    words: Sequence[str]
    series: Sequence[str]
    accuracy: str


def run(options: Options) -> Result:
    """Both commands, if the peer's packages and Fashion-MNIST are here."""
    raw = machine.DATA_ROOT / "FashionMNIST" / "raw"
    if machine.missing("lightning"):
        return Result([], (), [machine.left_out("all of it", "lightning")])
    if not raw.is_dir():
        return Result([], (), [f"all of it: there is no {raw}; ONECYCLE_DATA names another folder"])
    trials = 2 if options.quick else options.trials
    policies, seeds = POLICIES[:trials], max(1, trials // len(POLICIES))
    if len(policies) * seeds != trials:
        raise ValueError(f"--trials must be 1 to 4 or a multiple of 4, got {trials}")
    steps = EPOCHS * (QUICK_BATCHES if options.quick else IMAGES // BATCH)
    spent, accuracy, points = {}, {}, {}
    for name, command in commands(policies, seeds, options.quick).items():
        folder = options.scratch / name
        folder.mkdir()
        spent[name] = processes.run(command.words, folder)
        store = folder / "mlflow.db"
        program.check_store(store, command.series, trials, steps)
        points[name] = trials * len(command.series) * steps
        accuracy[name] = median_accuracy(store, command.accuracy, trials)
    columns = {
        "s": lambda name: spent[name].wall,
        "s a trial": lambda name: spent[name].wall / trials,
        "CPU s a trial": lambda name: spent[name].cpu / trials,
        "points in MLflow": points.get,
        "val accuracy": accuracy.get,
        "times as fast": lambda name: spent[PEER].wall / spent[name].wall,
    }
    sizes = {"trials": trials, "policies": ", ".join(policies), "seeds": seeds, "images": steps // EPOCHS * BATCH}
    caption = CAPTION.format(**sizes, epochs=EPOCHS, steps=steps // EPOCHS, batch=BATCH)
    times = spent[PEER].wall / spent[OURS].wall
    required = Requirement(f"a sweep of {trials} trials beside today's: times as fast", times, 6, at_least=True)
    return Result([comparison("A sweep", caption, "command", spent, columns)], [required], (), spent)


def commands(policies: Sequence[str], seeds: int, quick: bool) -> dict[str, Command]:
    """The program's command and the peer's, of the same trials."""
    swept = [f"policy={','.join(policies)}", f"seed={','.join(map(str, range(seeds)))}", "max_lr=0.1"]
    swept += [f"epochs={EPOCHS}", f"batch_size={BATCH}", "-m"]
    ours, theirs = ["data=fashion_mnist", f"data.root={machine.DATA_ROOT}"], [f"data={machine.DATA_ROOT}"]
    if quick:
        count = QUICK_BATCHES * BATCH
        ours += ["data._target_=benchmarks.work.excerpt", f"+data.train={count}", f"+data.test={count}"]
        theirs += [f"limit={QUICK_BATCHES}"]
    peer = [sys.executable, "-m", "benchmarks.peers.lightning", *theirs, *swept]
    # What the peer logs is written out, because importing it takes seconds.
    return {
        OURS: Command([*processes.PROGRAM, *ours, *swept], program.STEP_METRICS, "final/val_accuracy"),
        PEER: Command(peer, ("lr-SGD", "lr-SGD-momentum", "train_loss"), "val_acc"),
    }


def median_accuracy(store: Path, metric: str, trials: int) -> str:
    """The median of a metric over the runs of a store; raises Incomplete unless each trial has it."""
    with closing(sqlite3.connect(store)) as connection:
        rows = connection.execute("SELECT value FROM latest_metrics WHERE key = ?", (metric,)).fetchall()
    if len(rows) != trials:
        raise Incomplete(f"{store} has {metric} of {len(rows)} of {trials} trials")
    return f"{statistics.median(value for (value,) in rows):.2%}"
