"""The files of a data set that is a folder, listed alike for its fingerprint and for its loader."""

import os
from pathlib import Path

# Where a runs_dir keeps what it knows of files.
MEMOS = ("data", "fingerprints")


def walk(root: Path) -> tuple[list[str], list[str]]:
    """The names, relative to `root`, of all folders and of all files below it, each sorted; links are followed.

    What is hidden is left out, and what this program writes.
    Raises OSError for a folder that cannot be read, ValueError for a link in a circle.
    """
    folders: list[str] = []
    files: list[str] = []
    for place, below, names in os.walk(root, followlinks=True, onerror=_refuse):
        below[:] = [name for name in below if not hidden(name) and not _is_runs_dir(os.path.join(place, name))]
        for name in below:
            _check_link(os.path.join(place, name))
        start = "" if (start := os.path.relpath(place, root)) == "." else f"{start}/"
        folders += [start + name for name in below]
        files += [start + name for name in names if not hidden(name)]
    return sorted(folders), sorted(files)


def hidden(name: str) -> bool:
    """Whether a folder or file is one that programs leave beside the user's: .DS_Store, ._photo.jpg, __MACOSX."""
    return name.startswith((".", "mlflow.db")) or name in ("__MACOSX", "__pycache__")


def _is_runs_dir(path: str) -> bool:
    return os.path.isdir(os.path.join(path, *MEMOS))


def _check_link(path: str) -> None:
    if os.path.islink(path) and f"{os.path.realpath(os.path.dirname(path))}/".startswith(f"{os.path.realpath(path)}/"):
        raise ValueError(f"{path} links to a folder that it lies in")


def _refuse(error: OSError) -> None:
    raise error
