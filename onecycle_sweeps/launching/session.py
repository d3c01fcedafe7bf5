"""One command's sweep: its requests planned, recorded, run, and shipped to MLflow meanwhile."""

import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from onecycle_sweeps import files, provenance, sweep, tracking
from onecycle_sweeps.config import preset
from onecycle_sweeps.config.schema import PUBLISHED, ConfigError
from onecycle_sweeps.files import Damaged, Unreadable
from onecycle_sweeps.launching.display import Display
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.planning import Planner, Request, Trial, outdated
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep
from onecycle_sweeps.trial_folder import DIVERGED, Busy, EarlierVersion, TrialFolder

Run = Callable[[Sweep, Sequence[Entry]], Generator[Event]]
# How many trials' folders are made at once: each waits for the disk, which makes many durable in the time of one.
AT_ONCE = 16


class Session:
    """A sweep from its first launch to its report; a sequential sweeper launches several times in one session.

    `cpus_elsewhere` is what its trials are granted where they run on other machines, `ships` whether this one fills
    MLflow meanwhile. `typed_in` is the folder of the shell, by default the working folder.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        preflight: Preflight,
        *,
        single: bool,
        sequential: bool = False,
        launcher: Mapping[str, Any] | None = None,
        cpus_elsewhere: int | None = None,
        ships: bool = True,
        typed_in: Path | None = None,
    ) -> None:
        self.typed_in = typed_in or Path.cwd()
        self.runs_dir = Path(config["runs_dir"])
        try:
            tracking.check_uri(config["tracking"]["uri"])
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.planner = Planner(self.runs_dir, cpus_elsewhere=cpus_elsewhere)
        self.trials: list[Trial] = []
        self.sweep = Sweep(
            id=sweep.fresh_identity() if sequential else "",
            runs_dir=self.runs_dir,
            command=tuple(sys.argv[1:]),
            cwd=str(Path.cwd()),
            created=time.time(),
            git_commit=provenance.git_commit(Path.cwd()),
            tracking_uri=config["tracking"]["uri"],
            experiment=config["tracking"]["experiment"],
            single=single,
            trials=(),
            published=preset.read(config.get(PUBLISHED)),
            launcher=dict(launcher) if launcher else None,
            sequential=sequential,
        )
        self._preflight = preflight
        self._sequential, self.ships = sequential, ships
        self._said: set[str] = set()
        self._open = ExitStack()
        self._shipper: tracking.Shipper | None = None

    def launch(self, requests: Sequence[Request], run: Run) -> list[float]:
        """Plan and run the trials that are asked for; returns each one's objective.

        Raises ConfigError before anything runs if one of them cannot be done.
        """
        asked = self.plan(requests)
        self.trials += asked
        todo, reused, remarks = self._record(asked)
        for line in self.alike(asked, self.sweep.trials):
            print(line, file=sys.stderr, flush=True)
        self._run(todo, run, reused, remarks)
        return [sweeper_value(self.sweep.trial(trial.signature)) for trial in asked]

    def plan(self, requests: Sequence[Request]) -> list[Trial]:
        """The trials that are asked for; raises ConfigError for one that could take no step."""
        asked = [self.planner.plan(request) for request in requests]
        todo = [t for t in asked if t.config["rerun"] or not _is_done(self.sweep.trial(t.signature), t.config)]
        self._preflight.check(todo, self.runs_dir)
        return asked

    def resume(self, recorded: Sweep, run: Run) -> None:
        """Run what is left of a recorded sweep by its trials' configs on disk; nothing is planned again."""
        here = {
            key: getattr(self.sweep, key) for key in ("cwd", "git_commit", "tracking_uri", "experiment", "launcher")
        }
        self.sweep = replace(recorded, **here)
        self.sweep.save()
        _check_locks(self.runs_dir)
        todo, remarks = [], []
        for entry in recorded.trials:
            trial = recorded.trial(entry.signature)
            try:
                remarks += trial.set_aside_damaged()
                if isinstance(reason := trial.unusable(), EarlierVersion | Damaged):
                    _put_aside(trial)
                    trial.journal.mkdir(exist_ok=True)
                    remarks.append(f"{reason}: the trial is trained again")
                elif reason:
                    raise reason
                if not trial.is_done(trial.config()):
                    todo.append(entry)
            except Unreadable as error:
                remarks.append(str(error))
        self._ask_again(todo)
        self._run(todo, run, (), remarks)

    def alike(self, asked: Sequence[Trial], entries: Sequence[Entry]) -> Iterator[str]:
        """A line, once in a session, for each thing that was typed and makes no difference between trainings.

        And for data whose changes nothing shows.
        """
        for line in (*self.planner.remarks, *sweep.other_names(entries), *self.planner.without_effect(asked)):
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

    def _run(self, todo: Sequence[Entry], run: Run, reused: Sequence[Entry], remarks: Sequence[str]) -> None:
        changed = outdated(self.sweep.trial(entry.signature) for entry in reused).code
        with Display(self.sweep, len(todo), len(reused), changed) as display:
            for line in remarks:
                display.show(Event(news=line))
            if self.ships and not self._shipper:
                self._shipper = self._open.enter_context(tracking.Shipper(self.sweep.folder))
            with closing(run(self.sweep, todo)) as events:
                for event in events:
                    display.show(event)

    def _ask_again(self, todo: Sequence[Entry]) -> None:
        """Take back that trials were cancelled."""
        for entry in todo:
            self.sweep.trial(entry.signature).remove("cancel.json")

    def _record(self, asked: Sequence[Trial]) -> tuple[list[Entry], list[Entry], list[str]]:
        """Make the trials' folders and write sweep.json.

        Returns the entries that are still to be run, those whose results were there before the command, and lines on
        records that cannot be used.
        """
        _check_locks(self.runs_dir)
        entries = sweep.entries(self.trials)
        identity = self.sweep.id if self._sequential else sweep.identity(e.signature for e in entries)
        self.sweep = replace(self.sweep, id=identity)
        remarks, earlier, refused, to_make = _flaws_of(self.sweep), 0, set(), []
        wanted = {t.signature: t for trial in asked for t in (trial.range_test, trial) if t}
        known = {entry.signature: entry for entry in self.sweep.trials}
        for signature, trial in wanted.items():
            folder = TrialFolder(self.runs_dir / signature)
            if trial.request.config["rerun"] and signature not in known:
                _put_aside(folder)
            elif (reason := folder.unusable()) and isinstance(reason, EarlierVersion | Damaged):
                _put_aside(folder)
                earlier += isinstance(reason, EarlierVersion)
                remarks += [f"{reason}: the trial is trained again"] if isinstance(reason, Damaged) else []
            elif reason:
                refused.add(signature)
                remarks.append(str(reason))
                continue
            else:
                remarks += folder.set_aside_damaged()
            to_make.append((folder, trial))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda made: made[0].create(made[1].config, made[1].request.hydra), to_make))
        if earlier:
            remarks.append(
                f"{earlier} of {len(wanted)} trials were recorded by an earlier version of the program: nothing of "
                "them is reused, and what was recorded lies in their folders under before-*"
            )
        done = {s for s, trial in wanted.items() if s not in refused and self.sweep.trial(s).is_done(trial.config)}
        entries = tuple(
            replace(e, reused=known[e.signature].reused if e.signature in known else e.signature in done)
            for e in entries
        )
        self.sweep = replace(self.sweep, trials=entries)
        self.sweep.save()
        todo = [e for e in entries if e.signature in wanted and e.signature not in done | refused]
        self._ask_again(todo)
        return todo, [e for e in entries if e.reused and e.signature not in known], remarks


def _is_done(folder: TrialFolder, config: Mapping[str, Any]) -> bool:
    """Whether a trial's result is there and can be read."""
    try:
        return folder.is_done(dict(config))
    except Unreadable:
        return False


def sweeper_value(trial: TrialFolder) -> float:
    """The number that a sweeper optimises: a training's final headline measure on val, or a range test's max_lr.

    A training that diverged has the worst value there is, a trial without a result NaN.
    """
    stands = trial.state()
    if not stands.has_result:
        return math.nan
    if stands.status == DIVERGED:
        return trial.headline().worst
    name = "suggestion/max_lr" if stands.result["kind"] == RANGE_TEST else trial.headline().final_val
    return stands.result["metrics"].get(name, math.nan)


def _check_locks(runs_dir: Path) -> None:
    """Refuse a place where trials cannot be locked, before one of them fails of it."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    try:
        files.check_locks(runs_dir)
    except files.NoLocks as error:
        raise ConfigError(str(error)) from error


def _flaws_of(which: Sweep) -> list[str]:
    """A line where the sweep's record is damaged; raises ConfigError for one that this version may not replace."""
    try:
        with suppress(FileNotFoundError):
            sweep.load(which.folder)
    except Damaged as error:
        return [f"{error}: it is written again"]
    except Unreadable as error:
        raise ConfigError(str(error)) from error
    return []


def _put_aside(folder: TrialFolder) -> None:
    """Move what earlier attempts left, so that the trial begins anew."""
    try:
        folder.set_aside()
    except Busy as error:
        raise ConfigError(f"rerun=true cannot begin again what is at work: {error}") from error
