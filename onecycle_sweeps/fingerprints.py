"""Fingerprints of the files that a config names: hashes of their content, cached, and checked before they are used.

In a trial's signature the fingerprint of a file replaces its path.
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

from onecycle_sweeps.config import keys
from onecycle_sweeps.config.schema import KEEPING_OF_DATA, NAMES_FILES
from onecycle_sweeps.files import Unreadable, read_json, with_format, write
from onecycle_sweeps.terminal import counting, first_few

CONTENT, STAT = "content", "stat"
# The folder of a runs_dir that caches hashes of files.
MEMOS = ("data", "fingerprints")
# A file that was written this shortly before it was hashed is hashed again next time, because another write within
# the same tick of the file system's clock would not change its times.
SETTLED_NS = 2 * 10**9
# More threads do not help on a local disk; on a network file system their waits overlap.
THREADS, PER_TASK = 4, 64
BLOCK_BYTES = 2**20
# How many changed files a message names.
NAMED = 3
SINCE_PLANNED = "changed since the trial was planned: start the command again"
# The hash of a broken link, a socket or a pipe.
NO_FILE = "no file"

Node = dict[str, Any]


class Changed(ValueError):
    """Files have changed since they were fingerprinted; the message names them."""


@dataclass(frozen=True)
class Inputs:
    """What a config node contributes to a signature, and the fingerprints of the files and folders that it names."""

    identity: Node
    prints: Mapping[str, str]


class FileHash(NamedTuple):
    """The hash of a file, its size, times and inode number when it was read, and when that was; times in ns."""

    digest: str
    size: int
    mtime: int
    ctime: int
    inode: int
    read: int

    def holds_for(self, found: os.stat_result) -> bool:
        """Whether a file that has this stat must have this content."""
        same = (self.size, self.mtime, self.ctime, self.inode) == _stamp(found)
        return same and max(self.mtime, self.ctime) + SETTLED_NS < self.read


# The hashes of the files below a folder, by their paths relative to it.
Files = Mapping[str, FileHash]


def of_data(node: Node, memos: Path, *, afresh: bool = False) -> Inputs:
    """The inputs of a data node: the paths that it names below its `root`, in the working folder or as absolute paths.

    Where it lists `files`, other files of their folders do not count. If nothing that it names is below `root`, all of
    `root` counts, or the text of `root` if there is no such folder.
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
    """The inputs of any other node: paths in the working folder and absolute ones; those of folders contain a slash."""
    named = {}
    for key, value in _texts(node):
        if paths := [path for path in _matches(Path(), value) if path.is_file() or (path.is_dir() and "/" in value)]:
            named[key] = paths
    return _inputs(node, named, memos, by=CONTENT, afresh=afresh)


def lacks_files(node: Node) -> bool:
    """Whether one of a data node's `files`, or its `path`, does not exist: its loader may download it."""
    listed = [*(node.get("files") or ()), *filter(None, [node.get("path")])]
    return not all(_matches(_top(node), name) for name in listed)


def memo_folder(runs_dir: Path) -> Path:
    """The folder that caches the hashes of files."""
    return runs_dir.joinpath(*MEMOS)


def take(paths: Iterable[Path], memos: Path, *, by: str = CONTENT, afresh: bool = False) -> dict[str, str]:
    """The fingerprint of each file or folder, by its absolute path.

    By CONTENT it covers the names and the content of all files below a folder, by STAT their names, sizes and times,
    and nothing is read; hidden files are left out. Cached hashes in `memos` are used, except with `afresh`, for files
    whose size, times and inode are unchanged.
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
    """Raise Changed for a file or folder whose fingerprint differs from the expected one, which `take` returned."""
    for top, value in expected.items():
        if not os.path.exists(top):
            raise Changed(f"{top}, which the trial reads, was removed or is not visible on {socket.gethostname()}")
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
    """The paths, relative to `root`, of all folders and of all files below it, each sorted; links are followed.

    Loaders use it too, so that exactly the files that they may read are fingerprinted. Hidden files and runs_dirs are
    left out. Raises OSError for an unreadable folder, ValueError for a circular link.
    """
    folders: list[str] = []
    files: list[str] = []
    for place, below, names in os.walk(root, followlinks=True, onerror=_refuse):
        below[:] = [name for name in below if not is_hidden(name) and not _is_runs_dir(os.path.join(place, name))]
        for name in below:
            _check_link(os.path.join(place, name))
        relative = os.path.relpath(place, root)
        start = "" if relative == "." else f"{relative}/"
        folders += [start + name for name in below]
        files += [start + name for name in names if not is_hidden(name)]
    return sorted(folders), sorted(files)


def is_hidden(name: str) -> bool:
    """Whether a name is one that other programs create, such as .DS_Store, ._photo.jpg, __MACOSX or mlflow.db."""
    return name.startswith((".", "mlflow.db")) or name in ("__MACOSX", "__pycache__")


def _named_in_data(node: Node) -> Iterator[tuple[str, list[Path]]]:
    """The keys of a data node whose values name existing paths, with these paths."""
    top, listed = _top(node), []
    for number, name in enumerate(node.get("files") or ()):
        if not (paths := _matches(top, name)):
            raise FileNotFoundError(f"data.files names {(top / name).absolute()}, which does not exist")
        listed += paths
        yield f"files.{number}", paths
    others = {key: value for key, value in node.items() if key not in ("root", "files", *KEEPING_OF_DATA)}
    for key, value in _texts(others):
        paths = _matches(top, value) + ([] if key == "path" else _matches(Path(), value))
        if found := sorted({path.absolute() for path in paths if not listed or _is_meant(path, value, listed)}):
            yield key, found


def _is_meant(path: Path, value: str, listed: list[Path]) -> bool:
    """Whether a value beside a list of files is a path, and not a word that is also the name of a folder."""
    return path.is_file() or ("/" in value and not any(_lies_in(file, path) for file in listed))


def _top(node: Node) -> Path:
    root = node.get("root")
    return Path(root).expanduser() if isinstance(root, str) else Path()


def _inputs(node: Node, named: Mapping[str, list[Path]], memos: Path, *, by: str, afresh: bool) -> Inputs:
    prints = take((path for paths in named.values() for path in paths), memos, by=by, afresh=afresh)
    found = {key: [_identity(path, prints, len(paths)) for path in paths] for key, paths in named.items()}
    return Inputs({"node": _without_places(node, found), "files": found}, prints)


def _identity(path: Path, prints: Mapping[str, str], matches: int) -> list[str]:
    """A file's part of a signature: its fingerprint, and its name if a pattern matches several files."""
    return [prints[os.path.abspath(path)], *([path.name] if matches > 1 else [])]


def _without_places(value: Any, named: Mapping[str, list[list[str]]], key: str = "") -> Any:
    """A node with null for each path whose content counts.

    Where a key is not one for files, its value may have another meaning too, such as `name: MNIST`, and it is kept
    unless it is an absolute path.
    """
    if isinstance(value, dict):
        return {name: _without_places(inner, named, f"{key}.{name}".lstrip(".")) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner, named, f"{key}.{number}") for number, inner in enumerate(value)]
    if key in named and (key.split(".")[0] in NAMES_FILES or Path(value).expanduser().is_absolute()):
        return None
    return value


def _texts(node: Node) -> Iterator[tuple[str, str]]:
    """Each text in a node with its key, such as `files.0`, except names of code."""
    for key, value in keys.leaves(node):
        *_, leaf = parts = keys.parts_of(key)
        if leaf != "_target_" and isinstance(value, str) and value.strip() and "\0" not in value:
            yield ".".join(parts), value


def _matches(place: Path, value: str) -> list[Path]:
    """The path if it exists, or the paths that match a pattern such as `photos/*.npz`."""
    path = place / Path(value).expanduser()
    try:
        if path.exists():
            return [path]
        return sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(value) else []
    except (OSError, ValueError, RuntimeError):
        return []  # The text cannot be a path, for example because it is too long.


def _lies_in(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _differing(before: Files, now: Files) -> str:
    """The part of a message that names the changed files of a folder."""
    digests, new = ({name: known.digest for name, known in files.items()} for files in (before, now))
    names = [name for name in sorted({*before, *now}) if name and digests.get(name) != new.get(name)]
    return f" ({first_few(list(map(_printable, names)), NAMED)})" if names else ""


def _hashes(top: str, before: Files) -> tuple[dict[str, FileHash], int]:
    """The hash of each file below `top`, whose own path is "", and the number of files that were read."""
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
    """The cached hashes of a path; none if the memo is missing, damaged or of an unknown format."""
    try:
        content = read_json(_memo(memos, top), {"path": str, "files": dict})
        if content is None or content["path"] != top:
            return {}
        return {name: FileHash(*entry) for name, entry in content["files"].items()}
    except (Unreadable, TypeError):
        return {}


def _remember(memos: Path, top: str, files: Files) -> None:
    """Cache the hashes of a path; where that fails, its files are hashed again next time."""
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
    """The stat of a regular file; None for other kinds."""
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
