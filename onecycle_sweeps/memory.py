"""When Python's garbage collector runs in a process of this program.

Importing torch or MLflow makes hundreds of thousands of objects that stay. By default Python looks through them again
and again, and once more when the process ends, which takes a third of the time of a short process.
"""

import atexit
import gc

DEFAULT_THRESHOLD = gc.get_threshold()
# The number of objects between two collections while a process loads libraries, composes, ships or draws.
YOUNG_OBJECTS = 50_000


def collect_seldom() -> None:
    """Collect seldom from here on, and not at the end of the process."""
    gc.set_threshold(YOUNG_OBJECTS)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Collect as often as Python does by default, since unreachable tensors hold memory, but not what exists now."""
    if gc.get_threshold() != DEFAULT_THRESHOLD:
        gc.freeze()
        gc.set_threshold(*DEFAULT_THRESHOLD)
