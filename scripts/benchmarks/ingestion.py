"""How fast journals come into a local MLflow store, beside MLflow's own batches of the same points."""

import gc
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from benchmarks import costs, stores
from benchmarks.costs import Cost
from benchmarks.loops import Incomplete
from benchmarks.tables import Result, Table
from benchmarks.trials import planned, recorded_sweep
from benchmarks.work import Options
from onecycle_sweeps import journal, tracking
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.plan import Trial

BLOCK, BATCH, EVALUATIONS = 100, 1000, 2
# Read before anything sets another.
DEFAULT_THRESHOLD = gc.get_threshold()
OURS, THEIRS, AGAIN = "this program's shipping", "MlflowClient.log_batch, 1,000 a call", "the same shipping again"
TUNED = "log_batch with this program's garbage collection"
CAPTION = """{trials} finished trials of {steps} steps, each with rate, momentum and loss at every step and \
{evaluations} evaluations, written by the program's own journal; {points:,} points in all, into an sqlite store that \
has its schema and no run. A row is a way to fill it, in turn with the others in one process, {rounds} rounds after \
one that is not counted. This program's ships whole runs (params, tags, pictures where there are any) and keeps its \
account; the loop of log_batch creates a run for each trial and sends its points and nothing else, once with Python's \
own garbage collection and once with what this program's shipping sets. "Again" is the second shipping, when nothing \
lacks. Counted are wall and CPU seconds (medians) and the wall time beside log_batch's \
in the same round (median)."""


def run(options: Options) -> Result:
    """One table."""
    trials, steps = (2, 100) if options.quick else (24, 936)
    runs_dir = options.scratch / "runs"
    asked = [planned(runs_dir, f"seed={seed}", "max_lr=0.1", "policy=constant") for seed in range(trials)]
    for one in asked:
        write(TrialFolder(runs_dir / one.signature), one, steps)
    fresh = stores.made(options.scratch / "fresh.db")
    filling = Filling(fresh, runs_dir, asked, steps)
    sides = {THEIRS: filling.theirs, OURS: filling.ours, AGAIN: filling.again, TUNED: filling.tuned}
    measured = costs.interleaved(sides, options.rounds, 1)
    points = filling.points
    rows = [
        (
            name,
            costs.wall(measured, name),
            costs.cpu(measured, name),
            points / costs.wall(measured, name) if name != AGAIN else None,
            costs.ratio(measured, name, THEIRS),
        )
        for name in measured
    ]
    sizes = {"trials": trials, "steps": steps, "evaluations": EVALUATIONS, "points": points, "rounds": options.rounds}
    columns = ("way", "wall s", "CPU s", "points/s", "wall / log_batch")
    raw = {name: [asdict(cost) for cost in taken] for name, taken in measured.items()}
    return Result([Table("Journals to MLflow", CAPTION.format(**sizes), columns, rows)], (), (), raw)


def write(folder: TrialFolder, trial: Trial, steps: int) -> None:
    """A finished trial's folder, as the program's own classes write it."""
    folder.create(trial.config)
    folder.write("resolved", {"max_lr": 0.1, "max_lr_from": "config", "total_steps": steps, "steps_per_epoch": steps})
    book = Journal(folder.journal, 1, 0)
    evaluated = {number * steps // EVALUATIONS: number for number in range(1, EVALUATIONS + 1)}
    for first, stop in pairwise(sorted({*range(0, steps, BLOCK), *evaluated, steps})):
        block = [step / steps for step in range(first, stop)]
        book.append(first, dict.fromkeys(stores.OURS, block))
        if number := evaluated.get(stop):
            book.append(stop - 1, {journal.VAL_LOSS: [1 / number], journal.VAL_ACCURACY: [number / EVALUATIONS]})
    metrics = {"final/val_accuracy": 1.0, "best/val_accuracy": 1.0, "seconds": 1.0}
    result = {"status": "finished", "cause": None, "metrics": metrics, "steps": steps, "warnings": []}
    folder.write("result", result | {"attempt": 1, "finished": time.time(), "kind": "train"})
    book.saved(steps)
    book.end("finished")


class Filling:
    """The ways to fill a store; each turn has a copy of the fresh one."""

    def __init__(self, fresh: Path, runs_dir: Path, trials: list[Trial], steps: int) -> None:
        self.fresh, self.runs_dir, self.trials, self.steps = fresh, runs_dir, trials, steps
        self.shipped = recorded_sweep(runs_dir, fresh, *trials)

    @property
    def points(self) -> int:
        """How many points a full store has."""
        return len(self.trials) * (len(stores.OURS) * self.steps + 2 * EVALUATIONS)

    def store(self) -> Path:
        """A fresh store for one turn."""
        return Path(shutil.copy(self.fresh, self.fresh.with_name(f"{uuid.uuid4().hex}.db")))

    def ours(self) -> Cost:
        """The program's shipping into a fresh store."""
        path = self.store()
        self.shipped = recorded_sweep(self.runs_dir, path, *self.trials)
        cost = costs.timed(lambda: tracking.ship(self.shipped))
        self.check(path)
        return cost

    def again(self) -> Cost:
        """The program's shipping when there is nothing to ship."""
        return costs.timed(lambda: tracking.ship(self.shipped))

    def theirs(self) -> Cost:
        """The same batches in a process that knows nothing of this program."""
        with collecting():
            return self.tuned()

    def tuned(self) -> Cost:
        """Batches of points, one after the other, as fast as MLflow takes them."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        path = self.store()
        client = MlflowClient(f"sqlite:///{path}")
        experiment = client.create_experiment("benchmark")

        def fill() -> None:
            for trial in self.trials:
                run = client.create_run(experiment).info.run_id
                blocks = journal.read(TrialFolder(self.runs_dir / trial.signature).journal).blocks
                points = [
                    Metric(name, value, round(1000 * block.time), block.step + i)
                    for block in blocks
                    for name, values in block.metrics.items()
                    for i, value in enumerate(values)
                ]
                for first in range(0, len(points), BATCH):
                    client.log_batch(run, points[first : first + BATCH])
                client.set_terminated(run)

        cost = costs.timed(fill)
        self.check(path)
        return cost

    def check(self, store: Path) -> None:
        """Raise Incomplete unless each trial has each of its steps in a store."""
        found = stores.distinct(store, stores.OURS)
        full = [run for run, counts in found.items() if all(counts.get(n) == self.steps for n in stores.OURS)]
        if len(full) != len(self.trials):
            raise Incomplete(f"a store has all steps of {len(full)} of {len(self.trials)} trials")


@contextmanager
def collecting() -> Iterator[None]:
    """Garbage collection as Python begins with; this program's shipping sets another for its process."""
    frozen, threshold = gc.get_freeze_count(), gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(*DEFAULT_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        if frozen:
            gc.freeze()
