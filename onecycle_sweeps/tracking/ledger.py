"""What a store already has of a sweep, as files in the sweep's folder tell it, for each experiment of a store apart.

tracking.json has what is one for the whole sweep; `tracking/<signature>.json` is a page for each trial, which is its
lock as well, so that those who ship different trials need not wait for each other.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onecycle_sweeps.files import Damaged, UnknownFormat, read_json, split_format, with_format, write_json
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking.store import address, locked

# What the place of a ledger in its file tells.
NOT_KEPT = ("folder", "address", "name", "named")


@dataclass
class Shipped:
    """A trial's run: the first step that the store may lack, and how the trial stood when all of it had arrived.

    `first` is the time of the trial's first attempt, `finished` that of the result that arrived, None before one has.
    """

    run_id: str
    first: float
    next: int = 0
    finished: float | None = None
    standing: list[Any] | None = None


@dataclass
class Ledger:
    """A sweep in one experiment of a store, which `name` and `experiment`, its id there, tell.

    The token is a tag of each of its runs, by which they are found again after a crash.
    `named` is whether the ledger was kept under the experiment's name; before version 1 it was kept by store alone.
    `view` is whether the view of its charts is there that the sweep's link opens.
    `complete` is what the sweep looked like when all of it had arrived, `stamp` what the store did.
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
    complete: str | None = None
    stamp: str | None = None

    def run(self, signature: str) -> Shipped | None:
        """A trial's run, if it has one."""
        return self._shipped(_content(_page(self.folder, signature)))

    @property
    def runs(self) -> dict[str, Shipped]:
        """All runs, by the signatures of their trials."""
        pages = sorted(self.folder.glob("tracking/*.json"))
        return {page.stem: run for page in pages if (run := self._shipped(_content(page)))}

    def has(self, signature: str, standing: list[Any]) -> bool:
        """Whether all had arrived of a trial that stands like this."""
        return (shipped := self.run(signature)) is not None and shipped.standing == standing

    def save(self) -> None:
        """Make what is one for the whole sweep durable: for who holds the sweep's lock."""
        self.named = True
        data = {key: value for key, value in vars(self).items() if key not in NOT_KEPT}
        others = {
            place: {name: kept for name, kept in _by_name(known).items() if kept["token"] != self.token}
            for place, known in _stores(self.folder).items()
        }
        others.setdefault(self.address, {})[self.name] = data
        write_json(_file(self.folder), {place: known for place, known in others.items() if known})

    @contextmanager
    def page(self, signature: str, expired: Callable[[], bool]) -> Iterator["Page"]:
        """A trial's page, for one at a time; raises StoreUnreachable if others have it for too long."""
        path = _page(self.folder, signature)
        path.parent.mkdir(exist_ok=True)
        begun = path.exists()
        with locked(path, expired) as file:
            content = _content(path)
            yield Page(file.fileno(), self, content, self._shipped(content), begun or bool(content))

    def _shipped(self, content: dict[str, Any]) -> Shipped | None:
        known = next((known for known in content.values() if known["token"] == self.token), {})
        if "run_id" not in known:
            return None
        return Shipped(**{key: value for key, value in known.items() if key != "token"})


@dataclass
class Page:
    """A trial's page while it is held; `shipped` is its run.

    `begun` is whether the store may have a run of the trial that does not stand here: somebody held the page before.
    """

    _file: int
    _book: Ledger
    _content: dict[str, Any]
    shipped: Shipped | None
    begun: bool

    def save(self) -> None:
        """Write the page down for whoever holds it next; without a run it says that one is about to be made.

        It is not made durable: a machine that dies may leave an older page, or an empty one. Then points are sent
        again, and a run is searched for.
        """
        known = vars(self.shipped) if self.shipped else {}
        token = self._book.token
        others = {key: kept for key, kept in self._content.items() if kept["token"] != token}
        self._content = others | {token: {"token": token, **known}}
        # In one piece over what was there, which is its first line from then on whatever follows.
        os.pwrite(self._file, json.dumps(with_format(self._content)).encode() + b"\n", 0)


def load(sweep: Sweep) -> Ledger:
    """The ledger of a sweep's experiment in its store, empty where there is none.

    One that was kept by store alone is taken for it, and is not `named`: the store is to be asked what it belongs to.
    """
    known = _stores(sweep.folder).get(address(sweep.tracking_uri), {})
    if _is_by_store_alone(known):
        return replace(_made(sweep, known), named=False)
    return _made(sweep, known.get(sweep.experiment, {}))


def others(sweep: Sweep) -> Iterator[Ledger]:
    """The ledgers of the sweep that belong to other experiments, or to other stores."""
    for place, known in _stores(sweep.folder).items():
        for name, kept in _by_name(known).items():
            if (place, name) != (address(sweep.tracking_uri), sweep.experiment):
                yield replace(_made(sweep, kept), address=place, name=name)


def _made(sweep: Sweep, kept: dict[str, Any]) -> Ledger:
    names = {each.name for each in fields(Ledger)} - {*NOT_KEPT}
    place = sweep.folder, address(sweep.tracking_uri), sweep.experiment
    return Ledger(*place, **{key: value for key, value in kept.items() if key in names})


def _by_name(known: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a store by the names of experiments; one that was kept by store alone has none."""
    return {"": known} if _is_by_store_alone(known) else known


def _is_by_store_alone(known: dict[str, Any]) -> bool:
    return isinstance(known.get("token"), str)


def _file(folder: Path) -> Path:
    return folder / "tracking.json"


def _stores(folder: Path) -> dict[str, Any]:
    """What tracking.json says of each store; raises Unreadable."""
    try:
        return read_json(_file(folder)) or {}
    except Damaged as error:
        advice = "without it, sync fills a store with runs of its own: delete it, and in MLflow the runs that are there"
        raise Damaged(f"{error}: {advice}") from error


def _page(folder: Path, signature: str) -> Path:
    return folder / "tracking" / f"{signature}.json"


def _content(path: Path) -> dict[str, Any]:
    """What a page says of each store; nothing where it is not there, or not whole."""
    try:
        return split_format(path, json.loads(path.read_bytes().partition(b"\n")[0]))[1]
    except UnknownFormat:
        raise
    except (FileNotFoundError, ValueError):
        return {}
