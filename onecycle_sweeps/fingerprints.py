"""Files and folders known by what they hold: hashed once, remembered, and compared again before they are used."""

import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from onecycle_sweeps.files import Unreadable, read_json, with_format, write
from onecycle_sweeps.images import progress, walk
from onecycle_sweeps.images.input_files import MEMOS

CONTENT, STAT = "content", "stat"
# A file that was written shortly before it was hashed might be written again within one tick of the file system's
# clock, which leaves its times as they are: it is hashed again next time.
SETTLED_NS = 2 * 10**9
# On a local disk more threads gain nothing, on a network's file system they wait together.
THREADS, PER_TASK = 4, 64
BLOCK_BYTES = 2**20
NAMED = 3
SINCE_PLANNED = "changed since the trial was planned: start the command again"
# What stands for the content of a link to nowhere, a socket or a pipe.
NO_FILE = "no file"


class Changed(ValueError):
    """Files are not those that were fingerprinted; the message names them."""


class Known(NamedTuple):
    """The content of one file, and what its inode said when it was read: size, times in nanoseconds, number."""

    digest: str
    size: int
    mtime: int
    ctime: int
    inode: int
    read: int

    def is_of(self, found: os.stat_result) -> bool:
        """Whether a file with this stat still has this content."""
        same = (self.size, self.mtime, self.ctime, self.inode) == _stamp(found)
        return same and max(self.mtime, self.ctime) + SETTLED_NS < self.read


# What is known of the files below a folder, by their names in it.
Files = Mapping[str, Known]


def memos(runs_dir: Path) -> Path:
    """The folder of what is remembered of hashed files."""
    return runs_dir.joinpath(*MEMOS)


def take(paths: Iterable[Path], memos: Path, *, by: str = CONTENT, afresh: bool = False) -> dict[str, str]:
    """The fingerprint of each file or folder, by its absolute path.

    A folder's is made of the names below it and of each file's content; by STAT of names, sizes and times, and nothing
    is read. What is hidden does not count. A file is hashed again only if its size, times or inode are not those that
    the folder `memos` remembers, or if all are to be read `afresh`.
    Raises OSError for what is not there or cannot be read.
    """
    found = {}
    for top in sorted({os.path.abspath(path) for path in paths}):
        if by == STAT:
            found[top] = _by_stat(top)
            continue
        files, read = _known(top, {} if afresh else _remembered(memos, top))
        if read:
            _remember(memos, top, files)
        found[top] = _by_content(files)
    return found


def check(expected: Mapping[str, str], memos: Path) -> None:
    """Raise Changed, in one line that names it, for a file or folder whose fingerprint is not what `take` gave.

    `expected` is what a trial was planned with.
    """
    for top, value in expected.items():
        if not os.path.exists(top):
            raise Changed(
                f"{top}, which the trial was planned with, is gone or cannot be seen from {socket.gethostname()}"
            )
        if value.startswith(STAT):
            if _by_stat(top) != value:
                raise Changed(f"{top} {SINCE_PLANNED}")
            continue
        before = _remembered(memos, top)
        now, read = _known(top, before)
        if _by_content(now) != value:
            raise Changed(f"{top}{_differing(before, now) if _by_content(before) == value else ''} {SINCE_PLANNED}")
        if read:
            _remember(memos, top, now)


def _differing(before: Files, now: Files) -> str:
    """Which files of a folder differ."""
    names = [n for n in sorted({*before, *now}) if n and _digest(before, n) != _digest(now, n)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" ({', '.join(map(_printable, names[:NAMED]))}{more})" if names else ""


def _digest(files: Files, name: str) -> str | None:
    return files[name].digest if name in files else None


def _known(top: str, before: Files) -> tuple[dict[str, Known], int]:
    """What is known of each file of a folder, and how many had to be read for it; a file's own name is empty."""
    found: dict[str, Known] = {}
    unknown = []
    for name in _names(top):
        entry = before.get(name)
        if entry and (seen := _stat(top, name)) and entry.is_of(seen):
            found[name] = entry
        else:
            unknown.append(name)
    found.update(zip(unknown, _hashed(top, unknown), strict=True))
    return found, len(unknown)


def _memo(memos: Path, top: str) -> Path:
    return memos / f"{hashlib.sha256(os.fsencode(top)).hexdigest()[:16]}.json"


def _remembered(memos: Path, top: str) -> dict[str, Known]:
    """What was remembered of a path; nothing where the memo is missing, damaged or of another format."""
    try:
        content = read_json(_memo(memos, top), {"path": str, "files": dict})
        if content is None or content["path"] != top:
            return {}
        return {name: Known(*entry) for name, entry in content["files"].items()}
    except (Unreadable, TypeError):
        return {}


def _remember(memos: Path, top: str, files: Files) -> None:
    """Write a path's memo whole or not at all; a disk that refuses it costs no more than hashing again."""
    with suppress(OSError):
        memos.mkdir(parents=True, exist_ok=True)
        write(_memo(memos, top), json.dumps(with_format({"path": top, "files": files})))


def _hashed(top: str, names: Sequence[str]) -> Iterator[Known]:
    tasks = [names[start : start + PER_TASK] for start in range(0, len(names), PER_TASK)]
    with progress(f"reading {_printable(top)}", len(names), "files") as count, ThreadPoolExecutor(THREADS) as pool:
        for task in pool.map(lambda task: [_hash(top, name) for name in task], tasks):
            count(len(task))
            yield from task


def _hash(top: str, name: str) -> Known:
    read = time.time_ns()
    if (seen := _stat(top, name)) is None:
        return Known(NO_FILE, 0, 0, 0, 0, read)
    digest = hashlib.sha256()
    with open(os.path.join(top, name) if name else top, "rb", buffering=0) as file:
        seen = os.fstat(file.fileno())
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return Known(digest.hexdigest(), *_stamp(seen), read)


def _names(top: str) -> list[str]:
    return walk(Path(top))[1] if os.path.isdir(top) else [""]


def _stat(top: str, name: str) -> os.stat_result | None:
    """What the inode of a regular file says; None for what is none."""
    try:
        found = os.stat(os.path.join(top, name) if name else top)
    except OSError:
        if not name:
            raise
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _stamp(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _by_content(files: Files) -> str:
    if list(files) == [""]:
        return files[""].digest
    return _sum(sorted((name, known.digest) for name, known in files.items()))


def _by_stat(top: str) -> str:
    found = [(name, _stat(top, name)) for name in _names(top)]
    return f"{STAT}:{_sum([(name, seen and (seen.st_size, seen.st_mtime_ns)) for name, seen in found])}"


def _sum(listing: object) -> str:
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _printable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()
