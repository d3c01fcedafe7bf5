"""The program's command, run to its end, and what its workers noted meanwhile."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from gpu_check import card

SECONDS = 400


@dataclass(frozen=True)
class Ran:
    """A command: its seconds from Enter to exit, how busy the card was, and the folder in which it ran."""

    seconds: float
    busy: str
    folder: Path

    def results(self) -> list[dict[str, Any]]:
        """The result of each training."""
        found = [json.loads(path.read_text()) for path in sorted(self.folder.glob("runs/*/result.json"))]
        return [result for result in found if result["kind"] == "train"]

    def stamps(self) -> list[tuple[int, str, float]]:
        """What a StampedCNN wrote: process, training or evaluating, and when."""
        lines = (line.split() for line in (self.folder / "stamps").read_text().splitlines())
        return [(int(process), word, float(at)) for process, word, at in lines]

    def busy_seconds(self) -> float:
        """From the first trial's first step to the last evaluation's beginning."""
        # The first process is that of the check before a sweep.
        preflight, *_ = self.stamps()[0]
        times = [at for process, _, at in self.stamps() if process != preflight]
        return max(times) - min(times)

    def between_trials(self) -> float | str:
        """The median time in a worker from a trial's last step to the next one's first, of trials of one epoch."""
        gaps: list[float] = []
        for process in {process for process, *_ in self.stamps()}:
            own = [(word, at) for one, word, at in self.stamps() if one == process]
            for (before, ended), (after, began) in pairwise(own):
                if (before, after) == ("evaluate", "train"):
                    gaps.append(began - ended)
        return median(gaps) if gaps else "one pack"


def run(folder: Path, *words: str) -> Ran:
    """Run the program in a fresh folder; raises RuntimeError with its last words where it fails."""
    folder.mkdir(parents=True)
    (folder / "stamps").touch()
    environment = os.environ | {"STAMPS": str(folder / "stamps"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    began = time.perf_counter()
    with card.watched() as usage:
        done = subprocess.run(
            [sys.executable, "-m", "onecycle_sweeps", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    seconds = time.perf_counter() - began
    print((done.stdout + done.stderr)[-3000:], file=sys.stderr, flush=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with status {done.returncode}: {done.stderr[-500:]}")
    return Ran(seconds, str(usage), folder)
