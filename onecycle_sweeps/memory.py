"""When Python looks for unreachable objects in a process of this program.

Importing torch or MLflow makes hundreds of thousands of objects that stay. By Python's defaults it looks through them
again and again, and once more when the process ends, which takes a third of the time of a short process.
"""

import atexit
import gc

DEFAULT_THRESHOLD = gc.get_threshold()
# How many objects a process makes between two collections while it loads libraries, composes, ships or draws.
YOUNG_OBJECTS = 50_000


def collect_seldom() -> None:
    """Collect seldom from here on, and not at the end of the process."""
    gc.set_threshold(YOUNG_OBJECTS)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Collect as Python does by itself, but never what exists at the first call: unreachable tensors hold memory."""
    if gc.get_threshold() != DEFAULT_THRESHOLD:
        gc.freeze()
        gc.set_threshold(*DEFAULT_THRESHOLD)
