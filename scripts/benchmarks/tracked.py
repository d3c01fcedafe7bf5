"""The sides that fill an MLflow store: the program, MLflow by hand, Lightning's logger."""

import shutil
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks import loops, stores
from benchmarks.costs import Cost
from benchmarks.loops import Points
from benchmarks.timed_nets import stopwatch
from benchmarks.trials import recorded_sweep
from benchmarks.work import Work
from onecycle_sweeps import tracking, trial


@dataclass(frozen=True)
class Tracked:
    """Sides that fill an MLflow store, each a file of its own whose schema is there before the stopwatch starts."""

    folder: Path

    @cached_property
    def fresh(self) -> Path:
        """A store without runs, to be copied."""
        return stores.made(self.folder / "fresh.db")

    def store(self) -> Path:
        """A store of its own for one turn."""
        return Path(shutil.copy(self.fresh, self.folder / f"{uuid.uuid4().hex}.db"))

    def shipped(self, work: Work) -> tuple[Cost, Points]:
        """The program's trial, and its journal brought to the store by the same process at the end."""
        folder = work.folder()
        path = self.store()
        made = recorded_sweep(work.runs_dir, path, work.trial)
        made.folder.joinpath("tracking.json").unlink(missing_ok=True)
        trial.run(folder)
        tracking.ship(made)
        return stopwatch.read(work.steps), stores.points(path, stores.OURS)

    def logged(self, work: Work) -> tuple[Cost, Points]:
        """The bare loop with three calls of mlflow.log_metric at each step."""
        import mlflow

        names = ("lr", "momentum", "loss")
        path = self.store()
        mlflow.set_tracking_uri(f"sqlite:///{path}")
        mlflow.set_experiment("benchmark")
        with mlflow.start_run():
            cost, _ = loops.bare(work, lambda step, values: [mlflow.log_metric(*v, step=step) for v in values.items()])
        return cost, stores.points(path, names)

    def lightning(self, work: Work) -> tuple[Cost, Points]:
        """Lightning with its own MLflow logger and LearningRateMonitor at every step."""
        from lightning.pytorch.callbacks import LearningRateMonitor
        from lightning.pytorch.loggers import MLFlowLogger

        from benchmarks import lightning_net

        path = self.store()
        logger = MLFlowLogger("benchmark", tracking_uri=f"sqlite:///{path}")
        monitor = LearningRateMonitor(logging_interval="step", log_momentum=True)
        lightning_net.fit(work, logger, [monitor])
        return stopwatch.read(work.steps), stores.points(path, stores.LIGHTNING)
