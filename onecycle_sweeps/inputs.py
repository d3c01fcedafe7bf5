"""The files that a config names: what each node's values come to on disk, and what stands for them in a signature."""

import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecycle_sweeps import fingerprints

Node = dict[str, Any]
# Values whose wording does not count once what lies there is known. What else names a file may mean more than its
# place, such as `name: MNIST`, and counts beside the file's content unless it is absolute.
PLACES = ("root", "path", "files", "weights_file")
# How a data set is fetched and kept, which is no part of what it is.
KEEPING = ("download", "max_cached_gb", "fingerprint")


@dataclass(frozen=True)
class Inputs:
    """What stands for a config node in a signature, and the fingerprints of the files and folders that it names."""

    identity: Node
    prints: Mapping[str, str]


def of_data(node: Node, memos: Path, *, afresh: bool = False) -> Inputs:
    """The files that a data node names below its `root`, in the working folder or by absolute paths.

    `files` are those that count of the folders they lie in. Without `files`, `path` or another name below `root` all
    of `root` counts, and where it does not exist its wording.
    Raises FileNotFoundError if one of `files` is missing.
    """
    named = dict(_named_in_data(node))
    root = node.get("root")
    if isinstance(root, str) and (top := Path(root).expanduser()).exists():
        placed = "path" in named or any(_lies_in(path, top) for paths in named.values() for path in paths)
        named["root"] = [] if placed else [top]
    kept = {key: value for key, value in node.items() if key not in KEEPING}
    by = node.get("fingerprint", fingerprints.CONTENT)
    return _inputs(kept, named, memos, by=by, afresh=afresh)


def of_node(node: Node, memos: Path, *, afresh: bool = False) -> Inputs:
    """The files that any other node names in the working folder or by absolute paths; a folder must have a slash."""
    named = {}
    for key, value in _texts(node):
        paths = [path for path in _matches(Path(), value) if path.is_file() or (path.is_dir() and "/" in value)]
        if paths:
            named[key] = paths
    return _inputs(node, named, memos, by=fingerprints.CONTENT, afresh=afresh)


def missing(node: Node) -> bool:
    """Whether one of a data node's `files`, or its `path`, is not there, and may be for its loader to fetch."""
    listed = [*(node.get("files") or ()), *filter(None, [node.get("path")])]
    return not all(_matches(_top(node), name) for name in listed)


def _named_in_data(node: Node) -> Iterator[tuple[str, list[Path]]]:
    """The keys of a data node whose values name something that exists, and what."""
    top, listed = _top(node), []
    for number, name in enumerate(node.get("files") or ()):
        if not (paths := _matches(top, name)):
            raise FileNotFoundError(f"data.files names {(top / name).absolute()}, and there is none")
        listed += paths
        yield f"files.{number}", paths
    for key, value in _texts({key: value for key, value in node.items() if key not in ("root", "files", *KEEPING)}):
        paths = _matches(top, value) + ([] if key == "path" else _matches(Path(), value))
        if found := sorted({path.absolute() for path in paths if not listed or _is_meant(path, value, listed)}):
            yield key, found


def _is_meant(path: Path, value: str, listed: list[Path]) -> bool:
    """Whether a value beside a list of files is a path, and not just a word that is a folder's name too."""
    return path.is_file() or ("/" in value and not any(_lies_in(file, path) for file in listed))


def _top(node: Node) -> Path:
    root = node.get("root")
    return Path(root).expanduser() if isinstance(root, str) else Path()


def _inputs(node: Node, named: Mapping[str, list[Path]], memos: Path, *, by: str, afresh: bool) -> Inputs:
    prints = fingerprints.take((path for paths in named.values() for path in paths), memos, by=by, afresh=afresh)
    found = {key: [_counted(path, prints, len(paths)) for path in paths] for key, paths in named.items()}
    return Inputs({"node": _without_places(node, found), "files": found}, prints)


def _counted(path: Path, prints: Mapping[str, str], fitting: int) -> list[str]:
    """A file's fingerprint, with its name where a pattern fits several."""
    return [prints[os.path.abspath(path)], *([path.name] if fitting > 1 else [])]


def _without_places(value: Any, named: Mapping[str, list[list[str]]], key: str = "") -> Any:
    """A node without the wording of what is known by its content."""
    if isinstance(value, dict):
        return {name: _without_places(inner, named, f"{key}.{name}".lstrip(".")) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner, named, f"{key}.{number}") for number, inner in enumerate(value)]
    if key in named and (key.split(".")[0] in PLACES or Path(value).expanduser().is_absolute()):
        return None
    return value


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each text in a node by its dotted key, but for the names of code."""
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
    """What exists at a path, or fits a pattern such as `photos/*.npz`."""
    path = place / Path(value).expanduser()
    try:
        if path.exists():
            return [path]
        return sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(value) else []
    except (OSError, ValueError, RuntimeError):
        return []  # longer than any path


def _lies_in(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
