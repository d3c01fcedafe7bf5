"""One command's sweep from plan to table: its trials are planned, recorded, run, shipped to MLflow and compared."""

import math
import shlex
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from onecycle_sweeps import files, provenance, report, sweep, tracking
from onecycle_sweeps.config import paths, preset
from onecycle_sweeps.config.schema import PUBLISHED, ConfigError
from onecycle_sweeps.differences import outdated, without_effect
from onecycle_sweeps.files import Damaged, Unreadable
from onecycle_sweeps.launching.display import Display
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.launching.slurm import jobs
from onecycle_sweeps.outcome import sweeper_value
from onecycle_sweeps.planning import Planner, Request, Trial
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry, Sweep
from onecycle_sweeps.terminal import FAILURE, invocation, say, typed
from onecycle_sweeps.trial_folder import Busy, EarlierVersion, TrialFolder

Run = Callable[[Sweep, Sequence[Entry]], Generator[Event]]
# How many trials' folders are created at once: a disk syncs many in the time of one.
FOLDERS_AT_ONCE = 16
# The most lines below the table at the end of a sweep.
LINES_AT_END = 5


class Session:
    """A sweep from its first launch to its report; a sequential sweeper launches several times in one session.

    `cpus_elsewhere`: the cores of a trial that runs on another machine. `ships`: whether this process fills MLflow.
    `typed_in`: the folder in which the command was typed, by default the working folder.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        preflight: Preflight,
        *,
        single: bool = False,
        sequential: bool = False,
        launcher: Mapping[str, Any] | None = None,
        cpus_elsewhere: int | None = None,
        ships: bool = True,
        typed_in: Path | None = None,
    ) -> None:
        try:
            tracking.check_uri(config["tracking"]["uri"])
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.ships, self.typed_in = ships, typed_in or Path.cwd()
        self.runs_dir = Path(config["runs_dir"])
        self.planner = Planner(self.runs_dir, cpus_elsewhere=cpus_elsewhere)
        self.sweep = Sweep(
            id=sweep.fresh_identity() if sequential else "",
            runs_dir=self.runs_dir,
            command=tuple(sys.argv[1:]),
            cwd=str(Path.cwd()),
            created=time.time(),
            git_commit=provenance.git_commit(Path.cwd()),
            tracking_uri=config["tracking"]["uri"],
            experiment=config["tracking"]["experiment"],
            tracking_every=config["tracking"]["every"],
            ui_uri=config["tracking"]["ui_uri"],
            single=single,
            trials=(),
            published=preset.read(config.get(PUBLISHED)),
            launcher=dict(launcher) if launcher else None,
            sequential=sequential,
        )
        self._trials: list[Trial] = []
        self._preflight = preflight
        self._remarks_made: set[str] = set()
        self._open = ExitStack()
        self._shipper: tracking.Shipper | None = None

    def launch(self, requests: Sequence[Request], run: Run) -> list[float]:
        """Plan and run the requested trials; returns the value of each for the sweeper.

        Raises ConfigError, before anything runs, if one of them cannot run.
        """
        _check_runs_dir(self.runs_dir)
        trials = self.plan(requests)
        self._trials += trials
        todo, reused, flaws = self._record(trials)
        for line in self.remarks(trials, self.sweep.trials):
            print(line, file=sys.stderr, flush=True)
        self._run(todo, run, reused, flaws)
        if not self.ships:
            # This process does not wait for the jobs.
            return [math.nan] * len(trials)
        return [sweeper_value(self.sweep.trial(trial.signature)) for trial in trials]

    def plan(self, requests: Sequence[Request]) -> list[Trial]:
        """The requested trials; raises ConfigError for one that could not take a step."""
        trials = self.planner.with_probes([self.planner.plan(request) for request in requests])
        self._preflight.check([trial for trial in trials if not self._is_done(trial)], self.runs_dir)
        return trials

    def remarks(self, trials: Sequence[Trial], entries: Sequence[Entry]) -> Iterator[str]:
        """Lines on overrides that make no difference, and on data whose changes cannot be noticed; each line once."""
        no_effect = without_effect(trials, self.planner.steps_per_epoch)
        for line in (*self.planner.remarks, *sweep.other_names(entries), *no_effect):
            if line not in self._remarks_made:
                self._remarks_made.add(line)
                yield line

    def resume(self, recorded: Sweep, run: Run) -> None:
        """Run the unfinished trials of a recorded sweep by their configs on disk; nothing is planned again."""
        _check_runs_dir(self.runs_dir)
        own = {key: getattr(self.sweep, key) for key in ("cwd", "git_commit", "tracking_uri", "experiment", "launcher")}
        self.sweep = replace(recorded, **own)
        self.sweep.save()
        trials = {entry.signature: recorded.trial(entry.signature) for entry in recorded.trials}
        unusable, remarks = _set_aside_unusable(trials.values())
        for trial in trials.values():
            trial.journal.mkdir(exist_ok=True)
        done = {key for key in trials.keys() - unusable if trials[key].is_done(trials[key].config())}
        todo = [entry for entry in recorded.trials if entry.signature not in done | unusable]
        self._uncancel(todo)
        self._run(todo, run, (), remarks)

    def conclude(self) -> int:
        """Write, publish and print the comparison and the next commands; returns 1 if a trial has no result."""
        comparison, console = report.compare(self.sweep), Console(highlight=False)
        say()
        report.show_summary(comparison, console)
        assert self._shipper
        undelivered = self._shipper.deliver(report.write(comparison), report.markdown(comparison), comparison.findings)
        self.close()
        others = [line] if (line := _other_code(self.sweep)) else []
        remarks, rest = self._last_lines(report.highlights(comparison, others), undelivered)
        say()
        report.show_remarks(remarks, console)
        for line in rest:
            # Never wrapped here, because they will be copied.
            say(line)
        return 0 if all(outcome.result for outcome in comparison.outcomes) else FAILURE

    def _last_lines(self, remarks: Sequence[str], undelivered: str | None) -> tuple[Sequence[str], list[str]]:
        """The first remarks, and the paths, links and commands after them: together at most LINES_AT_END lines."""
        which, page = _named(self.sweep, self.typed_in), self.sweep.report / report.PAGE
        entries = self.sweep.trials
        tests = [entry for entry in entries if entry.kind == RANGE_TEST] if len(entries) == 1 else []
        rest = [f"curve: {self.sweep.trial(entry.signature).path / 'range_test.png'}" for entry in tests]
        link = tracking.overlay_link(self.sweep)
        if undelivered:
            rest += [f"MLflow upload incomplete ({undelivered}); to retry:", f"{invocation()} sync {which}"]
        elif tracking.is_server(self.sweep.tracking_uri):
            rest += [f"MLflow: {link}"]
        else:
            rest += [f"MLflow, served by the next line: {link}", f"{invocation()} ui {which}"]
        room = LINES_AT_END - 1 - len(rest)
        if len(remarks) <= room:
            return remarks, [f"report: {page}", *rest]
        shown = max(1, room - 1)
        more = len(remarks) - shown
        told = f"report, with {more} more remark{'s' * (more > 1)}, which the next command prints: {page}"
        return remarks[:shown], [told, f"{invocation()} report {which}", *rest]

    def close(self) -> None:
        """Wait, for a bounded time, until MLflow has the rest."""
        self._open.close()

    def _run(self, todo: Sequence[Entry], run: Run, reused: Sequence[Entry], remarks: Sequence[str]) -> None:
        _, changed = outdated(self.sweep.trial(entry.signature) for entry in reused)
        with Display(self.sweep, todo, len(reused), changed.code) as display:
            for line in remarks:
                display.show(Event(news=line))
            if self.ships and not self._shipper:
                self._shipper = self._open.enter_context(tracking.Shipper(self.sweep.folder))
            with closing(run(self.sweep, todo)) as events:
                for event in events:
                    display.show(event)

    def _uncancel(self, todo: Sequence[Entry]) -> None:
        for entry in todo:
            self.sweep.trial(entry.signature).remove("cancel.json")

    def _is_done(self, trial: Trial) -> bool:
        """Whether a trial has a result that can be read, and need not be made again."""
        try:
            return not trial.config["rerun"] and self.sweep.trial(trial.signature).is_done(trial.config)
        except Unreadable:
            return False

    def _record(self, trials: Sequence[Trial]) -> tuple[list[Entry], list[Entry], list[str]]:
        """Create the trials' folders and write sweep.json.

        Returns the entries to be run, those whose results are reused, and lines on records that cannot be used.
        """
        entries = sweep.entries(self._trials)
        if not self.sweep.sequential:
            self.sweep = replace(self.sweep, id=sweep.identity(entry.signature for entry in entries))
        remarks = _flaws_of(self.sweep)
        wanted = {one.signature: one for trial in trials for one in trial.chain}
        known = {entry.signature: entry for entry in self.sweep.trials}
        for signature, trial in wanted.items():
            if trial.request.config["rerun"] and signature not in known:
                _set_aside(self.sweep.trial(signature))
        unusable, lines = _set_aside_unusable([self.sweep.trial(signature) for signature in wanted])
        usable = [trial for signature, trial in wanted.items() if signature not in unusable]
        with ThreadPoolExecutor(FOLDERS_AT_ONCE) as pool:
            list(pool.map(self._create_folder, usable))
        done = {trial.signature for trial in usable if self.sweep.trial(trial.signature).is_done(trial.config)}
        entries = tuple(
            replace(e, reused=known[e.signature].reused if e.signature in known else e.signature in done)
            for e in entries
        )
        self.sweep = replace(self.sweep, trials=entries, choices=sweep.choices(self._trials))
        self.sweep.save()
        todo = [e for e in entries if e.signature in wanted and e.signature not in done | unusable]
        self._uncancel(todo)
        return todo, [e for e in entries if e.reused and e.signature not in known], [*remarks, *lines]

    def _create_folder(self, trial: Trial) -> None:
        self.sweep.trial(trial.signature).create(trial.config, trial.request.hydra)


def say_how_to_continue(sweep: Sweep, typed_in: Path) -> None:
    """Say how to continue after an interruption: by the same command, which lets a sequential sweeper choose anew."""
    if sweep.sequential and sweep.trials:
        say(f"stopped; {_saved(sweep)}. To finish the trials that had begun, and to start the sweeper again:")
        say(f"{invocation()} resume {_named(sweep, typed_in)}")
    else:
        say(f"stopped; {_saved(sweep)}. To continue:")
    say(f"{invocation()} {shlex.join(sweep.command)}")


def say_how_to_resume(sweep: Sweep, typed_in: Path) -> None:
    """Say how to continue after `resume` was interrupted: the recorded command may give another sweep by now."""
    say(f"stopped; {_saved(sweep)}. To continue:")
    say(f"{invocation()} resume {_named(sweep, typed_in)}")


def _saved(sweep: Sweep) -> str:
    """What an interrupted sweep keeps: all but the steps of trainings that have saved nothing, as status says."""
    trained = [sweep.trial(entry.signature) for entry in sweep.trials if entry.kind == TRAIN]
    lost = sum(trial.will_start_again() for trial in trained)
    again = f", except for {lost} training{'s' * (lost > 1)} that will start again (see status)" if lost else ""
    return f"what had been done is saved{again}"


def say_how_to_watch(sweep: Sweep, typed_in: Path) -> None:
    """Say how to follow a sweep whose jobs run on without this process."""
    which = _named(sweep, typed_in)
    how = "without this command" if jobs.goes_on_alone(sweep) else "only while it is watched"
    say(f"sweep {sweep.id} continues {how}. To watch it, to end it, and for its table later:")
    for verb in ("status --watch", "cancel", "report"):
        say(f"{invocation()} {verb} {which}")


def _named(sweep: Sweep, typed_in: Path) -> str:
    """What to type after a verb, in this folder, to name the sweep: its id and the overrides that locate it."""
    given = dict(override.split("=", 1) for override in sweep.command if "=" in override)
    needed = []
    if sweep.runs_dir != typed_in / "runs":
        runs_dir = given.get("runs_dir", "")
        is_relative = runs_dir and typed_in / runs_dir == sweep.runs_dir
        needed.append(typed("runs_dir", runs_dir if is_relative else str(sweep.runs_dir)))
    uri, experiment = "tracking.uri", "tracking.experiment"
    if uri in given and paths.absolute_uri(given[uri], typed_in) == sweep.tracking_uri:
        needed.append(typed(uri, given[uri]))
    if given.get(experiment) == sweep.experiment:
        needed.append(typed(experiment, sweep.experiment))
    return " ".join([sweep.id, *needed])


def _other_code(sweep: Sweep) -> str | None:
    """A line about reused results that were made by other code or another torch."""
    count, change = outdated(sweep.trial(entry.signature) for entry in sweep.trials if entry.reused)
    if not count:
        return None
    line = f"{count} of {len(sweep.trials)} results were made by other code or versions: rerun=true repeats them"
    return f"{change}: {line}"


def _check_runs_dir(runs_dir: Path) -> None:
    """Make the folder.

    Raises ConfigError if that cannot be done, and on a file system without locks, on which every trial would fail.
    """
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        line = f"runs_dir: {error.filename} cannot be made ({error.strerror}): name another folder"
        raise ConfigError(line) from error
    try:
        files.check_locks(runs_dir)
    except files.NoLocks as error:
        raise ConfigError(str(error)) from error


def _flaws_of(which: Sweep) -> list[str]:
    """A line if the sweep's record is damaged; raises ConfigError for one that this version may not replace."""
    try:
        with suppress(FileNotFoundError):
            sweep.load(which.folder)
    except Damaged as error:
        return [f"{error}: it is written again"]
    except Unreadable as error:
        raise ConfigError(str(error)) from error
    return []


def _set_aside_unusable(trials: Collection[TrialFolder]) -> tuple[set[str], list[str]]:
    """Set aside the records from which trials cannot go on.

    Returns the signatures of trials that a later version recorded, which are left as they are, and lines for the user.
    """
    left, lines, earlier = set(), [], 0
    for trial in trials:
        reason = trial.unusable()
        if isinstance(reason, EarlierVersion):
            _set_aside(trial)
            earlier += 1
        elif isinstance(reason, Damaged):
            _set_aside(trial)
            lines.append(f"{reason}: the trial is trained again")
        elif reason:
            left.add(trial.signature)
            lines.append(str(reason))
        else:
            lines += trial.set_aside_damaged()
    if earlier:
        lines.append(
            f"{earlier} of {len(trials)} trials were recorded by an earlier version of the program and are trained "
            "again; their earlier records are kept in their folders under before-*"
        )
    return left, lines


def _set_aside(trial: TrialFolder) -> None:
    """Move the records of earlier attempts aside, so that the trial starts from scratch."""
    try:
        trial.set_aside()
    except Busy as error:
        raise ConfigError(f"rerun=true cannot restart a running trial: {error}") from error
