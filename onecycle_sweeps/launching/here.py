"""Trials in this process, one after the other: what a command without -m does."""

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from onecycle_sweeps.launching.queue import Event, Queue
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import RUNNING

TICK_SECONDS = 0.25


def run(sweep: Sweep, trials: Sequence[Entry]) -> Generator[Event]:
    """Execute the trials in a thread beside this one, which stays free for what happens meanwhile.

    Leaving the iteration asks the trial at work to save and leave.
    """
    from onecycle_sweeps.launching.job import execute
    from onecycle_sweeps.trial.build import keep_freed_memory

    # Before the thread has begun, so that it shares the memory of this one.
    keep_freed_memory()
    queue = Queue(sweep, trials)
    stopping = threading.Event()
    while queue.waiting:
        yield from queue.orphans()
        if not (entry := queue.next()):
            stopping.wait(TICK_SECONDS)
            continue
        yield Event(entry, RUNNING)
        with ThreadPoolExecutor(max_workers=1) as pool:
            outcome = pool.submit(execute, sweep.trial(entry.signature), stopping.is_set)
            try:
                while wait([outcome], TICK_SECONDS).not_done:
                    yield Event()
            except BaseException:
                stopping.set()
                raise
        if event := queue.take(entry, outcome.result().status, outcome.result().cause):
            yield event
