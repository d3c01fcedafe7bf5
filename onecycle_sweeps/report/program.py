"""How this program is called."""

import re
import shlex
import shutil
import sys
from pathlib import Path

# A name and password within an address.
SECRET = re.compile(r"://\S+@")


def without_secrets(words: str) -> str:
    """A command that can be passed on: names and passwords within addresses are left out."""
    return SECRET.sub("://", words)


def program() -> str:
    """How to call this program from the user's shell: by `python` where the one on the PATH has it."""
    found = shutil.which("python")
    same = found is not None and Path(found).parent == Path(sys.executable).parent
    return f"{'python' if same else shlex.quote(sys.executable)} -m onecycle_sweeps"
