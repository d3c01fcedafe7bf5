"""A whole sweep from Enter to exit, beside the one that people write with Hydra, Lightning and MLFlowLogger."""

import sqlite3
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, processes, program
from benchmarks.page import Incomplete, Requirement, Result, Table
from benchmarks.work import Options

POLICIES = ("constant", "step", "clr", "onecycle")
EPOCHS, BATCH, IMAGES, QUICK_BATCHES = 2, 128, 60_000, 10
CAPTION = """{trials} trials ({policies} x {seeds} seeds, max_lr 0.1) of simple_cnn on {images:,} images of \
Fashion-MNIST, {epochs} epochs of {steps} steps at batch {batch}, from an empty folder, each command once. A row is a \
command: this program's sweep, and benchmarks/peers/lightning.py, a Lightning module with MLFlowLogger (sqlite) and \
LearningRateMonitor under Hydra's basic launcher, torchvision's FashionMNIST with a DataLoader, torch's schedulers. \
Seconds are from Enter to exit, with imports, decoding, evaluations and reports; CPU seconds are of all processes. \
Points are the values of rate, momentum and loss in the MLflow store: in both, each trial has all three at each of \
its steps. The accuracy is the median over trials after the last epoch, and shows that both train alike."""


@dataclass(frozen=True)
class Command:
    """A sweep's command line, and the names that its store has for rate, momentum and loss, and for the accuracy."""

    name: str
    words: Sequence[str]
    series: Sequence[str]
    accuracy: str


def run(options: Options) -> Result:
    """Both commands, if the peer's packages and Fashion-MNIST are here."""
    root = machine.data_root()
    if machine.missing("lightning"):
        return Result([], (), [machine.left_out("all of it", "lightning")])
    if not (root / "FashionMNIST" / "raw").is_dir():
        reason = f"all of it: there is no FashionMNIST/raw in {root}; ONECYCLE_DATA names another folder"
        return Result([], (), [reason])
    trials = 2 if options.quick else options.trials
    policies, seeds = POLICIES[: min(trials, len(POLICIES))], max(1, trials // len(POLICIES))
    if len(policies) * seeds != trials:
        raise ValueError(f"--trials must be 1 to 4 or a multiple of 4, got {trials}")
    steps = QUICK_BATCHES if options.quick else IMAGES // BATCH
    spent, told = {}, {}
    for number, command in enumerate(commands(root, policies, seeds, options.quick)):
        folder = options.scratch / str(number)
        folder.mkdir()
        spent[command.name] = processes.run(command.words, folder)
        told[command.name] = read(command, folder / "mlflow.db", trials, steps * EPOCHS)
    ours, theirs = (one.wall for one in spent.values())
    rows = [
        (name, one.wall, one.wall / trials, one.cpu / trials, *told[name], theirs / one.wall)
        for name, one in spent.items()
    ]
    sizes = {"trials": trials, "policies": ", ".join(policies), "seeds": seeds, "images": steps * BATCH}
    caption = CAPTION.format(**sizes, epochs=EPOCHS, steps=steps, batch=BATCH)
    columns = ("command", "s", "s a trial", "CPU s a trial", "points in MLflow", "val accuracy", "times as fast")
    what = f"a sweep of {trials} trials beside today's: times as fast"
    required = Requirement(what, theirs / ours, 6, at_least=True)
    return Result([Table("A sweep", caption, columns, rows)], [required], (), spent)


def commands(root: Path, policies: Sequence[str], seeds: int, quick: bool) -> list[Command]:
    """The program's command and the peer's, of the same trials."""
    swept = [f"policy={','.join(policies)}", f"seed={','.join(map(str, range(seeds)))}", "max_lr=0.1"]
    swept += [f"epochs={EPOCHS}", f"batch_size={BATCH}", "-m"]
    ours, theirs = ["data=fashion_mnist", f"data.root={root}"], [f"data={root}"]
    if quick:
        count = QUICK_BATCHES * BATCH
        ours += ["data._target_=benchmarks.work.excerpt", f"+data.train={count}", f"+data.test={count}"]
        theirs += [f"limit={QUICK_BATCHES}"]
    peer = [sys.executable, "-m", "benchmarks.peers.lightning", *theirs, *swept]
    # What the peer logs is written out, because importing it takes seconds.
    return [
        Command("this program", [*processes.PROGRAM, *ours, *swept], program.STEP_METRICS, "final/val_accuracy"),
        Command("Hydra + Lightning + MLFlowLogger", peer, ("lr-SGD", "lr-SGD-momentum", "train_loss"), "val_acc"),
    ]


def read(command: Command, store: Path, trials: int, steps: int) -> tuple[int, str]:
    """The number of points in a store, and the median accuracy; raises Incomplete unless each trial has each step."""
    found = program.points(store, command.series)
    if len(found) != trials:
        raise Incomplete(f"{command.name}: MLflow has the steps of {len(found)} of {trials} trials")
    for run, series in found.items():
        for name in command.series:
            if len(series.get(name, ())) != steps:
                raise Incomplete(
                    f"{command.name}: run {run} has {name} of {len(series.get(name, ()))} of {steps} steps"
                )
    with closing(sqlite3.connect(store)) as connection:
        query = "SELECT value FROM latest_metrics WHERE key = ?"
        accuracies = [value for (value,) in connection.execute(query, (command.accuracy,))]
    if len(accuracies) != trials:
        raise Incomplete(f"{command.name}: MLflow has the accuracy of {len(accuracies)} of {trials} trials")
    return trials * len(command.series) * steps, f"{statistics.median(accuracies):.2%}"
