"""The files of a data set that is a folder, listed alike for its fingerprint and for its loader."""

import os
from pathlib import Path


def walk(root: Path) -> tuple[list[str], list[str]]:
    """The names, relative to `root`, of all folders and of all files below it, each sorted; links are followed.

    What is hidden is left out. Raises OSError for a folder that cannot be read, ValueError for a link in a circle.
    """
    folders: list[str] = []
    files: list[str] = []
    for place, below, names in os.walk(root, followlinks=True, onerror=_refuse):
        below[:] = [name for name in below if not hidden(name)]
        for name in below:
            _check_link(os.path.join(place, name))
        start = "" if (start := os.path.relpath(place, root)) == "." else f"{start}/"
        folders += [start + name for name in below]
        files += [start + name for name in names if not hidden(name)]
    return sorted(folders), sorted(files)


def hidden(name: str) -> bool:
    """Whether a folder or file is one that systems leave beside the user's: .DS_Store, ._photo.jpg, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def _check_link(path: str) -> None:
    if os.path.islink(path) and f"{os.path.realpath(os.path.dirname(path))}/".startswith(f"{os.path.realpath(path)}/"):
        raise ValueError(f"{path} links to a folder that it lies in")


def _refuse(error: OSError) -> None:
    raise error
