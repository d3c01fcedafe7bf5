"""An exception in one line for the user: what went wrong, and the line of code to look at."""

import errno
import os
import sysconfig
import traceback
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
OURS = (PACKAGE, PACKAGE.parent / "hydra_plugins")
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
INSTALLED = ("site-packages", "dist-packages")


def in_a_line(error: BaseException) -> str:
    """The error's type and message, and the innermost line of the user's own code, or else of any code.

    A refusal of this package's own and a file that cannot be used are told by their message alone, unless it was the
    user's code that met them.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {error}"
    said = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    if isinstance(error, SystemExit):
        said = f"the code left the process by sys.exit({error.code!r})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_users(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({os.path.basename(error.filename)}:{error.lineno})"
    if not own and (isinstance(error, OSError) or (isinstance(error, ValueError) and _is_ours(frames))):
        return " ".join(str(error).split()) or said
    place = (own or frames)[-1:]
    where = "".join(f" ({os.path.basename(f.filename)}:{f.lineno} in {f.name})" for f in place)
    return f"{said}{where}"


def in_full(error: BaseException) -> str:
    """The traceback of an error, with those of its causes."""
    return "".join(traceback.format_exception(error))


def wanted_in_full() -> bool:
    """Whether the user wants tracebacks beside the lines, as Hydra is asked for them."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def is_users(filename: str) -> bool:
    """Whether a file of code is the user's: neither this package's, nor Python's, nor an installed library's."""
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    if any(name in path.parts for name in INSTALLED):
        return False
    return not any(path.is_relative_to(Path(folder).resolve()) for folder in (*OURS, *LIBRARIES))


def _is_ours(frames: traceback.StackSummary) -> bool:
    return not frames or Path(frames[-1].filename).resolve().is_relative_to(PACKAGE)
