"""Lets every text be printed, whatever characters the terminal or the locale knows."""

import codecs
import sys
from io import TextIOWrapper

SPELLED = {"±": "+-"}


def print_anything() -> None:
    """Spell out from now on what standard output and standard error cannot show."""
    codecs.register_error("spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        # In a notebook or a test it may be something else.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="spelled")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """What to print in place of characters that cannot be encoded: their spelling, or their code."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters), error.end
