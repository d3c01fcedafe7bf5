"""What the C library does with memory that tensors give back."""

import ctypes
import sys

# mallopt's parameters, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
NEVER = -1


def keep_freed_memory() -> None:
    """Keep what tensors give back for the next ones, in this thread and those that it starts; only glibc is asked.

    By default it returns large blocks to the system, and each step of a training takes the same pages anew, cleared:
    up to a fifth of the step of a small net on a CPU. A thread that has begun with memory of its own does not keep it.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER)):
        mallopt(parameter, value)
