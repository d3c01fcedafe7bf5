"""A sweep's progress while it runs: a live table and a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from onecycle_sweeps import journal
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.launching.forecast import Forecast, Outlook, duration
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.progress import Follower, Progress
from onecycle_sweeps.report import coloured
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.terminal import wants_tracebacks
from onecycle_sweeps.trial_folder import ENDED, FAILED, RUNNING, TrialFolder

REFRESH_SECONDS = 0.5
PLAIN_SECONDS = 30.0
# How often running trials without a line on the terminal are read: the time that is left depends on them too.
HIDDEN_SECONDS = 10.0
BAR_WIDTH = 30
# How many lines of the terminal the running trials leave free.
OTHER_LINES = 6
# A terminal of at least this width has a column with the learning rate.
WIDE = 100


class Display:
    """Shows which of the `todo` trials run and how far they are; each trial that ends leaves one line."""

    def __init__(self, sweep: Sweep, todo: Sequence[Entry], reused: int = 0, changed: Sequence[str] = ()) -> None:
        self.sweep, self.todo, self.reused, self.changed = sweep, len(todo), reused, changed
        self.running: dict[str, Entry] = {}
        self.ended: Counter[str] = Counter()
        self._forecast = Forecast(sweep, todo)
        # Attempts whose notes were printed, or that began before this command, and trials whose notes are due.
        self._attempts = {entry.signature: sweep.trial(entry.signature).attempts() for entry in sweep.trials}
        self._notes_due: dict[str, Entry] = {}
        # The causes of failures that were printed, each with the name of its first trial.
        self._causes: dict[str, str] = {}
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        on_terminal = self._console.is_interactive
        self._live = Live(console=self._console, transient=True, auto_refresh=False) if on_terminal else None
        # The progress of the running trials and the outlook as they were last read.
        self._followers: dict[str, Follower] = {}
        self._seen: dict[str, Progress | None] = {}
        self._all_seen = -HIDDEN_SECONDS
        self._outlook = Outlook(0.0, None)
        self._shown, self._percent = time.monotonic(), 0

    def __enter__(self) -> Self:
        if self.reused:
            found = f"{self.reused} of {len(self.sweep.trials)} results"
            since = f", though code has changed since ({', '.join(self.changed)})" if self.changed else ""
            self._print(f"{found} were there already and are reused{since}: rerun=true trains them again")
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
        if event.places:
            self._forecast.places = event.places
        if entry and status == RUNNING:
            self.running[entry.signature] = entry
            self._forecast.begin(entry)
        elif entry and status:
            self.running.pop(entry.signature, None)
            self._seen.pop(entry.signature, None)
            self._followers.pop(entry.signature, None)
        if entry and (status == RUNNING or status in ENDED):
            # A short job may have ended before it was seen running.
            self._notes_due[entry.signature] = entry
        self._print_notes()
        if entry and status in ENDED:
            self._notes_due.pop(entry.signature, None)
            self.ended[status] += 1
            self._forecast.end(entry)
            trial = self.sweep.trial(entry.signature)
            self._render(refresh=False)
            line = describe(trial, entry, status, self._cause(entry, status, event.cause))
            self._print(coloured(f"[{self.ended.total()}/{self.todo}] {line}", status))
            if status == FAILED and wants_tracebacks():
                self._print(trial.last_failure().get("traceback", ""))
        if time.monotonic() - self._shown >= (REFRESH_SECONDS if self._live else PLAIN_SECONDS):
            self._shown = time.monotonic()
            self._show_progress()

    def _cause(self, entry: Entry, status: str, cause: str | None) -> str | None:
        """Why a trial ended; for a cause that was printed before, the name of the trial that it was printed for."""
        if status != FAILED or not cause:
            return cause
        # The cause of a trial whose range test failed ends with that of the range test.
        if known := next((name for text, name in self._causes.items() if cause.endswith(text)), None):
            return f"for the same reason as {known}"
        self._causes[cause] = self._name(entry)
        log = self.sweep.trial(entry.signature).log
        return f"{cause}; log: {log}" if log.exists() else cause

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
        looked_at = list(self.running)
        if self._live and time.monotonic() - self._all_seen < HIDDEN_SECONDS:
            looked_at = looked_at[: self._room(len(looked_at))]
        else:
            self._all_seen = time.monotonic()
        for key in looked_at:
            self._seen[key] = self._progress(key)
            self._forecast.see(self.running[key], self._seen[key])
        self._outlook = self._forecast.outlook()
        if self._live:
            self._render(refresh=True)
        elif (percent := self._outlook.percent) > self._percent:
            self._percent = percent
            (alone,) = self._seen.items() if len(self._seen) == 1 else [("", None)]
            own = f"; {self._name(self.running[alone[0]])}: {alone[1].in_words()}" if alone[1] else ""
            self._print(f"{self._outlook.in_words()}; {self._counts().plain}{own}")

    def _progress(self, signature: str) -> Progress | None:
        """How far a trial is, by what its journal has gained since the last look at it; None if it is unreadable."""
        follower = self._followers.setdefault(signature, self.sweep.trial(signature).follower())
        try:
            return follower.progress()
        except (Unreadable, FileNotFoundError):
            return None

    def _room(self, running: int) -> int:
        """How many of `running` trials the terminal has lines for."""
        room = max(1, self._console.height - OTHER_LINES)
        return running if running <= room else room - 1

    def _render(self, *, refresh: bool) -> None:
        """Bring the live part up to date; it is shown at once with `refresh`, else together with the next line."""
        if self._live:
            bar = Table.grid(padding=(0, 2))
            bar.add_row(ProgressBar(1.0, self._outlook.share, BAR_WIDTH), Text(self._outlook.in_words(), "bold"))
            self._live.update(Group(*self._running_trials(), bar, self._counts()), refresh=refresh)

    def _running_trials(self) -> Iterator[RenderableType]:
        """The table of the running trials, as many as the terminal has lines for, their names as wide as it allows."""
        # A trial is shown from the first look at it on.
        seen = [(key, self._seen[key]) for key in self.running if key in self._seen]
        if not seen:
            return
        shown = seen[: self._room(len(seen))]
        is_wide = self._console.width >= WIDE
        evaluated = next((f"val {one.headline.name}" for _, one in shown if one and one.val_text), None)
        headers = ["step", "loss", *(["lr"] if is_wide else []), *([evaluated] if evaluated else []), "left"]
        rows: list[list[str]] = []
        for _, one in shown:
            if one is None:
                rows.append(["starting", *[""] * (len(headers) - 1)])
                continue
            left = "" if one.seconds_left is None else duration(one.seconds_left)
            values = [f"{one.step + 1}/{one.total_steps}", f"{one.loss:.4g}", *([f"{one.lr:.3g}"] if is_wide else [])]
            rows.append([*values, *([one.val_text] if evaluated else []), left])
        widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
        names = [self._name(self.running[key]) for key, _ in shown]
        rest = self._console.width - sum(widths) - 2 * len(widths)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("running", no_wrap=True, width=max(8, min(rest, max(map(len, names)))))
        for header, width in zip(headers, widths, strict=True):
            table.add_column(header, no_wrap=True, justify="right", min_width=width)
        for name, row in zip(names, rows, strict=True):
            table.add_row(Text(name), *map(Text, row))
        yield table
        if len(shown) < len(seen):
            yield Text(f"and {len(seen) - len(shown)} more", "dim")

    def _counts(self) -> Text:
        """How many trials are done and how they stand: `5 of 12 trials done: 4 finished, 1 diverged; 2 running`."""
        done, running = self.ended.total(), len(self.running)
        line = Text(f"{done} of {self.todo} trials done")
        for i, (status, count) in enumerate(self.ended.items()):
            line += Text(", " if i else ": ") + coloured(f"{count} {status}", status)
        return line + Text(f"; {running} running, {self.todo - done - running} waiting")

    def _print(self, line: str | Text) -> None:
        # A text is not read as rich's markup, for which brackets have a meaning.
        self._console.print(Text(line) if isinstance(line, str) else line)

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
