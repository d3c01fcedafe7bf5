"""The files that a config names, known by their content: hashed once, remembered, compared again before they are used.

What a config node names on disk is found, and its fingerprints stand for it in the trial's signature.
"""

import glob
import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from onecycle_sweeps.config.schema import KEEPING_OF_DATA, NAMES_FILES
from onecycle_sweeps.files import Unreadable, read_json, with_format, write
from onecycle_sweeps.terminal import counting

CONTENT, STAT = "content", "stat"
# Where a runs_dir keeps the fingerprints that are remembered.
MEMOS = ("data", "fingerprints")
# A file that was written shortly before it was hashed might be written again within one tick of the file system's
# clock, which leaves its times as they are: it is hashed again next time.
SETTLED_NS = 2 * 10**9
# On a local disk more threads gain nothing; on a network's file system they wait at the same time.
THREADS, PER_TASK = 4, 64
BLOCK_BYTES = 2**20
# How many changed files a message names.
NAMED = 3
SINCE_PLANNED = "changed since the trial was planned: start the command again"
# Stands for the content of a broken link, a socket or a pipe.
NO_FILE = "no file"

Node = dict[str, Any]


class Changed(ValueError):
    """Files are not those that were fingerprinted; the message names them."""


@dataclass(frozen=True)
class Inputs:
    """What stands for a config node in a signature, and the fingerprints of the files and folders that it names."""

    identity: Node
    prints: Mapping[str, str]


class FileHash(NamedTuple):
    """The hash of one file, and its inode when it was read: size, times in nanoseconds, inode number."""

    digest: str
    size: int
    mtime: int
    ctime: int
    inode: int
    read: int

    def holds_for(self, found: os.stat_result) -> bool:
        """Whether a file with this stat still has this content."""
        same = (self.size, self.mtime, self.ctime, self.inode) == _stamp(found)
        return same and max(self.mtime, self.ctime) + SETTLED_NS < self.read


# The hashes of the files below a folder, by their names relative to it.
Files = Mapping[str, FileHash]


def of_data(node: Node, memos: Path, *, afresh: bool = False) -> Inputs:
    """The inputs of a data node: what it names below its `root`, in the working folder or by absolute paths.

    If it lists `files`, only these count of their folders. If neither `files` nor `path` nor another value names
    something below `root`, all of `root` counts, or its wording if it does not exist.
    Raises FileNotFoundError if one of `files` is missing.
    """
    named = dict(_named_in_data(node))
    root = node.get("root")
    if isinstance(root, str) and (top := Path(root).expanduser()).exists():
        placed = "path" in named or any(_lies_in(path, top) for paths in named.values() for path in paths)
        named["root"] = [] if placed else [top]
    kept = {key: value for key, value in node.items() if key not in KEEPING_OF_DATA}
    by = node.get("fingerprint", CONTENT)
    return _inputs(kept, named, memos, by=by, afresh=afresh)


def of_node(node: Node, memos: Path, *, afresh: bool = False) -> Inputs:
    """The inputs of any other node, in the working folder or by absolute paths; folders need a slash in their name."""
    named = {}
    for key, value in _texts(node):
        paths = [path for path in _matches(Path(), value) if path.is_file() or (path.is_dir() and "/" in value)]
        if paths:
            named[key] = paths
    return _inputs(node, named, memos, by=CONTENT, afresh=afresh)


def lacks_files(node: Node) -> bool:
    """Whether one of a data node's `files`, or its `path`, does not exist, so that its loader may have to fetch it."""
    listed = [*(node.get("files") or ()), *filter(None, [node.get("path")])]
    return not all(_matches(_top(node), name) for name in listed)


def memos(runs_dir: Path) -> Path:
    """The folder that remembers the hashes of files."""
    return runs_dir.joinpath(*MEMOS)


def take(paths: Iterable[Path], memos: Path, *, by: str = CONTENT, afresh: bool = False) -> dict[str, str]:
    """The fingerprint of each file or folder, by its absolute path.

    A folder's fingerprint covers the names below it and the content of each file; with STAT it covers names, sizes and
    times, and nothing is read. Hidden files do not count. A file is hashed again only if its size, times or inode
    differ from what the folder `memos` remembers, or if all are to be read `afresh`.
    Raises OSError for a path that does not exist or cannot be read.
    """
    found = {}
    for top in sorted({os.path.abspath(path) for path in paths}):
        if by == STAT:
            found[top] = _by_stat(top)
            continue
        files, read = _hashes(top, {} if afresh else _remembered(memos, top))
        if read:
            _remember(memos, top, files)
        found[top] = _by_content(files)
    return found


def check(expected: Mapping[str, str], memos: Path) -> None:
    """Raise Changed, in one line, for a file or folder whose fingerprint differs from the expected one.

    `expected` has the fingerprints that a trial was planned with, as `take` returned them.
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
        now, read = _hashes(top, before)
        if _by_content(now) != value:
            raise Changed(f"{top}{_differing(before, now) if _by_content(before) == value else ''} {SINCE_PLANNED}")
        if read:
            _remember(memos, top, now)


def walk(root: Path) -> tuple[list[str], list[str]]:
    """The names, relative to `root`, of all folders and of all files below it, each sorted; links are followed.

    Loaders use this list too, so that exactly what they may read is fingerprinted. Hidden files and the program's own
    folders of runs are left out. Raises OSError for an unreadable folder, ValueError for a circular link.
    """
    folders: list[str] = []
    files: list[str] = []
    for place, below, names in os.walk(root, followlinks=True, onerror=_refuse):
        below[:] = [name for name in below if not is_hidden(name) and not _is_runs_dir(os.path.join(place, name))]
        for name in below:
            _check_link(os.path.join(place, name))
        start = "" if (start := os.path.relpath(place, root)) == "." else f"{start}/"
        folders += [start + name for name in below]
        files += [start + name for name in names if not is_hidden(name)]
    return sorted(folders), sorted(files)


def is_hidden(name: str) -> bool:
    """Whether a folder or file is one that other programs leave behind: .DS_Store, ._photo.jpg, __MACOSX."""
    return name.startswith((".", "mlflow.db")) or name in ("__MACOSX", "__pycache__")


def _named_in_data(node: Node) -> Iterator[tuple[str, list[Path]]]:
    """The keys of a data node whose values name something that exists, with these paths."""
    top, listed = _top(node), []
    for number, name in enumerate(node.get("files") or ()):
        if not (paths := _matches(top, name)):
            raise FileNotFoundError(f"data.files names {(top / name).absolute()}, and there is none")
        listed += paths
        yield f"files.{number}", paths
    others = {key: value for key, value in node.items() if key not in ("root", "files", *KEEPING_OF_DATA)}
    for key, value in _texts(others):
        paths = _matches(top, value) + ([] if key == "path" else _matches(Path(), value))
        if found := sorted({path.absolute() for path in paths if not listed or _is_meant(path, value, listed)}):
            yield key, found


def _is_meant(path: Path, value: str, listed: list[Path]) -> bool:
    """Whether a value beside a list of files is meant as a path, and is not a word that happens to name a folder."""
    return path.is_file() or ("/" in value and not any(_lies_in(file, path) for file in listed))


def _top(node: Node) -> Path:
    root = node.get("root")
    return Path(root).expanduser() if isinstance(root, str) else Path()


def _inputs(node: Node, named: Mapping[str, list[Path]], memos: Path, *, by: str, afresh: bool) -> Inputs:
    prints = take((path for paths in named.values() for path in paths), memos, by=by, afresh=afresh)
    found = {key: [_identity(path, prints, len(paths)) for path in paths] for key, paths in named.items()}
    return Inputs({"node": _without_places(node, found), "files": found}, prints)


def _identity(path: Path, prints: Mapping[str, str], matches: int) -> list[str]:
    """What stands for a file: its fingerprint, and its name if a pattern matches several files."""
    return [prints[os.path.abspath(path)], *([path.name] if matches > 1 else [])]


def _without_places(value: Any, named: Mapping[str, list[list[str]]], key: str = "") -> Any:
    """A node without the wording of paths whose content counts.

    Another key's value may mean more than the path of the file that it names, such as `name: MNIST`: it counts beside
    the content unless it is an absolute path.
    """
    if isinstance(value, dict):
        return {name: _without_places(inner, named, f"{key}.{name}".lstrip(".")) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner, named, f"{key}.{number}") for number, inner in enumerate(value)]
    if key in named and (key.split(".")[0] in NAMES_FILES or Path(value).expanduser().is_absolute()):
        return None
    return value


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each string in a node by its dotted key, except names of code."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "_target_":
                yield from _texts(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{key}.{number}")
    elif isinstance(value, str) and value.strip() and "\0" not in value:
        yield key, value


def _matches(place: Path, value: str) -> list[Path]:
    """The path if it exists, or the paths that match a pattern such as `photos/*.npz`."""
    path = place / Path(value).expanduser()
    try:
        if path.exists():
            return [path]
        return sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(value) else []
    except (OSError, ValueError, RuntimeError):
        return []  # a string that cannot be a path, such as one that is too long


def _lies_in(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _differing(before: Files, now: Files) -> str:
    """The files of a folder that differ, for a message."""
    names = [n for n in sorted({*before, *now}) if n and _digest(before, n) != _digest(now, n)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" ({', '.join(map(_printable, names[:NAMED]))}{more})" if names else ""


def _digest(files: Files, name: str) -> str | None:
    return files[name].digest if name in files else None


def _hashes(top: str, before: Files) -> tuple[dict[str, FileHash], int]:
    """The hash of each file in a folder, and how many files had to be read. The name of `top` itself is empty."""
    found: dict[str, FileHash] = {}
    unknown = []
    for name in _names(top):
        entry = before.get(name)
        if entry and (seen := _stat(top, name)) and entry.holds_for(seen):
            found[name] = entry
        else:
            unknown.append(name)
    found.update(zip(unknown, _read(top, unknown), strict=True))
    return found, len(unknown)


def _memo(memos: Path, top: str) -> Path:
    return memos / f"{hashlib.sha256(os.fsencode(top)).hexdigest()[:16]}.json"


def _remembered(memos: Path, top: str) -> dict[str, FileHash]:
    """The remembered hashes of a path; none if the memo is missing, damaged or of an unknown format."""
    try:
        content = read_json(_memo(memos, top), {"path": str, "files": dict})
        if content is None or content["path"] != top:
            return {}
        return {name: FileHash(*entry) for name, entry in content["files"].items()}
    except (Unreadable, TypeError):
        return {}


def _remember(memos: Path, top: str, files: Files) -> None:
    """Write a path's memo; if the disk refuses it, the files are only hashed again next time."""
    with suppress(OSError):
        memos.mkdir(parents=True, exist_ok=True)
        write(_memo(memos, top), json.dumps(with_format({"path": top, "files": files})))


def _read(top: str, names: Sequence[str]) -> Iterator[FileHash]:
    tasks = [names[start : start + PER_TASK] for start in range(0, len(names), PER_TASK)]
    with counting(f"reading {_printable(top)}", len(names), "files") as count, ThreadPoolExecutor(THREADS) as pool:
        for task in pool.map(lambda task: [_hash(top, name) for name in task], tasks):
            count(len(task))
            yield from task


def _hash(top: str, name: str) -> FileHash:
    read = time.time_ns()
    if (seen := _stat(top, name)) is None:
        return FileHash(NO_FILE, 0, 0, 0, 0, read)
    digest = hashlib.sha256()
    with open(os.path.join(top, name) if name else top, "rb", buffering=0) as file:
        seen = os.fstat(file.fileno())
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return FileHash(digest.hexdigest(), *_stamp(seen), read)


def _names(top: str) -> list[str]:
    return walk(Path(top))[1] if os.path.isdir(top) else [""]


def _stat(top: str, name: str) -> os.stat_result | None:
    """The stat of a regular file; None for anything else."""
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


def _is_runs_dir(path: str) -> bool:
    return os.path.isdir(os.path.join(path, *MEMOS))


def _check_link(path: str) -> None:
    if os.path.islink(path) and f"{os.path.realpath(os.path.dirname(path))}/".startswith(f"{os.path.realpath(path)}/"):
        raise ValueError(f"{path} links to a folder that contains it")


def _refuse(error: OSError) -> None:
    raise error
