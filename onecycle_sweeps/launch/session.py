"""One command's sweep: its requests planned, recorded, run, and shipped to MLflow meanwhile."""

import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from onecycle_sweeps import provenance, published, sweep, tracking
from onecycle_sweeps.checks import OF_THE_SWEEP, ConfigError
from onecycle_sweeps.folder import Busy, TrialFolder
from onecycle_sweeps.launch import alike
from onecycle_sweeps.launch.display import Display
from onecycle_sweeps.launch.queue import Event
from onecycle_sweeps.launch.reuse import outdated
from onecycle_sweeps.plan import Planner, Request, Trial
from onecycle_sweeps.state import DIVERGED
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep

Run = Callable[[Sweep, Sequence[Entry]], Generator[Event]]


class Session:
    """A sweep from its first launch to its report; a sequential sweeper launches several times in one session.

    `elsewhere` is whether its trials run on other machines, `ships` whether this one fills MLflow meanwhile.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        single: bool,
        sequential: bool = False,
        elsewhere: bool = False,
        ships: bool = True,
    ) -> None:
        self.runs_dir = Path(config["runs_dir"]).absolute()
        self.planner = Planner(self.runs_dir, elsewhere=elsewhere)
        self.trials: list[Trial] = []
        self.sweep = Sweep(
            id=sweep.fresh_identity() if sequential else "",
            runs_dir=self.runs_dir,
            command=tuple(sys.argv[1:]),
            cwd=str(Path.cwd()),
            created=time.time(),
            git_commit=provenance.git_commit(Path.cwd()),
            tracking_uri=tracking.absolute_uri(config["tracking"]["uri"], Path.cwd()),
            experiment=config["tracking"]["experiment"],
            single=single,
            trials=(),
            published=published.read(config.get(OF_THE_SWEEP)),
        )
        self._sequential, self.ships = sequential, ships
        self._said: set[str] = set()
        self._open = ExitStack()
        self._shipper: tracking.Shipper | None = None

    def launch(self, requests: Sequence[Request], run: Run) -> list[float]:
        """Plan and run the trials that are asked for; returns each one's objective.

        Raises ConfigError before anything runs if one of them cannot be done.
        """
        asked = [self.planner.plan(request) for request in requests]
        self.trials += asked
        todo, reused = self._record(asked)
        changed = outdated(self.sweep, reused).code
        for line in self.alike(asked, self.sweep.trials):
            print(line, file=sys.stderr, flush=True)
        with Display(self.sweep, len(todo), len(reused), changed) as display:
            if self.ships and not self._shipper:
                self._shipper = self._open.enter_context(tracking.Shipper(self.sweep.folder))
            with closing(run(self.sweep, todo)) as events:
                for event in events:
                    display.show(event)
        return [objective(self.sweep.trial(trial.signature)) for trial in asked]

    def alike(self, asked: Sequence[Trial], entries: Sequence[Entry]) -> Iterator[str]:
        """A line, once in a session, for each thing that was typed and makes no difference between trainings."""
        trainings = alike.Trainings(asked, self.planner.steps_per_epoch)
        for line in (*alike.names_of_one(entries), *trainings.without_effect()):
            if line not in self._said:
                self._said.add(line)
                yield line

    def deliver(self, files: Sequence[Path], description: str) -> str | None:
        """Bring MLflow up to date, the report's files with it; returns why that failed, if it did."""
        assert self._shipper
        return self._shipper.deliver(files, description)

    def close(self) -> None:
        """Let the tracker take in what is left, for a bounded time."""
        self._open.close()

    def _record(self, asked: Sequence[Trial]) -> tuple[list[Entry], list[Entry]]:
        """Make the trials' folders and write sweep.json.

        Returns the entries that are still to be run, and those whose results were there before the command.
        """
        wanted = {t.signature: t for trial in asked for t in (trial.range_test, trial) if t}
        known = {entry.signature: entry for entry in self.sweep.trials}
        for signature, trial in wanted.items():
            folder = TrialFolder(self.runs_dir / signature)
            if trial.request.config["rerun"] and signature not in known:
                _put_aside(folder)
            folder.create(trial.config, trial.request.hydra)
        done = {s for s, trial in wanted.items() if self.sweep.trial(s).done(trial.config)}
        entries = tuple(
            replace(e, reused=known[e.signature].reused if e.signature in known else e.signature in done)
            for e in sweep.entries(self.trials)
        )
        identity = self.sweep.id if self._sequential else sweep.identity(e.signature for e in entries)
        self.sweep = replace(self.sweep, id=identity, trials=entries)
        self.sweep.save()
        todo = [e for e in entries if e.signature in wanted and e.signature not in done]
        for entry in todo:
            self.sweep.trial(entry.signature).remove("cancel.json")
        return todo, [e for e in entries if e.reused and e.signature not in known]


def objective(trial: TrialFolder) -> float:
    """What a sweeper maximises: final val accuracy, a range test's rate; diverged 0, failed not a number."""
    result = trial.result()
    if result is None:
        return math.nan
    if result["status"] == DIVERGED:
        return 0.0
    return result["metrics"]["suggestion/max_lr" if result["kind"] == RANGE_TEST else "final/val_accuracy"]


def _put_aside(folder: TrialFolder) -> None:
    """Move what earlier attempts left, so that the trial begins anew."""
    try:
        folder.put_aside()
    except Busy as error:
        raise ConfigError(f"rerun=true cannot begin again what is at work: {error}") from error
