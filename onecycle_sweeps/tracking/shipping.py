"""Ships a sweep's journals to its store: whatever has arrived is recorded in the ledger and not sent again.

`Shipper` does so in a process of its own, since a tracker in the trainer's process would take time from its steps.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Self

from onecycle_sweeps import memory
from onecycle_sweeps import sweep as sweeps
from onecycle_sweeps.credentials import redacted
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.outcome import Outcome, glance, with_history
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.tracking import ledger, run_data
from onecycle_sweeps.tracking.ledger import Ledger
from onecycle_sweeps.tracking.run_data import MLFLOW_STATUS
from onecycle_sweeps.tracking.runs import Findings, OutOfTime, Runs, open_runs, outcomes
from onecycle_sweeps.tracking.store import StoreUnreachable, is_server, never, stamp
from onecycle_sweeps.trial_folder import ENDED, LOST, RUNNING

# MLflow's error codes for a run that it does not accept; any other error concerns the whole store.
REFUSALS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST")
# A request to a server is mostly waiting, above all for the check of the password.
PARALLEL_REQUESTS = 4


@dataclass(frozen=True)
class Backlog:
    """What a store lacks: the number of runs that are not up to date, their missing points, and what it refused."""

    runs: int
    points: int
    refused: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.runs > 0


def ship(sweep: Sweep, *, only: Collection[str] | None = None, expired: Callable[[], bool] = never) -> Backlog:
    """Bring the sweep's store up to date and return what it still lacks; `only` has the signatures of some trials.

    Processes that ship different trials to a server do so in parallel. Shipping stops between two batches once
    `expired()` is true. Raises StoreUnreachable.
    """
    with open_runs(sweep, expired, only) as runs:
        return _ship(runs, only)


def deliver(
    sweep: Sweep, files: Sequence[Path], description: str, findings: Findings = MappingProxyType({})
) -> str | None:
    """Bring the sweep's store up to date, its report included; returns in one line why that failed, if it did."""
    try:
        with open_runs(sweep, never) as runs:
            left = _ship(runs, None)
            runs.publish(files, description, findings)
            if not left:
                runs.mark_complete(_appearance(sweep))
    except (StoreUnreachable, Unreadable) as error:
        return str(error)
    if left.refused:
        return f"the store refused {len(left.refused)} runs, such as {left.refused[0]}"
    return f"{left.runs} runs with {left.points} points are left" if left else None


def backlog(sweep: Sweep, refused: Sequence[str] = (), only: Collection[str] | None = None) -> Backlog:
    """What the sweep's store lacks according to the ledger; the store is not contacted."""
    known = ledger.load(sweep)
    runs = points = 0
    for glanced in outcomes(sweep, only):
        if _lacks(known, glanced):
            outcome, run = with_history(glanced), known.run(glanced.entry.signature)
            runs += run_data.has_run(outcome)
            points += sum(map(len, run_data.batches(outcome, sweep, run.next if run else 0)))
    return Backlog(runs, points, tuple(refused))


def is_due(sweep: Sweep, only: Collection[str] | None = None) -> bool:
    """Whether there is something to ship according to the ledger; the store is not contacted."""
    known, found = ledger.load(sweep), list(outcomes(sweep, only))
    if not known.named or known.experiment is None or any(_lacks(known, outcome) for outcome in found):
        return True
    if only is not None or known.parent is None or _is_running(known, found):
        return False
    return known.parent_status != run_data.sweep_status(list(outcomes(sweep)))


def is_current(sweep: Sweep) -> bool:
    """Whether the store has all there is of a sweep, with its report.

    The store is queried, unless it is an sqlite file that has not changed since that was so. Raises StoreUnreachable.
    """
    known = ledger.load(sweep)
    if not known.named or known.complete is None or known.complete != _appearance(sweep):
        return False
    if known.stamp is not None and known.stamp == stamp(sweep.tracking_uri):
        return True
    with open_runs(sweep, never) as runs:
        if runs.ledger.complete:
            runs.mark_complete(_appearance(sweep))
    return ledger.load(sweep).complete == known.complete


def _appearance(sweep: Sweep) -> str:
    """A hash that changes with any trial and any file of the report."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(sweep.report.glob("*"))]
    trials = [(outcome.entry.signature, run_data.standing(outcome)) for outcome in outcomes(sweep)]
    return hashlib.sha256(repr((trials, files)).encode()).hexdigest()


def _lacks(known: Ledger, outcome: Outcome) -> bool:
    """Whether there is something to ship of a trial."""
    signature = outcome.entry.signature
    begun = outcome.attempts > 0 or outcome.status in ENDED
    if not begun or known.has(signature, run_data.standing(outcome)):
        return False
    # Only its history shows whether a trial that was shipped as lost has become readable again.
    run = known.run(signature)
    was_lost = run is not None and run.standing is not None and run.standing[0] == LOST
    return not (was_lost and known.has(signature, run_data.standing(with_history(outcome))))


def _is_running(known: Ledger, found: Sequence[Outcome]) -> bool:
    """Whether the parent has the status of a running sweep, and one of these trials does run: no other needs a look."""
    return known.parent_status == MLFLOW_STATUS[RUNNING] and any(outcome.status == RUNNING for outcome in found)


def _has_concluded(known: Ledger, found: Sequence[Outcome]) -> bool:
    """Whether the parent has the status of a sweep that has ended, and all of these trials have ended too."""
    ended = {MLFLOW_STATUS[status] for status in ENDED}
    return known.parent_status in ended and all(outcome.status in ENDED for outcome in found)


def _ship(runs: Runs, only: Collection[str] | None) -> Backlog:
    refused: list[str] = []
    found = list(outcomes(runs.sweep, only))
    try:
        for refusal in _update_all(runs, found):
            refused += [refusal] if refusal else []
        # A job leaves the parent's status to the process that ships all trials, unless it ends after that process.
        if not _is_running(runs.ledger, found) if only is None else _has_concluded(runs.ledger, found):
            runs.update_parent()
        if not refused:
            return Backlog(0, 0)
    except OutOfTime:
        pass
    return backlog(runs.sweep, refused, only)


def _update_all(runs: Runs, found: Sequence[Outcome]) -> Iterator[str | None]:
    """Update the runs of these trials, in parallel on a server; yields for each why the store refused it, or None."""
    due = [outcome.entry for outcome in found if _lacks(runs.ledger, outcome)]
    if not is_server(runs.sweep.tracking_uri) or len(due) < 2:
        yield from (_update(runs, entry) for entry in due)
        return
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        yield from pool.map(lambda entry: _update(runs, entry), due)


def _update(runs: Runs, entry: Entry) -> str | None:
    """Update one trial's run; returns why the store refused it, or None."""
    from mlflow.exceptions import MlflowException

    with runs.ledger.run_file(entry.signature, runs.expired) as file:
        # The process that held the file a moment ago may have shipped all there was then, and more.
        glanced = glance(entry, runs.sweep.trial(entry.signature))
        if not _lacks(runs.ledger, glanced):
            return None
        outcome = with_history(glanced)
        if not run_data.has_run(outcome):
            return None
        try:
            runs.update(outcome, run_data.standing(outcome), file)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            return f"{outcome.name}: {' '.join(str(error).split())}"
    return None


class Shipper:
    """Ships a sweep, which may grow, every `interval` seconds from a process of its own, as a context manager.

    `only` is the signature of the one trial to ship, if not all are. Leaving the context ships what is left, for at
    most `grace` seconds, and neither fails nor stops the caller.
    """

    def __init__(self, folder: Path, *, only: str = "", interval: float = 3.0, grace: float = 60.0) -> None:
        self._folder, self._only, self._interval, self._grace = folder, only, interval, grace

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, str(self._folder), str(self._interval), str(self._grace), self._only]
        with (self._folder / "shipper.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                start_new_session=True,
            )
        return self

    def deliver(self, files: Sequence[Path], description: str, findings: Findings = MappingProxyType({})) -> str | None:
        """Do what the function `deliver` does, in the shipping process."""
        assert self._process.stdin and self._process.stdout
        order = {"files": [str(file) for file in files], "description": description, "findings": dict(findings)}
        with suppress(BrokenPipeError):
            print(json.dumps(order), file=self._process.stdin, flush=True)
        if answer := self._process.stdout.readline():
            return json.loads(answer)["undelivered"]
        return f"the shipping process ended with status {self._process.wait()}: {self._folder / 'shipper.log'}"

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(self._grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()


def main(folder: Path, interval: float, grace: float, only: str) -> None:
    """Ship until standard input ends, which the launcher's death also causes; each line of it requests a delivery."""
    memory.collect_seldom()
    answers = os.fdopen(os.dup(1), "w", 1, "utf-8")
    os.dup2(2, 1)  # whatever libraries print goes to the log
    orders: SimpleQueue[str] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(line)
        orders.put("")

    threading.Thread(target=listen, daemon=True).start()
    load = _loader(folder)
    # MLflow is imported while the first trial trains.
    spent = _ship_if_due(load, only)
    delivered = False
    while True:
        try:
            # In a large sweep, looking at all trials takes seconds.
            order = json.loads(orders.get(timeout=max(interval, spent)) or "null")
        except Empty:
            spent = _ship_if_due(load, only)
            continue
        if order is None:
            break
        files = [Path(file) for file in order["files"]]
        undelivered = deliver(load(), files, order["description"], order["findings"])
        delivered = undelivered is None
        with suppress(BrokenPipeError):
            print(json.dumps({"undelivered": undelivered}), file=answers)
    if not delivered:
        _ship_if_due(load, only, time.monotonic() + grace)


def _loader(folder: Path) -> Callable[[], Sweep]:
    """A function that loads the sweep in a folder, and parses sweep.json again only after it has changed."""

    @lru_cache(maxsize=1)
    def parsed(*_: int) -> Sweep:
        return sweeps.load(folder)

    def load() -> Sweep:
        found = (folder / "sweep.json").stat()
        return parsed(found.st_ino, found.st_size, found.st_mtime_ns)

    return load


def _ship_if_due(load: Callable[[], Sweep], only: str, deadline: float | None = None) -> float:
    """Ship what there is; a failure goes to the log, and the next pass or `sync` tries again. Returns its seconds."""
    began = time.monotonic()
    try:
        sweep, signatures = load(), [only] if only else None
        if is_due(sweep, signatures):
            ship(sweep, only=signatures, expired=(lambda: time.monotonic() > deadline) if deadline else never)
    except Exception as error:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {redacted(str(error))}", file=sys.stderr, flush=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
