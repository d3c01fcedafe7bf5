"""What a store already has of a sweep, as files in the sweep's folder tell it, for each store apart.

tracking.json has what is one for the whole sweep; `tracking/<signature>.json` is a page for each trial, which is its
lock as well, so that those who ship different trials need not wait for each other.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from onecycle_sweeps.storage import Damaged, OtherFormat, marked, read_json, unmarked, write_json
from onecycle_sweeps.tracking.store import locked


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
    """A sweep in one store. The token is a tag of each of its runs, by which they are found again after a crash.

    `view` is whether the view of its charts is there that the sweep's link opens.
    `complete` is what the sweep looked like when all of it had arrived, `stamp` what the store did.
    """

    folder: Path
    address: str
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
        data = {key: value for key, value in vars(self).items() if key not in ("folder", "address")}
        write_json(_file(self.folder), _stores(self.folder) | {self.address: data})

    @contextmanager
    def page(self, signature: str, expired: Callable[[], bool]) -> Iterator["Page"]:
        """A trial's page, for one at a time; raises StoreUnreachable if others have it for too long."""
        path = _page(self.folder, signature)
        path.parent.mkdir(exist_ok=True)
        begun = path.exists()
        with locked(path, expired) as file:
            content = _content(path)
            yield Page(file.fileno(), self, content, self._shipped(content), begun or self.address in content)

    def _shipped(self, content: dict[str, Any]) -> Shipped | None:
        known = content.get(self.address)
        if known is None or known["token"] != self.token or "run_id" not in known:
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
        self._content[self._book.address] = {"token": self._book.token, **known}
        # In one piece over what was there, which is its first line from then on whatever follows.
        os.pwrite(self._file, json.dumps(marked(self._content)).encode() + b"\n", 0)


def load(folder: Path, address: str) -> Ledger:
    """A sweep folder's ledger of one store, empty where there is none."""
    data = _stores(folder).get(address, {})
    names = {each.name for each in fields(Ledger)}
    return Ledger(folder, address, **{key: value for key, value in data.items() if key in names})


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
        return unmarked(path, json.loads(path.read_bytes().partition(b"\n")[0]))[1]
    except OtherFormat:
        raise
    except (FileNotFoundError, ValueError):
        return {}
