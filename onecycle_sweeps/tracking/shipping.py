"""Brings a store up to date with a sweep's journals: what has arrived is never sent again."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onecycle_sweeps.state import ENDED, RUNNING
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.tracking import ledger, parent
from onecycle_sweeps.tracking.account import MLFLOW_STATUS, Standing, account, standing
from onecycle_sweeps.tracking.ledger import Ledger
from onecycle_sweeps.tracking.runs import OutOfTime, Runs
from onecycle_sweeps.tracking.store import StoreUnreachable, address, is_server, locked, never, reached, stamp
from onecycle_sweeps.tracking.values import TAG_LENGTH, shortened

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What MLflow answers where it is one run that it does not take; anything else concerns the store.
REFUSALS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST")
# A request to a server is mostly waiting, for its login above all.
AT_ONCE = 4


@dataclass(frozen=True)
class Backlog:
    """What a store lacks: how many runs are not up to date, the points that they lack, and what it refused to take."""

    runs: int
    points: int
    refused: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.runs > 0


def ship(sweep: Sweep, *, only: Collection[str] | None = None, expired: Callable[[], bool] = never) -> Backlog:
    """Bring the sweep's store up to date and return what it still lacks; `only` names the trials to look at.

    Those who ship different trials to a server do so side by side. It leaves between two batches once `expired()` is
    true. Raises StoreUnreachable with one line.
    """
    with _opened(sweep, expired, whole=only is None) as runs:
        return _ship(runs, only)


def deliver(sweep: Sweep, files: Sequence[Path], description: str) -> str | None:
    """Bring the sweep's store up to date, its report with it; returns in one line why that failed, if it did."""
    try:
        with _opened(sweep, never) as runs:
            left = _ship(runs, None)
            _publish(runs, files, description)
            if not left:
                _seal(runs)
    except StoreUnreachable as error:
        return str(error)
    if left.refused:
        return f"the store refused {len(left.refused)} runs, such as {left.refused[0]}"
    return f"{left.runs} runs with {left.points} points are left" if left else None


def is_due(sweep: Sweep, only: Collection[str] | None = None) -> bool:
    """Whether there is something to ship by the account of the ledger: the store itself is not asked."""
    book, known = ledger.load(sweep.folder, address(sweep.tracking_uri)), list(_standings(sweep, only))
    if book.experiment is None or any(_is_due(book, entry, now) for entry, now in known):
        return True
    if book.parent is None or _are_at_work(book, known):
        return False
    return book.parent_status != parent.status([now for _, now in _standings(sweep)])


def is_current(sweep: Sweep) -> bool:
    """Whether the store has all that there is of a sweep, and the report that belongs to it.

    It is asked, unless it is an sqlite file that nobody has changed since that was so. Raises StoreUnreachable.
    """
    book = ledger.load(sweep.folder, address(sweep.tracking_uri))
    if book.complete is None or book.complete != _appearance(sweep):
        return False
    if book.stamp is not None and book.stamp == stamp(sweep.tracking_uri):
        return True
    with _opened(sweep, never) as runs:
        if runs.ledger.complete:
            _seal(runs)
    return ledger.load(sweep.folder, book.address).complete == book.complete


def backlog(sweep: Sweep, refused: Sequence[str] = ()) -> Backlog:
    """What the sweep's store lacks by the account of the ledger: the store itself is not asked."""
    book = ledger.load(sweep.folder, address(sweep.tracking_uri))
    missing = [(entry, now) for entry, now in _standings(sweep) if _is_due(book, entry, now)]
    runs = points = 0
    for entry, now in missing:
        told = account(sweep, entry, now)
        shipped = book.run(entry.signature)
        runs += told.is_worth_a_run
        points += sum(map(len, told.batches(shipped.next if shipped else 0)))
    return Backlog(runs, points, tuple(refused))


def _ship(runs: Runs, only: Collection[str] | None) -> Backlog:
    refused: list[str] = []
    known = list(_standings(runs.sweep, only))
    try:
        for reasons in _brought(runs, known):
            refused += reasons
        if not _are_at_work(runs.ledger, known):
            _end_parent(runs)
        if not refused:
            return Backlog(0, 0)
    except OutOfTime:
        pass
    return backlog(runs.sweep, refused)


def _brought(runs: Runs, known: Sequence[tuple[Entry, Standing]]) -> Iterator[list[str]]:
    """Bring the trials' runs up to date, some at once where a server takes them; for each why the store refused it."""
    due = [(entry, now) for entry, now in known if _is_due(runs.ledger, entry, now)]
    if not is_server(runs.sweep.tracking_uri) or len(due) < 2:
        yield from (_bring(runs, entry) for entry, _ in due)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda one: _bring(runs, one[0]), due)


def _are_at_work(book: Ledger, known: Sequence[tuple[Entry, Standing]]) -> bool:
    """Whether the parent run says that trials are at work, and one of these is, so that the others are not asked."""
    return book.parent_status == MLFLOW_STATUS[RUNNING] and any(now.status == RUNNING for _, now in known)


def _end_parent(runs: Runs) -> None:
    """Give the parent run the status that the trials have together."""
    with locked(_lock(runs.sweep), runs.expired):
        book = ledger.load(runs.sweep.folder, runs.ledger.address)
        standings = [now for _, now in _standings(runs.sweep)]
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


@contextmanager
def _opened(sweep: Sweep, expired: Callable[[], bool], whole: bool = True) -> Iterator[Runs]:
    """The sweep's runs in its store: for one process at a time where that is a file.

    Who comes for some trials alone takes what is made once for the sweep as the ledger has it, without a word with the
    store, and waits for nobody.
    """
    with reached(sweep.tracking_uri, expired) as client:
        book = ledger.load(sweep.folder, address(sweep.tracking_uri))
        runs = Runs(client, sweep, book, expired)
        if whole or not runs.are_open:
            with locked(_lock(sweep), expired):
                runs = _open(client, sweep, expired)
        yield runs


def _open(client: "MlflowClient", sweep: Sweep, expired: Callable[[], bool]) -> Runs:
    """Make what is made once for the sweep where it is not there; for who holds the sweep's lock."""
    book = ledger.load(sweep.folder, address(sweep.tracking_uri))
    if _is_gone(client, book):
        book = Ledger(book.folder, book.address)
    runs = Runs(client, sweep, book, expired)
    runs.open()
    return runs


def _lock(sweep: Sweep) -> Path:
    return sweep.folder / "tracking.lock"


def _seal(runs: Runs) -> None:
    """Note how the store and the sweep look with all of it there, so that a look tells whether that is still so."""
    with locked(_lock(runs.sweep), runs.expired):
        book = ledger.load(runs.sweep.folder, runs.ledger.address)
        # What its users change from here on makes the store look otherwise.
        book.stamp = stamp(runs.sweep.tracking_uri)
        book.complete = None if _is_gone(runs.client, book) else _appearance(runs.sweep)
        book.save()


def _appearance(sweep: Sweep) -> str:
    """A hash that differs whenever a trial or a file of the report does."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(sweep.report.glob("*"))]
    return hashlib.sha256(repr((list(_standings(sweep)), files)).encode()).hexdigest()


def _is_gone(client: "MlflowClient", book: Ledger) -> bool:
    """Whether the store has lost, or its users have deleted, what the ledger says it has."""
    from mlflow.exceptions import MlflowException

    known = [book.parent] if book.parent else [run.run_id for run in book.runs.values()]
    try:
        return any(client.get_run(run_id).info.lifecycle_stage != "active" for run_id in known[:1])
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return True
        raise


def _standings(sweep: Sweep, only: Collection[str] | None = None) -> Iterator[tuple[Entry, Standing]]:
    for entry in sweep.trials:
        if only is None or entry.signature in only:
            yield entry, standing(sweep.trial(entry.signature))


def _is_due(book: Ledger, entry: Entry, now: Standing) -> bool:
    return (now.attempts > 0 or now.status in ENDED) and not book.has(entry.signature, list(now))


def _bring(runs: Runs, entry: Entry) -> list[str]:
    """Bring one trial's run up to date; returns why the store refused to take it."""
    from mlflow.exceptions import MlflowException

    with runs.ledger.page(entry.signature, runs.expired) as page:
        # Whoever had the page before may have brought all that there was a moment ago, and more.
        now = standing(runs.sweep.trial(entry.signature))
        told = account(runs.sweep, entry, now)
        if not _is_due(runs.ledger, entry, now) or not told.is_worth_a_run:
            return []
        try:
            runs.bring(told, page)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            return [f"{told.name}: {' '.join(str(error).split())}"]
    return []
