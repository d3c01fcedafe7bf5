"""A whole sweep from Enter to exit, beside the one that is written today."""

import os
import sqlite3
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, processes, stores
from benchmarks.loops import Incomplete
from benchmarks.processes import Spent
from benchmarks.tables import Requirement, Result, Table
from benchmarks.work import Options

POLICIES = ("constant", "step", "clr", "onecycle")
EPOCHS, BATCH, IMAGES, QUICK_BATCHES = 2, 128, 60_000, 10
CAPTION = """{trials} trials ({policies} x {seeds} seeds, max_lr 0.1) of simple_cnn on {images:,} images of \
Fashion-MNIST, {epochs} epochs of {steps} steps at batch {batch}, from an empty folder, each command once. A row is \
a command: this program's sweep, and benchmarks/template.py, which is a Lightning module with MLFlowLogger (sqlite) \
and LearningRateMonitor under Hydra's basic launcher, torchvision's FashionMNIST with a DataLoader, torch's \
schedulers. Seconds are from Enter to exit, with imports, decoding, evaluations and reports; CPU seconds are of all \
processes. Points are the values of rate, momentum and loss that stand in its MLflow store: in both, each trial has \
all three at each of its steps. The accuracy is the median over the trials after the last epoch, and says that both \
train alike."""


@dataclass(frozen=True)
class Command:
    """A sweep's command line, and the names under which its store has rate, momentum, loss, and final accuracy."""

    name: str
    words: Sequence[str]
    series: Sequence[str]
    accuracy: str


def run(options: Options) -> Result:
    """Both commands, if the peer's packages and Fashion-MNIST are here."""
    root = Path(os.environ.get("ONECYCLE_DATA", "data")).absolute()
    if machine.missing("lightning"):
        return Result([], (), [machine.left_out("all of it", "lightning")])
    if not (root / "FashionMNIST" / "raw").is_dir():
        return Result(
            [], (), [f"all of it: there is no FashionMNIST/raw in {root}; ONECYCLE_DATA names another folder"]
        )
    trials = 2 if options.quick else options.trials
    policies, seeds = POLICIES[: min(trials, len(POLICIES))], max(1, trials // len(POLICIES))
    if len(policies) * seeds != trials:
        raise ValueError(f"--trials must be 1 to 4 or a multiple of 4, got {trials}")
    steps = QUICK_BATCHES if options.quick else IMAGES // BATCH
    found = {}
    for number, command in enumerate(commands(root, policies, seeds, options)):
        folder = options.scratch / str(number)
        folder.mkdir()
        spent = processes.run(command.words, folder)
        found[command.name] = spent, *told(command, folder / "mlflow.db", trials, steps * EPOCHS)
    ours, theirs = (spent.wall for spent, *_ in found.values())
    sizes = {"trials": trials, "policies": ", ".join(policies), "seeds": seeds, "images": steps * BATCH}
    caption = CAPTION.format(**sizes, epochs=EPOCHS, steps=steps, batch=BATCH)
    rows = [row(name, trials, theirs, *values) for name, values in found.items()]
    columns = ("command", "s", "s a trial", "CPU s a trial", "points in MLflow", "val accuracy", "times as fast")
    required = Requirement(f"a sweep of {trials} trials beside today's: times as fast", theirs / ours, 6, at_least=True)
    spent = {name: asdict(values[0]) for name, values in found.items()}
    return Result([Table("A sweep", caption, columns, rows)], [required], (), spent)


def commands(root: Path, policies: Sequence[str], seeds: int, options: Options) -> list[Command]:
    """The program's command and the peer's, of the same trials."""
    swept = [f"policy={','.join(policies)}", f"seed={','.join(map(str, range(seeds)))}", "max_lr=0.1"]
    swept += [f"epochs={EPOCHS}", f"batch_size={BATCH}", "-m"]
    data = ["data=fashion_mnist", f"data.root={root}"]
    limit = []
    if options.quick:
        count = QUICK_BATCHES * BATCH
        data += ["data._target_=benchmarks.work.excerpt", f"+data.train={count}", f"+data.test={count}"]
        limit = [f"limit={QUICK_BATCHES}"]
    peer = [sys.executable, "-m", "benchmarks.template", f"data={root}", *limit, *swept]
    return [
        Command("this program", [*processes.PROGRAM, *data, *swept], stores.OURS, "final/val_accuracy"),
        Command("Hydra + Lightning + MLFlowLogger", peer, stores.LIGHTNING, "val_acc"),
    ]


def told(command: Command, store: Path, trials: int, steps: int) -> tuple[int, float]:
    """How many points a store holds, and the median accuracy; raises Incomplete unless each trial has each step."""
    found = stores.distinct(store, command.series)
    if len(found) != trials:
        raise Incomplete(f"{command.name}: MLflow has the steps of {len(found)} of {trials} trials")
    for run, counts in found.items():
        for name in command.series:
            if counts.get(name) != steps:
                raise Incomplete(f"{command.name}: run {run} has {name} of {counts.get(name, 0)} of {steps} steps")
    with closing(sqlite3.connect(store)) as connection:
        query = "SELECT value FROM latest_metrics WHERE key = ?"
        accuracies = [value for (value,) in connection.execute(query, (command.accuracy,))]
    if len(accuracies) != trials:
        raise Incomplete(f"{command.name}: MLflow has the accuracy of {len(accuracies)} of {trials} trials")
    return sum(sum(counts.values()) for counts in found.values()), statistics.median(accuracies)


def row(name: str, trials: int, slowest: float, spent: Spent, points: int, accuracy: float) -> Sequence[str | float]:
    """A command's row."""
    each = (spent.wall, spent.wall / trials, spent.cpu / trials)
    return (name, *each, points, f"{accuracy:.2%}", slowest / spent.wall)
