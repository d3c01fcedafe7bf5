"""Results that were there before a command, and what has changed since they were made."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from onecycle_sweeps import provenance
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.sweep import Entry, Sweep

NAMED = 3


@dataclass(frozen=True)
class Outdated:
    """How many results were made by other code or versions, and what differs: files and targets, and versions."""

    count: int
    code: tuple[str, ...]
    versions: tuple[str, ...]

    @property
    def words(self) -> str:
        """What differs: `layers.py changed, torch was 2.5.0 and is 2.6.0`."""
        more = f" and {len(self.code) - NAMED} more" if len(self.code) > NAMED else ""
        code = [f"{', '.join(self.code[:NAMED])}{more} changed"] if self.code else []
        return ", ".join([*code, *self.versions])


def outdated(sweep: Sweep, entries: Iterable[Entry]) -> Outdated:
    """What has changed since the reused results among these trials were made."""
    # Trials by the thousand have few targets between them.
    here: dict[tuple[str, ...], dict[str, Any]] = {}
    changes: list[provenance.Change] = []
    for entry in entries:
        if not entry.reused:
            continue
        trial = sweep.trial(entry.signature)
        try:
            resolved, config = trial.resolved(), trial.config()
        except Unreadable:
            continue
        if resolved:
            targets = provenance.targets(config)
            if targets not in here:
                here[targets] = provenance.as_record(provenance.code_of_trial(config))
            if change := provenance.change(resolved, here[targets]):
                changes.append(change)
    return Outdated(
        count=len(changes),
        code=tuple(dict.fromkeys(name for change in changes for name in change.code)),
        versions=tuple(dict.fromkeys(words for change in changes for words in change.versions)),
    )
