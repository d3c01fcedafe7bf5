"""Interleaves whole processes, A B A B: this program with every step in its journal and in MLflow, and a bare loop.

Both train the same net on the same batches by the same 1cycle schedule; what counts is the time from the first step
to the last evaluation, as each of them measures it. Start is not counted.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAX_LR = 0.3
METRICS_PER_STEP = ("schedule/lr", "schedule/momentum", "train/loss")


def main() -> None:
    """Measure and print one line a round, then medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--bare", metavar="TRIAL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare_loop(Path(options.bare))))
        return
    import torch

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            ours, steps = program(Path(scratch) / str(number), options)
            bare = in_a_process(Path(scratch) / str(number))
            rounds.append((ours, bare))
            print(f"round {number}: {steps} steps, program {ours:.2f} s, bare loop {bare:.2f} s, {ours / bare:.3f}x")
    ours, bare = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    print(f"median: program {ours:.2f} s, bare loop {bare:.2f} s; median ratio {ratio:.3f}x")


def program(folder: Path, options: argparse.Namespace) -> tuple[float, int]:
    """The seconds that one trial of the program took, all of its points having arrived in MLflow; and its steps."""
    folder.mkdir()
    overrides = [f"data={options.data}", f"epochs={options.epochs}", f"max_lr={MAX_LR}"]
    command = [sys.executable, "-m", "onecycle_sweeps", *overrides]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result = json.loads(trial(folder).joinpath("result.json").read_text())
    check_store(folder / "mlflow.db", result["steps"])
    return result["metrics"]["seconds"], result["steps"]


def trial(folder: Path) -> Path:
    """The folder of the one trial that a command made."""
    return next((folder / "runs").glob("*/result.json")).parent


def check_store(database: Path, steps: int) -> None:
    """Raise AssertionError unless each step has its points in MLflow."""
    import sqlite3

    with sqlite3.connect(database) as connection:
        for name in METRICS_PER_STEP:
            (count,) = connection.execute("select count(distinct step) from metrics where key = ?", (name,)).fetchone()
            assert count == steps, f"{name} has {count} of {steps} steps in MLflow"


def in_a_process(folder: Path) -> float:
    """The seconds that the bare loop takes in a process of its own, with the program's settings."""
    command = [sys.executable, __file__, "--bare", str(trial(folder))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["seconds"]


def bare_loop(folder: Path) -> dict[str, float]:
    """What a person writes without this program: tensors in memory, torch's OneCycleLR, one evaluation an epoch."""
    import numpy as np
    import torch
    import yaml
    from torch.nn.functional import cross_entropy

    from onecycle_sweeps.models.simple_cnn import SimpleCNN

    config = yaml.safe_load((folder / "config.yaml").read_text())
    cache = folder.parent / "data" / config["needs"]["data"]
    loaded = {path.stem: torch.from_numpy(np.load(path)) for path in cache.glob("*.npy")}
    train, labels, test, test_labels = (loaded[f"{s}_{k}"] for s in ("train", "test") for k in ("images", "labels"))
    mean, std = train.float().mean(), train.float().std()
    batch, epochs = config["batch_size"], config["epochs"]
    per_epoch = len(train) // batch

    torch.manual_seed(config["seed"])
    torch.set_num_threads(1)
    model = SimpleCNN(1, 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=MAX_LR, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LR, epochs * per_epoch)

    def scores(images: torch.Tensor) -> torch.Tensor:
        return model(images.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(std))

    def accuracy() -> float:
        model.eval()
        with torch.no_grad():
            chunks = zip(test.split(1024), test_labels.split(1024), strict=True)
            correct = sum(int((scores(x).argmax(1) == y).sum()) for x, y in chunks)
        model.train()
        return correct / len(test)

    accuracies: list[float] = []
    began = time.monotonic()
    for _ in range(epochs):
        order = torch.randperm(len(train))
        for index in order[: per_epoch * batch].split(batch):
            loss = cross_entropy(scores(train[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule.last_epoch < schedule.total_steps - 1:
                schedule.step()
        accuracies.append(accuracy())
    return {"seconds": time.monotonic() - began, "accuracy": accuracies[-1]}


if __name__ == "__main__":
    main()
