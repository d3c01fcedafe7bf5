"""What the store already has of a sweep, recorded in the sweep's folder, apart for each experiment of each store.

tracking.json has what exists once for the whole sweep. `tracking/<signature>.json` records the run of one trial and
is its own lock, so that processes that ship different trials need not wait for each other.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onecycle_sweeps.credentials import address
from onecycle_sweeps.files import Damaged, UnknownFormat, read_json, split_format, with_format, write_json
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking.store import locked

NOT_SAVED = ("folder", "address", "name", "named")


@dataclass
class RunRecord:
    """A trial's run: `next` is the first step that the store may lack.

    `first` is the time of the trial's first attempt, `finished` that of the result that has arrived (None before).
    `standing` is the trial's `run_data.standing` when all of it had arrived; it differs once the trial has changed.
    """

    run_id: str
    first: float
    next: int = 0
    finished: float | None = None
    standing: list[Any] | None = None


@dataclass
class Ledger:
    """A sweep in one experiment of one store; `experiment` is the id of the experiment called `name`.

    Every run of the sweep has the token as a tag, by which it is found again after a crash.
    `named` is false for a ledger of format 0, which was kept for the store as a whole.
    `view` is whether the experiment has the view of charts that the sweep's link opens, `measured` whether the view has
    charts of what the trials are measured by.
    `complete` is a hash of the sweep at the moment when all of it had arrived, `stamp` one of the store.
    """

    folder: Path
    address: str
    name: str
    named: bool = True
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    experiment: str | None = None
    parent: str | None = None
    parent_status: str | None = None
    view: bool = False
    measured: bool = False
    complete: str | None = None
    stamp: str | None = None

    def run(self, signature: str) -> RunRecord | None:
        """A trial's run; None where it has none yet."""
        return self._record(_read_runs(_run_path(self.folder, signature)))

    @property
    def runs(self) -> dict[str, RunRecord]:
        """All runs, by the signatures of their trials."""
        paths = sorted(self.folder.glob("tracking/*.json"))
        return {path.stem: run for path in paths if (run := self._record(_read_runs(path)))}

    def has(self, signature: str, standing: list[Any]) -> bool:
        """Whether all has arrived of a trial with this `run_data.standing`."""
        return (run := self.run(signature)) is not None and run.standing == standing

    def save(self) -> None:
        """Write tracking.json, durably; the caller holds the sweep's lock."""
        self.named = True
        data = {key: value for key, value in vars(self).items() if key not in NOT_SAVED}
        stores = {
            place: {name: saved for name, saved in _by_name(known).items() if saved["token"] != self.token}
            for place, known in _read_stores(self.folder).items()
        }
        stores.setdefault(self.address, {})[self.name] = data
        write_json(_path(self.folder), {place: known for place, known in stores.items() if known})

    @contextmanager
    def run_file(self, signature: str, expired: Callable[[], bool]) -> Iterator["RunFile"]:
        """Lock a trial's record and read it; raises StoreUnreachable if another process holds it for too long."""
        path = _run_path(self.folder, signature)
        path.parent.mkdir(exist_ok=True)
        existed = path.exists()
        with locked(path, expired) as file:
            content = _read_runs(path)
            yield RunFile(file.fileno(), self.token, content, self._record(content), existed or bool(content))

    def _record(self, content: dict[str, Any]) -> RunRecord | None:
        known = next((known for known in content.values() if known["token"] == self.token), {})
        if "run_id" not in known:
            return None
        return RunRecord(**{key: value for key, value in known.items() if key != "token"})


@dataclass
class RunFile:
    """A trial's record while it is locked.

    `may_have_run` is whether the store may have a run that the record lacks: somebody had locked it before.
    """

    _descriptor: int
    _token: str
    _content: dict[str, Any]
    run: RunRecord | None
    may_have_run: bool

    def save(self) -> None:
        """Write the record for whoever locks it next; without a run it says that one is about to be made.

        It is not made durable. A machine that crashes may leave an older record or an empty one: then points are sent
        again, and the run is searched for.
        """
        others = {key: saved for key, saved in self._content.items() if saved["token"] != self._token}
        self._content = others | {self._token: {"token": self._token, **(vars(self.run) if self.run else {})}}
        # One write over the old content: readers take the first line and ignore what is left after it.
        os.pwrite(self._descriptor, json.dumps(with_format(self._content)).encode() + b"\n", 0)


def load(sweep: Sweep) -> Ledger:
    """The ledger of a sweep's experiment in its store, empty where there is none.

    A ledger of format 0 is returned as not `named`: only the store can tell which experiment it belongs to.
    """
    known = _read_stores(sweep.folder).get(address(sweep.tracking_uri), {})
    if _is_for_whole_store(known):
        return replace(_ledger(sweep, known), named=False)
    return _ledger(sweep, known.get(sweep.experiment, {}))


def others(sweep: Sweep) -> Iterator[Ledger]:
    """The ledgers of the sweep for other experiments and other stores."""
    for place, known in _read_stores(sweep.folder).items():
        for name, saved in _by_name(known).items():
            if (place, name) != (address(sweep.tracking_uri), sweep.experiment):
                yield replace(_ledger(sweep, saved), address=place, name=name)


def _ledger(sweep: Sweep, saved: dict[str, Any]) -> Ledger:
    names = {each.name for each in fields(Ledger)} - {*NOT_SAVED}
    known = {key: value for key, value in saved.items() if key in names}
    return Ledger(sweep.folder, address(sweep.tracking_uri), sweep.experiment, **known)


def _by_name(known: dict[str, Any]) -> dict[str, Any]:
    """A store's ledgers by the names of experiments; one of format 0 has no name."""
    return {"": known} if _is_for_whole_store(known) else known


def _is_for_whole_store(known: dict[str, Any]) -> bool:
    return isinstance(known.get("token"), str)


def _path(folder: Path) -> Path:
    return folder / "tracking.json"


def _read_stores(folder: Path) -> dict[str, Any]:
    """The content of tracking.json by stores; raises Unreadable."""
    try:
        return read_json(_path(folder)) or {}
    except Damaged as error:
        advice = "to fill the store with new runs, delete this file, and in MLflow the runs that are there"
        raise Damaged(f"{error}: {advice}") from error


def _run_path(folder: Path, signature: str) -> Path:
    return folder / "tracking" / f"{signature}.json"


def _read_runs(path: Path) -> dict[str, Any]:
    """A trial's record for each ledger; empty where the file is missing, or was not written whole."""
    try:
        return split_format(path, json.loads(path.read_bytes().partition(b"\n")[0]))[1]
    except UnknownFormat:
        raise
    except (FileNotFoundError, ValueError):
        return {}
