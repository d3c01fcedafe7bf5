"""Reading the files of a data set: which files a folder holds, and a progress line for what takes long."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Where a runs_dir keeps the fingerprints of files.
MEMOS = ("data", "fingerprints")
SILENT_SECONDS, TICK_SECONDS = 1.0, 0.2


def walk(root: Path) -> tuple[list[str], list[str]]:
    """The names, relative to `root`, of all folders and of all files below it, each sorted; links are followed.

    Fingerprints and loaders both use this list. Hidden files and the program's own folders of runs are left out.
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
    """Whether a folder or file is one that other programs leave behind: .DS_Store, ._photo.jpg, __MACOSX."""
    return name.startswith((".", "mlflow.db")) or name in ("__MACOSX", "__pycache__")


def _is_runs_dir(path: str) -> bool:
    return os.path.isdir(os.path.join(path, *MEMOS))


def _check_link(path: str) -> None:
    if os.path.islink(path) and f"{os.path.realpath(os.path.dirname(path))}/".startswith(f"{os.path.realpath(path)}/"):
        raise ValueError(f"{path} links to a folder that contains it")


def _refuse(error: OSError) -> None:
    raise error


@contextmanager
def progress(doing: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts what is done.

    After a second a terminal shows `doing: 5,000 of 60,000 unit`; nothing is shown where standard error is no terminal.
    """
    done, shown, due = 0, False, time.monotonic() + SILENT_SECONDS

    def count(more: int) -> None:
        nonlocal done, shown, due
        done += more
        if time.monotonic() >= due and sys.stderr.isatty():
            print(f"\r\033[K{doing}: {done:,} of {total:,} {unit}", end="", file=sys.stderr, flush=True)
            shown, due = True, time.monotonic() + TICK_SECONDS

    try:
        yield count
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
