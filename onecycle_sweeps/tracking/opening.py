"""Opens a sweep in its store: what is made once for it is there, and nobody else makes it at the same time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger, view
from onecycle_sweeps.tracking.ledger import Ledger
from onecycle_sweeps.tracking.runs import Runs
from onecycle_sweeps.tracking.store import StoreUnreachable, address, database_file, locked, reached

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


@contextmanager
def opened(sweep: Sweep, expired: Callable[[], bool], whole: bool = True) -> Iterator[Runs]:
    """The sweep's runs in its store: for one process at a time where that is a file.

    Who comes for some trials alone takes what is made once for the sweep as the ledger has it, without a word with the
    store, and waits for nobody.
    """
    with reached(sweep.tracking_uri, expired) as client:
        book = ledger.load(sweep)
        runs = Runs(client, sweep, book, expired)
        if whole or not runs.are_open:
            with locked(lock_of(sweep), expired):
                runs = _open(client, sweep, expired)
        yield runs


def _open(client: "MlflowClient", sweep: Sweep, expired: Callable[[], bool]) -> Runs:
    """Make what is made once for the sweep where it is not there; for who holds the sweep's lock."""
    book = _known(client, sweep)
    if is_gone(client, book):
        book = Ledger(book.folder, book.address, book.name)
    if database_file(sweep.tracking_uri):
        _check_files(client, sweep)
    runs = Runs(client, sweep, book, expired)
    runs.open()
    return runs


def check_store(sweep: Sweep) -> None:
    """Raise StoreUnreachable where the database that a sweep has filled is gone: it was moved, or the sweep was."""
    file = database_file(sweep.tracking_uri)
    if file is None or file.exists() or (ledger.load(sweep).experiment is None and file.parent.exists()):
        return
    beside = [folder / file.name for folder in (sweep.runs_dir.parent, sweep.runs_dir, Path.cwd())]
    near = next((f"sqlite:///{found}" for found in beside if found.is_file()), "sqlite:///...")
    raise StoreUnreachable(
        f"{file}, the database of sweep {sweep.id}, is not there: tracking.uri={near} says where it is, or is to be"
    )


def _check_files(client: "MlflowClient", sweep: Sweep) -> None:
    """Raise StoreUnreachable where the files of the experiment would go where its database was before."""
    experiment = client.get_experiment_by_name(sweep.experiment)
    location = experiment.artifact_location.removeprefix("file://") if experiment else ""
    if location.startswith("/") and not (place := Path(location).parent).exists():
        raise StoreUnreachable(
            f"the experiment {sweep.experiment} in {address(sweep.tracking_uri)} has its files in {location}, and "
            f"{place} is gone: link it to where it is now, or take another experiment by tracking.experiment=..."
        )


def _known(client: "MlflowClient", sweep: Sweep) -> Ledger:
    """The sweep's ledger; one that was kept in another place is taken over if it belongs to the same experiment."""
    book = ledger.load(sweep)
    if book.named and book.experiment:
        return book
    if experiment := client.get_experiment_by_name(sweep.experiment):
        for other in ledger.others(sweep):
            if _belongs_to(other, experiment, book.address):
                known = replace(other, address=book.address, name=book.name)
                known.save()
                return known
    return book if book.named else Ledger(book.folder, book.address, book.name)


def _belongs_to(other: Ledger, experiment: "Experiment", place: str) -> bool:
    """Whether a ledger tells of this experiment: by its id in the same store, by its token in a file that was moved."""
    if other.address == place:
        return other.experiment == experiment.experiment_id
    file, now = database_file(other.address), database_file(place)
    moved = file is not None and now is not None and (not file.exists() or file.samefile(now))
    return moved and view.key(other.token) in experiment.tags


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
