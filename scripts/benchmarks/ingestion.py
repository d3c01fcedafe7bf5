"""How fast journals get into a local MLflow store, beside MLflow's own batches of the same points."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from benchmarks import costs, program
from benchmarks.costs import Cost
from benchmarks.page import Incomplete, Result, Table
from benchmarks.peers import mlflow_client
from benchmarks.program import STEP_METRICS, Stores
from benchmarks.work import Options
from onecycle_sweeps import journal, tracking
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.planning import Trial
from onecycle_sweeps.trial_folder import TrialFolder

BLOCK, EVALUATIONS = 100, 2
# Read before anything sets another.
DEFAULT_THRESHOLD = gc.get_threshold()
OURS, THEIRS, AGAIN = "this program's shipping", "MlflowClient.log_batch, 1,000 a call", "the same shipping again"
TUNED = "log_batch with this program's garbage collection"
CAPTION = """{trials} finished trials of {steps} steps, each with rate, momentum and loss at every step and \
{evaluations} evaluations, written by the program's own journal; {points:,} points in all, into an sqlite store that \
has its schema and no run. A row is a way to fill it; all take turns in one process for {rounds} rounds after one \
that is not counted. This program ships whole runs (params, tags, pictures where there are any) and keeps its \
account; the loop of log_batch creates a run for each trial and sends its points and nothing else, once with Python's \
default garbage collection and once with the settings of this program's shipping. "Again" is the second shipping, \
with nothing left to ship. Counted are wall and CPU seconds (medians) and the wall time beside log_batch's in the \
same round (median)."""


def run(options: Options) -> Result:
    """One table."""
    trials, steps = (2, 100) if options.quick else (24, 936)
    runs_dir = options.scratch / "runs"
    planned = [program.planned(runs_dir, f"seed={seed}", "max_lr=0.1", "policy=constant") for seed in range(trials)]
    for trial in planned:
        write(TrialFolder(runs_dir / trial.signature), trial, steps)
    filling = Filling(Stores(options.scratch), runs_dir, planned, steps)
    sides = {THEIRS: filling.theirs, OURS: filling.ours, AGAIN: filling.again, TUNED: filling.tuned}
    measured = costs.interleaved(sides, options.rounds)
    points = trials * (len(STEP_METRICS) * steps + 2 * EVALUATIONS)
    rows = [
        (
            name,
            measured.wall(name),
            measured.cpu(name),
            points / measured.wall(name) if name != AGAIN else None,
            measured.ratio(name, THEIRS),
        )
        for name in measured
    ]
    sizes = {"trials": trials, "steps": steps, "evaluations": EVALUATIONS, "points": points, "rounds": options.rounds}
    columns = ("way", "wall s", "CPU s", "points/s", "wall / log_batch")
    return Result([Table("Journals to MLflow", CAPTION.format(**sizes), columns, rows)], (), (), measured)


def write(folder: TrialFolder, trial: Trial, steps: int) -> None:
    """A finished trial's folder, written by the program's own classes."""
    folder.create(trial.config)
    folder.write("resolved", {"max_lr": 0.1, "max_lr_from": "config", "total_steps": steps, "steps_per_epoch": steps})
    writer = Journal(folder.journal, 1, 0)
    evaluated = {number * steps // EVALUATIONS: number for number in range(1, EVALUATIONS + 1)}
    for first, stop in pairwise(sorted({*range(0, steps, BLOCK), *evaluated, steps})):
        values = [step / steps for step in range(first, stop)]
        writer.append(first, dict.fromkeys(STEP_METRICS, values))
        if number := evaluated.get(stop):
            writer.append(stop - 1, {"val/loss": [1 / number], "val/accuracy": [number / EVALUATIONS]})
    folder.write("result", program.result(steps, **{"final/val_accuracy": 1.0, "best/val_accuracy": 1.0}))
    writer.saved(steps)
    writer.end("finished")


class Filling:
    """The ways to fill a store; each turn has a fresh one."""

    def __init__(self, stores: Stores, runs_dir: Path, trials: Sequence[Trial], steps: int) -> None:
        self.stores, self.runs_dir, self.trials, self.steps = stores, runs_dir, trials, steps

    def ours(self) -> Cost:
        """The program's shipping into a fresh store."""
        store = self.stores.fresh()
        self.shipped = program.recorded_sweep(self.runs_dir, f"sqlite:///{store}", "benchmark", self.trials)
        cost = costs.timed(lambda: tracking.ship(self.shipped))
        self.check(store)
        return cost

    def again(self) -> Cost:
        """The program's shipping when nothing is left to ship."""
        return costs.timed(lambda: tracking.ship(self.shipped))

    def theirs(self) -> Cost:
        """The batches in a process that has not loaded this program."""
        with default_collection():
            return self.tuned()

    def tuned(self) -> Cost:
        """Batches of points, one after the other, as fast as MLflow takes them."""
        store = self.stores.fresh()
        cost = costs.timed(
            lambda: mlflow_client.send(f"sqlite:///{store}", "benchmark", [*map(self.points, self.trials)])
        )
        self.check(store)
        return cost

    def points(self, trial: Trial) -> list[mlflow_client.Point]:
        """All points of a trial's journal."""
        return [
            (name, value, round(1000 * block.time), block.step + i)
            for block in journal.read(TrialFolder(self.runs_dir / trial.signature).journal).blocks
            for name, values in block.metrics.items()
            for i, value in enumerate(values)
        ]

    def check(self, store: Path) -> None:
        """Raise Incomplete unless a store has all steps of each trial."""
        found = program.points(store, STEP_METRICS).values()
        full = [run for run in found if all(len(run.get(name, ())) == self.steps for name in STEP_METRICS)]
        if len(full) != len(self.trials):
            raise Incomplete(f"a store has all steps of {len(full)} of {len(self.trials)} trials")


@contextmanager
def default_collection() -> Iterator[None]:
    """Python's default garbage collection; this program's shipping sets another for its process."""
    frozen, threshold = gc.get_freeze_count(), gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(*DEFAULT_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        if frozen:
            gc.freeze()
