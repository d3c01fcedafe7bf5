"""The files of a journal folder, and what the lines of one say."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onecycle_sweeps.files import check_format
from onecycle_sweeps.journal.record import Attempt, Block

HEAD = ("attempt", "from", "time", "host")


def attempt_file(folder: Path, attempt: int) -> Path:
    """The file of one attempt."""
    return folder / f"{attempt:04d}.jsonl"


def attempt_files(folder: Path, last: int | None = None) -> list[Path]:
    """The files of all attempts in a journal folder, up to the `last` one if that is given, first attempt first."""
    found = (path for path in folder.glob("[0-9]*.jsonl") if path.stem.isdecimal())
    return sorted(path for path in found if last is None or int(path.stem) <= last)


def attempt_of(path: Path, data: Iterable[bytes]) -> Attempt | None:
    """What these lines of the file at `path` tell of its attempt; nothing unless the first whole one is its head.

    Raises UnknownFormat for a head of a format that is not known.
    """
    lines = list(lines_of(data))
    good = [line for line in lines if line is not None]
    if not good or any(key not in good[0] for key in HEAD):
        return None
    head, rest = good[0], good[1:]
    check_format(path, found := head.get("format", 0))
    ends = [line for line in rest if "end" in line]
    return Attempt(
        number=head["attempt"],
        start=head["from"],
        time=head["time"],
        host=head["host"],
        blocks=tuple(blocks_of(rest)),
        saved=max((line["saved"] for line in rest if "saved" in line), default=head["from"]),
        end=ends[-1]["end"] if ends else None,
        cause=ends[-1].get("cause") if ends else None,
        torn=lines.count(None),
        place=head.get("place", {}),
        notes=tuple(head.get("notes", ())),
        format=found,
    )


def blocks_of(lines: Iterable[dict[str, Any] | None]) -> Iterator[Block]:
    """The blocks among these lines."""
    for line in lines:
        if line and "metrics" in line:
            yield Block(line["time"], line["step"], line["metrics"])


def is_whole(line: Any) -> bool:
    """Whether a line is what a journal's writer writes."""
    if not isinstance(line, dict):
        return False
    if "metrics" not in line:
        return True
    columns = line["metrics"]
    placed = isinstance(line.get("step"), int) and isinstance(line.get("time"), float)
    return placed and isinstance(columns, dict) and all(isinstance(column, list) for column in columns.values())


def lines_of(data: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """Each line as it was written, None for one that is torn."""
    for line in data:
        if line.strip():
            try:
                value = json.loads(line)
                yield value if is_whole(value) else None
            except ValueError:
                yield None
