"""How the trials of a sweep stand, as a table."""

from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import RUNNING


def show_status(sweep: Sweep, console: Console) -> None:
    """Print a row for each trial: its status, how far it is, its figures or the cause of its failure."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("trial", "signature", "status", ""):
        table.add_column(heading, overflow="fold")
    counts: Counter[str] = Counter()
    for entry in sweep.trials:
        status, detail = _standing(sweep, entry)
        counts[status] += 1
        name = entry.name(sweep.trial(entry.signature).max_lr())
        table.add_row(*map(Text, (name, entry.signature, status, detail)))
    console.print(table)
    console.print(Text(f"sweep {sweep.id}: {', '.join(f'{count} {status}' for status, count in counts.items())}"))


def _standing(sweep: Sweep, entry: Entry) -> tuple[str, str]:
    trial = sweep.trial(entry.signature)
    now = trial.state()
    if now.status == RUNNING:
        seen = trial.progress()
        return now.status, f"step {seen.step + 1}/{seen.total_steps}, loss {seen.loss:.4g}" if seen else "starting"
    metrics = now.result.get("metrics", {})
    if "final/val_accuracy" in metrics:
        return now.status, f"val accuracy {metrics['final/val_accuracy']:.2%}"
    if "suggestion/max_lr" in metrics:
        return now.status, f"max_lr {metrics['suggestion/max_lr']:.3g}"
    return now.status, now.cause or ""
