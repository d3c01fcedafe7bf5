"""What the user reads on a terminal: lines in any encoding, exceptions in one line or with a traceback."""

import codecs
import errno
import os
import re
import shlex
import shutil
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

# Exit statuses: a trial without a result, a mistake in what was typed, Ctrl-C.
FAILURE, MISTAKE, INTERRUPTED = 1, 2, 130
REPLACEMENTS = {"±": "+-", "\N{MINUS SIGN}": "-", "≥": ">=", "…": "~"}
PACKAGE = Path(__file__).resolve().parent
OURS = (PACKAGE, PACKAGE.parent / "hydra_plugins")
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
INSTALLED = ("site-packages", "dist-packages")
# Hydra's grammar takes other characters for its own, or has no place for them.
UNQUOTED = re.compile(r"[\w/.:@%+ -]+", re.ASCII)
SILENT_SECONDS, TICK_SECONDS = 1.0, 0.2


def replace_unencodable() -> None:
    """Let standard output and standard error replace characters that their encoding lacks, instead of failing."""
    codecs.register_error("spelled", _replacement)
    for stream in (sys.stdout, sys.stderr):
        # In a notebook or a test, a stream may be something else.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="spelled")


def redirect_output(path: Path) -> None:
    """Append what this process and its libraries print, and the last words of a crash, to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def say(line: str = "") -> None:
    """Print a line on standard output."""
    print(line, flush=True)


def complain(line: str) -> None:
    """Print a warning or an error on standard error, in one line."""
    print(f"onecycle_sweeps: {line}", file=sys.stderr, flush=True)


def refuse(error: Exception) -> int:
    """Print a mistake of the user's in one line, after its traceback if one is wanted; returns the exit status."""
    if wants_tracebacks():
        print(with_traceback(error), end="", file=sys.stderr)
    complain(str(error))
    return MISTAKE


@contextmanager
def counting(doing: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show the progress line `doing: 5,000 of 60,000 unit`; yields a function that is called with what was done.

    The line appears after a second, and only if standard error is a terminal; at the end it is removed.
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


def first_few(names: Sequence[str], most: int = 5) -> str:
    """The first names in a list for a message, and how many more there are: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def in_one_line(error: BaseException) -> str:
    """The error's type and message, and the innermost line of the user's own code, or of any code if there is none.

    A ValueError of this package and an OSError are shown without their type, unless the user's code raised them.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {error}"
    said = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    if isinstance(error, SystemExit):
        said = f"the code left the process by sys.exit({error.code!r})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({os.path.basename(error.filename)}:{error.lineno})"
    if not own and (isinstance(error, OSError) or (isinstance(error, ValueError) and _is_ours(frames))):
        return " ".join(str(error).split()) or said
    if isinstance(error, ValueError) and _is_ours(frames):
        said = " ".join(str(error).split()) or said
    innermost = (own or frames)[-1:]
    where = "".join(f" ({os.path.basename(f.filename)}:{f.lineno} in {f.name})" for f in innermost)
    return f"{said}{where}"


def with_traceback(error: BaseException) -> str:
    """An error with its traceback and those of its causes."""
    return "".join(traceback.format_exception(error))


def invocation() -> str:
    """How to call this program from the user's shell: by `python` if that is the one on the PATH."""
    found = shutil.which("python")
    same = found is not None and Path(found).parent == Path(sys.executable).parent
    return f"{'python' if same else shlex.quote(sys.executable)} -m onecycle_sweeps"


def typed(key: str, value: str) -> str:
    """An override as it is typed in a shell, with the quotes that the shell and Hydra's grammar need."""
    return shlex.quote(f"{key}={value}" if UNQUOTED.fullmatch(value) else f'{key}="{value}"')


def wants_tracebacks() -> bool:
    """Whether the user wants tracebacks, by the environment variable that Hydra reads."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(REPLACEMENTS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters), error.end


def _is_users(filename: str) -> bool:
    """Whether a source file is the user's: neither this package's, nor Python's, nor an installed library's."""
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    if any(name in path.parts for name in INSTALLED):
        return False
    return not any(path.is_relative_to(Path(folder).resolve()) for folder in (*OURS, *LIBRARIES))


def _is_ours(frames: traceback.StackSummary) -> bool:
    return not frames or Path(frames[-1].filename).resolve().is_relative_to(PACKAGE)
