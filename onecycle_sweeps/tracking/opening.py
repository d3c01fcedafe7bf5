"""Opens a sweep in its store: what is made once for it is there, and nobody else makes it at the same time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.tracking.ledger import Ledger
from onecycle_sweeps.tracking.runs import Runs
from onecycle_sweeps.tracking.store import address, locked, reached

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextmanager
def opened(sweep: Sweep, expired: Callable[[], bool], whole: bool = True) -> Iterator[Runs]:
    """The sweep's runs in its store: for one process at a time where that is a file.

    Who comes for some trials alone takes what is made once for the sweep as the ledger has it, without a word with the
    store, and waits for nobody.
    """
    with reached(sweep.tracking_uri, expired) as client:
        book = ledger.load(sweep.folder, address(sweep.tracking_uri))
        runs = Runs(client, sweep, book, expired)
        if whole or not runs.are_open:
            with locked(lock_of(sweep), expired):
                runs = _open(client, sweep, expired)
        yield runs


def _open(client: "MlflowClient", sweep: Sweep, expired: Callable[[], bool]) -> Runs:
    """Make what is made once for the sweep where it is not there; for who holds the sweep's lock."""
    book = ledger.load(sweep.folder, address(sweep.tracking_uri))
    if is_gone(client, book):
        book = Ledger(book.folder, book.address)
    runs = Runs(client, sweep, book, expired)
    runs.open()
    return runs


def is_gone(client: "MlflowClient", book: Ledger) -> bool:
    """Whether the store has lost, or its users have deleted, what the ledger says it has."""
    from mlflow.exceptions import MlflowException

    known = [book.parent] if book.parent else [run.run_id for run in book.runs.values()]
    try:
        return any(client.get_run(run_id).info.lifecycle_stage != "active" for run_id in known[:1])
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return True
        raise


def lock_of(sweep: Sweep) -> Path:
    """The lock of what is one for the whole sweep."""
    return sweep.folder / "tracking.lock"
