"""A sweep's progress while it runs: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from onecycle_sweeps import journal
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.terminal import wants_tracebacks
from onecycle_sweeps.trial_folder import ENDED, FAILED, RUNNING, TrialFolder

REFRESH_SECONDS = 0.5
PLAIN_SECONDS = 30.0


class Display:
    """Shows which trials run and how far they are; each trial that ends leaves one line."""

    def __init__(self, sweep: Sweep, todo: int, reused: int = 0, changed: Sequence[str] = ()) -> None:
        self.sweep, self.todo, self.reused, self.changed = sweep, todo, reused, changed
        self.running: dict[str, Entry] = {}
        self.ended: Counter[str] = Counter()
        # Attempts whose notes were printed, or that began before this command, and trials whose notes are due.
        self._attempts = {entry.signature: sweep.trial(entry.signature).attempts() for entry in sweep.trials}
        self._notes_due: dict[str, Entry] = {}
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        on_terminal = self._console.is_terminal
        self._live = Live(console=self._console, transient=True, auto_refresh=False) if on_terminal else None
        self._shown = time.monotonic()

    def __enter__(self) -> Self:
        if self.reused:
            found = f"{self.reused} of {len(self.sweep.trials)} results"
            since = f", though code has changed since ({', '.join(self.changed)})" if self.changed else ""
            self._print(f"{found} were there already and are reused{since}: rerun=true makes them again")
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Print what an event says, and bring the progress up to date."""
        entry, status = event.entry, event.status
        if event.news:
            self._print(event.news)
        if entry and status == RUNNING:
            self.running[entry.signature] = entry
        elif entry and status:
            self.running.pop(entry.signature, None)
        if entry and (status == RUNNING or status in ENDED):
            # A short job may have ended before it was seen running.
            self._notes_due[entry.signature] = entry
        self._print_notes()
        if entry and status in ENDED:
            self._notes_due.pop(entry.signature, None)
            self.ended[status] += 1
            trial = self.sweep.trial(entry.signature)
            self._print(f"[{self.ended.total()}/{self.todo}] {describe(trial, entry, status, event.cause)}")
            if status == FAILED and wants_tracebacks():
                self._print(trial.last_failure().get("traceback", ""))
        if time.monotonic() - self._shown >= (REFRESH_SECONDS if self._live else PLAIN_SECONDS):
            self._shown = time.monotonic()
            self._show_progress()

    def _print_notes(self) -> None:
        """Print the notes of attempts that have begun, such as why a trial starts again from step 0."""
        for signature, entry in list(self._notes_due.items()):
            try:
                head = journal.latest_attempt(self.sweep.trial(signature).journal)
            except Unreadable:
                continue
            if head and head.number > self._attempts.get(signature, 0):
                self._attempts[signature] = head.number
                del self._notes_due[signature]
                for note in head.notes:
                    self._print(f"{self._name(entry)}: {note}")

    def _show_progress(self) -> None:
        table = Table(box=None, pad_edge=False)
        table.add_column("running", no_wrap=True)
        table.add_column("progress", no_wrap=True)
        for entry in self.running.values():
            line = _progress_line(self.sweep.trial(entry.signature))
            table.add_row(self._name(entry), line or "starting")
            if line and not self._live:
                self._print(f"{self._name(entry)}: {line}")
        if self._live:
            running, ended = len(self.running), self.ended.total()
            counts = "".join(f", {count} {status}" for status, count in self.ended.items())
            waiting = self.todo - ended - running
            line = f"{ended} of {self.todo} trials done{counts}; {running} running, {waiting} waiting"
            self._live.update(Group(table, Text(line)), refresh=True)

    def _print(self, line: str) -> None:
        # Not as rich's markup, for which brackets have a meaning.
        self._console.print(Text(line))

    def _name(self, entry: Entry) -> str:
        return entry.name(self.sweep.trial(entry.signature).max_lr())


def describe(trial: TrialFolder, entry: Entry, status: str, cause: str | None) -> str:
    """One line for a trial that has ended."""
    name, metrics = entry.name(trial.max_lr()), trial.state().result.get("metrics", {})
    facts = [cause] if cause else []
    headline = trial.headline()
    if headline.final_val in metrics:
        facts.append(f"val {headline.name} {headline.text(metrics[headline.final_val])}")
    if "suggestion/max_lr" in metrics:
        facts.append(f"max_lr {metrics['suggestion/max_lr']:.3g}")
    if "seconds" in metrics:
        facts.append(f"{metrics['seconds']:.1f} s")
    return f"{name}: {status}" + (f", {', '.join(facts)}" if facts else "")


def _progress_line(trial: TrialFolder) -> str | None:
    if not (seen := trial.progress()):
        return None
    left = f", {seen.seconds_left:.0f} s left" if seen.seconds_left is not None else ""
    return f"step {seen.step + 1}/{seen.total_steps}, loss {seen.loss:.4g}, lr {seen.lr:.3g}{left}"
