"""A simulated SLURM cluster: its programs are scripts, and one process plays all nodes, whose trials only write."""

import os
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.work import STEP_METRICS
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching.slurm import submissions
from onecycle_sweeps.launching.slurm.client import COLUMNS
from onecycle_sweeps.trial_folder import TrialFolder

STEPS, EVALUATIONS, TRIAL_SECONDS, TICK_SECONDS = 20, 2, 1.0, 0.2
# How long squeue knows a job that has ended, as SLURM's MinJobAge.
KNOWN_SECONDS = 300.0
PROGRAMS = {
    "sbatch": """set -e
for file; do :; done
cd {folder}/submitted
exec 9>lock
flock 9
number=$(($(cat number) + 1))
echo $number > number
cp "$file" part
mv part $number.sh
echo Submitted batch job $number""",
    "squeue": "exec cat {folder}/squeue",
    "sacct": "echo Slurm accounting storage is disabled >&2; exit 1",
    "scontrol": "echo MaxArraySize = 1001",
    **dict.fromkeys(("srun", "scancel"), "exit 0"),
}


@dataclass(frozen=True)
class Element:
    """One trial of a job array."""

    name: str
    array: int
    index: int
    trial: TrialFolder


@contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[None]:
    """A cluster with so many nodes, each of which takes one trial at a time; its programs are on the PATH."""
    (folder / "submitted").mkdir(parents=True)
    (folder / "submitted" / "number").write_text("0")
    (folder / "squeue").write_text("")
    (folder / "bin").mkdir()
    for name, text in PROGRAMS.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text.format(folder=folder)}\n")
        path.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder / 'bin'}:{before}"
    played = subprocess.Popen([sys.executable, "-m", __name__, str(folder), str(nodes)])
    try:
        yield
    finally:
        os.environ["PATH"] = before
        played.terminate()
        played.wait()


def elements(folder: Path, array: int) -> list[Element] | None:
    """The trials of an array, none if it is the job that writes the report; None before it is submitted."""
    script = folder / "submitted" / f"{array}.sh"
    if not script.exists():
        return None
    path = Path(shlex.split(script.read_text().splitlines()[-1])[-1])
    made = submissions.load(path)
    assert made, path
    runs_dir = path.parents[3]
    return [Element(made.name, array, i, TrialFolder(runs_dir / name)) for i, name in enumerate(made.trials)]


def play(folder: Path, nodes: int) -> None:
    """Run what is submitted until this process is ended."""
    # What the nodes' disks do is not measured.
    os.fsync = lambda _: None
    pending: deque[Element] = deque()
    running: dict[Element, tuple[float, Journal, ExitStack]] = {}
    ended: deque[tuple[float, Element]] = deque()
    number = 1
    while True:
        while (found := elements(folder, number)) is not None:
            pending += found
            number += 1
        now = time.monotonic()
        for element in [one for one, (until, *_) in running.items() if until <= now]:
            _end(element.trial, *running.pop(element)[1:])
            ended.append((now, element))
        while pending and len(running) < nodes:
            element = pending.popleft()
            running[element] = (time.monotonic() + TRIAL_SECONDS, *_begin(element.trial))
        while ended and ended[0][0] < now - KNOWN_SECONDS:
            ended.popleft()
        states = {"PENDING": pending, "RUNNING": running, "COMPLETED": [one for _, one in ended]}
        lines = [_line(element, state) for state, those in states.items() for element in those]
        (folder / "part").write_text("".join(lines))
        (folder / "part").replace(folder / "squeue")
        time.sleep(TICK_SECONDS)


def _line(element: Element, state: str) -> str:
    values = (element.name, str(element.array), str(element.index), state, "n1", "None", "0")
    return "".join(value.ljust(width) for value, width in zip(values, COLUMNS.values(), strict=True)) + "\n"


def _begin(trial: TrialFolder) -> tuple[Journal, ExitStack]:
    stack = ExitStack()
    stack.enter_context(trial.lock())
    facts = {"max_lr": 0.1, "max_lr_from": "config", "total_steps": STEPS, "steps_per_epoch": STEPS // EVALUATIONS}
    trial.write("resolved", facts)
    return Journal(trial.journal, trial.attempts() + 1, 0), stack


def _end(trial: TrialFolder, written: Journal, stack: ExitStack) -> None:
    seed = int(trial.signature, 16) % 97 / 970
    for first in range(0, STEPS, STEPS // EVALUATIONS):
        stop = first + STEPS // EVALUATIONS
        written.append(first, {name: [0.1 + step / STEPS for step in range(first, stop)] for name in STEP_METRICS})
        written.append(stop - 1, {"val/loss": [1 / stop], "val/accuracy": [stop / STEPS - seed]})
    written.saved(STEPS)
    metrics = {"seconds": 1.0, "final/val_accuracy": 1 - seed, "best/val_accuracy": 1 - seed}
    facts = {"status": "finished", "cause": None, "steps": STEPS, "steps_per_epoch": STEPS // EVALUATIONS}
    more = {"warnings": [], "attempt": 1, "kind": "train", "finished": time.time(), "metrics": metrics}
    trial.write("result", facts | more)
    written.end("finished")
    stack.close()


if __name__ == "__main__":
    play(Path(sys.argv[1]), int(sys.argv[2]))
