"""What a store already has of a sweep, as tracking.json in the sweep's folder tells it, for each store apart."""

import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecycle_sweeps.folder import read_json, write_json

# What a crash makes to be sent again is what was sent in this time; a file that is written for each batch costs more.
SAVE_SECONDS = 0.5


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
    """A sweep's runs in one store. The token is a tag of each of them, by which they are found again after a crash.

    `view` is whether the view of its charts is there that the sweep's link opens.
    `making` stands in the file while runs are made: a ledger that is found with it may lack some.
    `complete` is what the sweep looked like when all of it had arrived, `stamp` what the store did.
    """

    path: Path
    address: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    experiment: str | None = None
    parent: str | None = None
    parent_status: str | None = None
    view: bool = False
    runs: dict[str, Shipped] = field(default_factory=dict)
    making: bool = False
    complete: str | None = None
    stamp: str | None = None

    def __post_init__(self) -> None:
        self._saved = 0.0

    def has(self, signature: str, standing: list[Any]) -> bool:
        """Whether all had arrived of a trial that stands like this."""
        return (shipped := self.runs.get(signature)) is not None and shipped.standing == standing

    def note(self) -> None:
        """Make the ledger durable unless that was done a moment ago; what is noted before the end, `save` writes."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Make the ledger durable."""
        data = vars(self) | {"runs": {signature: vars(run) for signature, run in self.runs.items()}}
        del data["path"], data["address"], data["_saved"]
        write_json(self.path, (read_json(self.path) or {}) | {self.address: data})
        self._saved = time.monotonic()


def load(folder: Path, address: str) -> Ledger:
    """A sweep folder's ledger of one store, empty where there is none."""
    path = folder / "tracking.json"
    data = (read_json(path) or {}).get(address)
    if data is None:
        return Ledger(path, address)
    return Ledger(path, address, **data | {"runs": {k: Shipped(**run) for k, run in data["runs"].items()}})
