"""Notes that a store has all that there is of a sweep, and tells whether that is still so."""

import hashlib

from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.tracking.due import standings_of
from onecycle_sweeps.tracking.opening import is_gone, lock_of, opened
from onecycle_sweeps.tracking.runs import Runs
from onecycle_sweeps.tracking.store import locked, never, stamp


def is_current(sweep: Sweep) -> bool:
    """Whether the store has all that there is of a sweep, and the report that belongs to it.

    It is asked, unless it is an sqlite file that nobody has changed since that was so. Raises StoreUnreachable.
    """
    book = ledger.load(sweep)
    if not book.named or book.complete is None or book.complete != _appearance(sweep):
        return False
    if book.stamp is not None and book.stamp == stamp(sweep.tracking_uri):
        return True
    with opened(sweep, never) as runs:
        if runs.ledger.complete:
            seal(runs)
    return ledger.load(sweep).complete == book.complete


def seal(runs: Runs) -> None:
    """Note how the store and the sweep look with all of it there, so that a look tells whether that is still so."""
    with locked(lock_of(runs.sweep), runs.expired):
        book = ledger.load(runs.sweep)
        # What its users change from here on makes the store look otherwise.
        book.stamp = stamp(runs.sweep.tracking_uri)
        book.complete = None if is_gone(runs.client, book) else _appearance(runs.sweep)
        book.save()


def _appearance(sweep: Sweep) -> str:
    """A hash that differs whenever a trial or a file of the report does."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(sweep.report.glob("*"))]
    return hashlib.sha256(repr((list(standings_of(sweep)), files)).encode()).hexdigest()
