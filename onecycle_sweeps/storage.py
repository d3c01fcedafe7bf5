"""Files that the program keeps: replaced whole or not at all, durable, and marked with their format."""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

# The format of every file that is written. A file without one was written before there were formats, and has format 0.
FORMAT = 1
# A part that nobody has written to for so long was left by a writer that was killed.
STALE_SECONDS = 3600.0
Fields = Mapping[str, type | tuple[type, ...]]


class Unreadable(ValueError):
    """A file that the program keeps cannot be used; the message names it in one line."""


class Damaged(Unreadable):
    """The file is not what any version of the program has written; `remedy` is what becomes of its trial."""

    remedy = "the sweep's command trains it again"


class Replaceable(Damaged):
    """The file is damaged, and its trial goes on without it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class OtherFormat(Unreadable):
    """The file has a format that this version of the program does not know."""


def nothing() -> None:
    """Do nothing."""


def write(path: Path, content: str | bytes | memoryview, *, check: Callable[[], object] = nothing) -> None:
    """Replace a file by a durable new version of it: a reader sees the old one or the new one, whole.

    `check` is called when all is ready, the moment before the file is replaced; what it raises leaves the old one.
    Raises FileNotFoundError where somebody has removed the unfinished part in the meantime.
    """
    part = part_of(path)
    try:
        with part.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        check()
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def part_of(path: Path) -> Path:
    """A name beside a file for its next version: no other writer has it, on this machine, in a container, on a node."""
    host = socket.gethostname().partition(".")[0]
    return path.with_name(f".{path.name}.{host}-{os.getpid()}-{secrets.token_hex(4)}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_parts(folder: Path, names: Collection[str] = ()) -> None:
    """Remove the unfinished parts of these files, and those of all others that killed writers left long ago."""
    for part in folder.glob(".*.*-*-*"):
        name = part.name[1:].rpartition(".")[0]
        try:
            if name in names or time.time() - part.lstat().st_mtime > STALE_SECONDS:
                part.unlink()
        except FileNotFoundError:
            pass


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace a JSON file, whole or not at all."""
    write(path, as_json(data))


def as_json(data: Mapping[str, Any]) -> str:
    """What a JSON file holds that is to keep this content."""
    return json.dumps(marked(data), indent=2) + "\n"


def marked(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same content with the format that it is written in."""
    return {"format": FORMAT, **{key: value for key, value in data.items() if key != "format"}}


def read_json(path: Path, fields: Fields | None = None) -> dict[str, Any] | None:
    """A JSON file's content without its format; None where there is no such file.

    Raises Unreadable for one that is damaged, lacks one of `fields`, or has a format that is not known.
    """
    found = load_json(path, fields)
    return found[1] if found else None


def load_json(path: Path, fields: Fields | None = None) -> tuple[int, dict[str, Any]] | None:
    """A JSON file's format and content; None where there is no such file. Raises as `read_json` does."""
    if (data := read_bytes(path)) is None:
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged ({'not whole' if data.strip() else 'empty'})") from error
    return unmarked(path, content, fields)


def read_bytes(path: Path) -> bytes | None:
    """A file's content; None where there is no such file. Raises Unreadable where the system refuses to read it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from error


def unmarked(path: Path, content: Any, fields: Fields | None = None) -> tuple[int, dict[str, Any]]:
    """The format of what a file holds, and the content without it; raises Unreadable for what cannot be used."""
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged ({'empty' if content is None else 'no mapping'})")
    check_format(path, found := content.pop("format", 0))
    for name, kind in (fields or {}).items():
        if name not in content or not isinstance(content[name], kind):
            raise Damaged(f"{path} is damaged ({'no whole' if name in content else 'no'} {name!r})")
    return found, content


def check_format(path: Path, found: Any) -> None:
    """Raise OtherFormat for a format that is not known."""
    if found not in (0, FORMAT) or isinstance(found, bool):
        known = f"this version of the program reads formats up to {FORMAT}"
        raise OtherFormat(f"{path} has format {found}, and {known}: use the version that wrote it")
