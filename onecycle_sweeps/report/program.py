"""How this program is called."""

import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """How to call this program from the user's shell: by `python` where the one on the PATH has it."""
    found = shutil.which("python")
    same = found is not None and Path(found).parent == Path(sys.executable).parent
    return f"{'python' if same else shlex.quote(sys.executable)} -m onecycle_sweeps"
