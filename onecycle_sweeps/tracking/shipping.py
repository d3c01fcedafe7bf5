"""Brings a store up to date with a sweep's journals: what has arrived is never sent again."""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.tracking import ledger, parent
from onecycle_sweeps.tracking.account import Standing, account, standing
from onecycle_sweeps.tracking.due import Backlog, are_at_work, backlog, lacks, standings_of
from onecycle_sweeps.tracking.opening import lock_of, opened
from onecycle_sweeps.tracking.runs import OutOfTime, Runs
from onecycle_sweeps.tracking.sealing import seal
from onecycle_sweeps.tracking.store import StoreUnreachable, is_server, locked, never
from onecycle_sweeps.tracking.values import TAG_LENGTH, shortened

# What MLflow answers where it is one run that it does not take; anything else concerns the store.
REFUSALS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST")
# A request to a server is mostly waiting, for its login above all.
AT_ONCE = 4


def ship(sweep: Sweep, *, only: Collection[str] | None = None, expired: Callable[[], bool] = never) -> Backlog:
    """Bring the sweep's store up to date and return what it still lacks; `only` names the trials to look at.

    Those who ship different trials to a server do so side by side. It leaves between two batches once `expired()` is
    true. Raises StoreUnreachable with one line.
    """
    with opened(sweep, expired, whole=only is None) as runs:
        return _ship(runs, only)


def deliver(sweep: Sweep, files: Sequence[Path], description: str) -> str | None:
    """Bring the sweep's store up to date, its report with it; returns in one line why that failed, if it did."""
    try:
        with opened(sweep, never) as runs:
            left = _ship(runs, None)
            _publish(runs, files, description)
            if not left:
                seal(runs)
    except (StoreUnreachable, Unreadable) as error:
        return str(error)
    if left.refused:
        return f"the store refused {len(left.refused)} runs, such as {left.refused[0]}"
    return f"{left.runs} runs with {left.points} points are left" if left else None


def _ship(runs: Runs, only: Collection[str] | None) -> Backlog:
    refused: list[str] = []
    known = list(standings_of(runs.sweep, only))
    try:
        for reasons in _brought(runs, known):
            refused += reasons
        if not are_at_work(runs.ledger, known):
            _end_parent(runs)
        if not refused:
            return Backlog(0, 0)
    except OutOfTime:
        pass
    return backlog(runs.sweep, refused)


def _brought(runs: Runs, known: Sequence[tuple[Entry, Standing]]) -> Iterator[list[str]]:
    """Bring the trials' runs up to date, some at once where a server takes them; for each why the store refused it."""
    due = [(entry, now) for entry, now in known if lacks(runs.ledger, entry, now)]
    if not is_server(runs.sweep.tracking_uri) or len(due) < 2:
        yield from (_bring(runs, entry) for entry, _ in due)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda one: _bring(runs, one[0]), due)


def _bring(runs: Runs, entry: Entry) -> list[str]:
    """Bring one trial's run up to date; returns why the store refused to take it."""
    from mlflow.exceptions import MlflowException

    with runs.ledger.page(entry.signature, runs.expired) as page:
        # Whoever had the page before may have brought all that there was a moment ago, and more.
        now = standing(runs.sweep.trial(entry.signature))
        told = account(runs.sweep, entry, now)
        if not lacks(runs.ledger, entry, now) or not told.is_worth_a_run:
            return []
        try:
            runs.bring(told, page)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            return [f"{told.name}: {' '.join(str(error).split())}"]
    return []


def _end_parent(runs: Runs) -> None:
    """Give the parent run the status that the trials have together."""
    with locked(lock_of(runs.sweep), runs.expired):
        book = ledger.load(runs.sweep)
        standings = [now for _, now in standings_of(runs.sweep)]
        replace(runs, ledger=book).end_parent(parent.status(standings), parent.ended(standings))


def _publish(runs: Runs, files: Sequence[Path], description: str) -> None:
    """Put a report's files and its Markdown description on the sweep's page; without a parent, on its trial's.

    The description ends with the SVG figures: MLflow shows a PNG in half as large again, and takes no width.
    """
    pages = [runs.ledger.parent] if runs.ledger.parent else [run.run_id for run in runs.ledger.runs.values()]
    for page in pages:
        for file in files:
            runs.client.log_artifact(page, str(file), "report")
        figures = "".join(_figure(page, file) for file in files if file.suffix == ".svg")
        text = shortened(description, TAG_LENGTH - len(figures)) + figures
        runs.client.set_tag(page, "mlflow.note.content", text)


def _figure(page: str, file: Path) -> str:
    """An image in Markdown, by the address under which MLflow's own pages fetch artifacts."""
    return f"\n![{file.stem}](get-artifact?path=report/{file.name}&run_uuid={page})\n"
