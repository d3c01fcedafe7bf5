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
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep
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
        self._attempts = {entry.signature: sweep.trial(entry.signature).attempts() for entry in sweep.trials}
        self._unheard: dict[str, Entry] = {}
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        terminal = self.console.is_terminal
        self._live = Live(console=self.console, transient=True, auto_refresh=False) if terminal else None
        self._shown = time.monotonic()

    def __enter__(self) -> Self:
        if self.reused:
            found = f"{self.reused} of {len(self.sweep.trials)} results"
            since = f", though code has changed since ({', '.join(self.changed)})" if self.changed else ""
            self.console.print(Text(f"{found} were there already and are reused{since}: rerun=true makes them again"))
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Take in that a trial waits, runs or has ended, or that time has passed."""
        entry, status = event.entry, event.status
        if event.news:
            self.console.print(Text(event.news))
        if entry and status == RUNNING:
            self.running[entry.signature] = entry
        elif entry and status:
            self.running.pop(entry.signature, None)
        if entry and (status == RUNNING or status in ENDED):
            # A short job may end before it was seen to run.
            self._unheard[entry.signature] = entry
        self._tell_notes()
        if entry and status in ENDED:
            self._unheard.pop(entry.signature, None)
            self.ended[status] += 1
            trial, done = self.sweep.trial(entry.signature), f"[{self.ended.total()}/{self.todo}]"
            self.console.print(Text(f"{done} {describe(trial, entry, status, event.cause)}"))
            if status == FAILED and wants_tracebacks():
                self.console.print(Text(trial.last_failure().get("traceback", "")))
        interval = REFRESH_SECONDS if self._live else PLAIN_SECONDS
        if time.monotonic() - self._shown >= interval:
            self._shown = time.monotonic()
            self._refresh()

    def _tell_notes(self) -> None:
        """Print what there is to know of how trials began, once their attempts have."""
        for signature, entry in list(self._unheard.items()):
            try:
                head = journal.latest_attempt(self.sweep.trial(signature).journal)
            except Unreadable:
                continue
            if head and head.number > self._attempts.get(signature, 0):
                self._attempts[signature] = head.number
                del self._unheard[signature]
                for note in head.notes:
                    self.console.print(Text(f"{_name(self.sweep, entry)}: {note}"))

    def _refresh(self) -> None:
        if self._live:
            self._live.update(Group(self._table(), Text(self._counts())), refresh=True)
            return
        for entry in self.running.values():
            if line := _progress_line(self.sweep.trial(entry.signature)):
                self.console.print(Text(f"{_name(self.sweep, entry)}: {line}"))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("running", "progress"):
            table.add_column(heading, no_wrap=True)
        for entry in self.running.values():
            table.add_row(_name(self.sweep, entry), _progress_line(self.sweep.trial(entry.signature)) or "starting")
        return table

    def _counts(self) -> str:
        counts = "".join(f", {count} {status}" for status, count in self.ended.items())
        running, ended = len(self.running), self.ended.total()
        return f"{ended} of {self.todo} trials done{counts}; {running} running, {self.todo - ended - running} waiting"


def describe(trial: TrialFolder, entry: Entry, status: str, cause: str | None) -> str:
    """One line for a trial that has ended."""
    name, metrics = entry.name(trial.max_lr()), trial.state().result.get("metrics", {})
    facts = [cause] if cause else []
    headline = trial.headline()
    if headline.final_val in metrics:
        facts.append(f"val {headline.name} {headline.text(metrics[headline.final_val])}")
    if entry.kind == RANGE_TEST and "suggestion/max_lr" in metrics:
        facts.append(f"max_lr {metrics['suggestion/max_lr']:.3g}")
    if "seconds" in metrics:
        facts.append(f"{metrics['seconds']:.1f} s")
    return f"{name}: {status}" + (f", {', '.join(facts)}" if facts else "")


def _name(sweep: Sweep, entry: Entry) -> str:
    return entry.name(sweep.trial(entry.signature).max_lr())


def _progress_line(trial: TrialFolder) -> str | None:
    if not (seen := trial.progress()):
        return None
    left = f", {seen.seconds_left:.0f} s left" if seen.seconds_left is not None else ""
    return f"step {seen.step + 1}/{seen.total_steps}, loss {seen.loss:.4g}, lr {seen.lr:.3g}{left}"
