"""The files of a journal folder, and what the lines of one say."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onecycle_sweeps.journal.record import Attempt, Block


def attempt_file(folder: Path, attempt: int) -> Path:
    """The file of one attempt."""
    return folder / f"{attempt:04d}.jsonl"


def attempt_files(folder: Path) -> list[Path]:
    """The files of all attempts in a journal folder, first attempt first."""
    return sorted(folder.glob("[0-9]*.jsonl"))


def attempt_of(data: Iterable[bytes]) -> Attempt | None:
    """What these lines of a file tell of its attempt; nothing unless the first whole one is its head."""
    lines = list(lines_of(data))
    good = [line for line in lines if line is not None]
    if not good or "attempt" not in good[0]:
        return None
    head, rest = good[0], good[1:]
    ends = [line for line in rest if "end" in line]
    return Attempt(
        number=head["attempt"],
        start=head["from"],
        time=head["time"],
        host=head["host"],
        blocks=tuple(blocks_of(rest)),
        saved=max((line["saved"] for line in rest if "saved" in line), default=head["from"]),
        end=ends[-1]["end"] if ends else None,
        cause=ends[-1]["cause"] if ends else None,
        torn=lines.count(None),
        place=head.get("place", {}),
        notes=tuple(head.get("notes", ())),
    )


def blocks_of(lines: Iterable[dict[str, Any] | None]) -> Iterator[Block]:
    """The blocks among these lines."""
    for line in lines:
        if line and "metrics" in line:
            yield Block(line["time"], line["step"], line["metrics"])


def lines_of(data: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """Each line as it was written, None for one that is torn."""
    for line in data:
        if line.strip():
            try:
                value = json.loads(line)
                yield value if isinstance(value, dict) else None
            except ValueError:
                yield None
