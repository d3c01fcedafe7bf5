"""What a store lacks of a sweep by the account of the ledger: the store itself is not asked."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.tracking import ledger, parent
from onecycle_sweeps.tracking.account import MLFLOW_STATUS, Standing, account, standing
from onecycle_sweeps.tracking.ledger import Ledger
from onecycle_sweeps.trial_folder import ENDED, RUNNING


@dataclass(frozen=True)
class Backlog:
    """What a store lacks: how many runs are not up to date, the points that they lack, and what it refused to take."""

    runs: int
    points: int
    refused: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.runs > 0


def is_due(sweep: Sweep, only: Collection[str] | None = None) -> bool:
    """Whether there is something to ship by the account of the ledger: the store itself is not asked."""
    book, known = ledger.load(sweep), list(standings_of(sweep, only))
    if not book.named or book.experiment is None or any(lacks(book, entry, now) for entry, now in known):
        return True
    if book.parent is None or are_at_work(book, known):
        return False
    return book.parent_status != parent.status([now for _, now in standings_of(sweep)])


def backlog(sweep: Sweep, refused: Sequence[str] = ()) -> Backlog:
    """What the sweep's store lacks by the account of the ledger: the store itself is not asked."""
    book = ledger.load(sweep)
    missing = [(entry, now) for entry, now in standings_of(sweep) if lacks(book, entry, now)]
    runs = points = 0
    for entry, now in missing:
        told = account(sweep, entry, now)
        shipped = book.run(entry.signature)
        runs += told.is_worth_a_run
        points += sum(map(len, told.batches(shipped.next if shipped else 0)))
    return Backlog(runs, points, tuple(refused))


def standings_of(sweep: Sweep, only: Collection[str] | None = None) -> Iterator[tuple[Entry, Standing]]:
    """How each of the sweep's trials stands; `only` names those to look at."""
    for entry in sweep.trials:
        if only is None or entry.signature in only:
            yield entry, standing(sweep.trial(entry.signature))


def lacks(book: Ledger, entry: Entry, now: Standing) -> bool:
    """Whether there is something to ship of a trial that stands like this."""
    return (now.attempts > 0 or now.status in ENDED) and not book.has(entry.signature, list(now))


def are_at_work(book: Ledger, known: Sequence[tuple[Entry, Standing]]) -> bool:
    """Whether the parent run says that trials are at work, and one of these is, so that the others are not asked."""
    return book.parent_status == MLFLOW_STATUS[RUNNING] and any(now.status == RUNNING for _, now in known)
