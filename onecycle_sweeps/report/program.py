"""Commands that a user can copy: how to call this program, and the command of a sweep."""

import re
import shlex
import shutil
import sys
from pathlib import Path

from onecycle_sweeps.sweep import Sweep

# A name and password within an address.
SECRET = re.compile(r"://\S+@")


def without_secrets(words: str) -> str:
    """A command that can be passed on, without the names and passwords within addresses."""
    return SECRET.sub("://", words)


def program() -> str:
    """How to call this program from the user's shell: by `python` if the one on the PATH has it."""
    found = shutil.which("python")
    same = found is not None and Path(found).parent == Path(sys.executable).parent
    return f"{'python' if same else shlex.quote(sys.executable)} -m onecycle_sweeps"


def command_of(sweep: Sweep) -> str:
    """The sweep's command as typed in a shell."""
    return without_secrets(f"python -m onecycle_sweeps {shlex.join(sweep.command)}".strip())
