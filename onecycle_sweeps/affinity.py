"""The processors that this process may run on."""

import os


def processors() -> int:
    """How many there are; all of the machine's where the system does not tell, as macOS does not."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
