"""How fast journals get into a local MLflow store, beside MLflow's own batches of the same points."""

import gc
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import costs, program
from benchmarks.costs import Cost
from benchmarks.page import Result
from benchmarks.peers import mlflow_client
from benchmarks.program import STEP_METRICS
from benchmarks.work import Options
from onecycle_sweeps import journal, tracking
from onecycle_sweeps.sweep import Sweep

# Read before this program's shipping sets another for its process.
DEFAULT_THRESHOLD = gc.get_threshold()
OURS, THEIRS, AGAIN = "this program's shipping", "MlflowClient.log_batch, 1,000 a call", "the same shipping again"
TUNED = "log_batch with this program's garbage collection"
CAPTION = """{trials} finished trials of {steps} steps, each with rate, momentum and loss at every step and an \
evaluation every {every} steps, {points:,} points in all, into an sqlite store that has its schema and no run. All \
ways take turns in one process for {rounds} rounds after one that is not counted. This program ships whole runs and \
keeps its account; log_batch gets the points and nothing else, with Python's default garbage collection and with this \
program's. "Again" is a second shipping, with nothing left to ship. Seconds are medians; the ratio is within a round."""


def run(options: Options) -> Result:
    """One table."""
    trials, steps = (2, 200) if options.quick else (24, 936)
    made = program.sweep_of_seeds(options.scratch, "sqlite:///unused.db", trials)
    program.write([made.trial(entry.signature) for entry in made.trials], steps)
    filling = Filling(options.scratch, made, steps)
    sides = {THEIRS: filling.theirs, OURS: filling.ours, AGAIN: filling.again, TUNED: filling.tuned}
    taken = costs.interleaved(sides, options.rounds)
    points = sum(len(filling.points(entry.signature)) for entry in made.trials)
    sizes = {"trials": trials, "steps": steps, "every": program.BLOCK, "points": points, "rounds": options.rounds}
    speed = {"points/s": lambda way: points / taken.wall(way) if way != AGAIN else None}
    return Result([taken.table("Journals to MLflow", CAPTION.format(**sizes), "way", "s", **speed)], (), (), taken)


@dataclass
class Filling:
    """The ways to fill a store with a sweep's trials; each turn has a fresh one."""

    folder: Path
    sweep: Sweep
    steps: int

    def ours(self) -> Cost:
        """The program's shipping."""
        store = program.fresh_store(self.folder)
        self.sweep = replace(self.sweep, tracking_uri=f"sqlite:///{store}")
        self.sweep.save()
        cost = costs.timed(lambda: tracking.ship(self.sweep))
        program.check_store(store, STEP_METRICS, len(self.sweep.trials), self.steps)
        return cost

    def again(self) -> Cost:
        """The program's shipping when nothing is left to ship."""
        return costs.timed(lambda: tracking.ship(self.sweep))

    def tuned(self) -> Cost:
        """Batches of points, one after the other, as fast as MLflow takes them."""
        store, trials = program.fresh_store(self.folder), [entry.signature for entry in self.sweep.trials]
        uri = f"sqlite:///{store}"
        cost = costs.timed(lambda: mlflow_client.send(uri, "benchmark", map(self.points, trials)))
        program.check_store(store, STEP_METRICS, len(trials), self.steps)
        return cost

    def theirs(self) -> Cost:
        """The same batches in a process that has not loaded this program."""
        frozen, threshold = gc.get_freeze_count(), gc.get_threshold()
        gc.unfreeze()
        gc.set_threshold(*DEFAULT_THRESHOLD)
        cost = self.tuned()
        gc.set_threshold(*threshold)
        if frozen:
            gc.freeze()
        return cost

    def points(self, signature: str) -> list[mlflow_client.Point]:
        """All points of a trial's journal."""
        return [
            (name, value, round(1000 * block.time), block.step + i)
            for block in journal.read(self.sweep.trial(signature).journal).blocks
            for name, values in block.metrics.items()
            for i, value in enumerate(values)
        ]
