"""A queue on this machine: persistent worker processes that take trials as their range tests are done."""

import json
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from queue import Empty

from onecycle_sweeps.launching import fork_server, machine
from onecycle_sweeps.launching.fork_server import THREAD_VARIABLES, ForkServer
from onecycle_sweeps.launching.queue import Event, Queue
from onecycle_sweeps.launching.worker import LEFT, READY, Heard, Worker
from onecycle_sweeps.launching.worker import WorkerLost as WorkerLost
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import RUNNING, STOPPED

TICK_SECONDS = 0.5
LEAVE_SECONDS = 60.0


class Crew:
    """The worker processes of a command, which stay until they are asked to leave, and the server that forks them."""

    def __init__(self, server: ForkServer = fork_server.of_this_process) -> None:
        self.workers: list[Worker] = []
        self.heard = Heard()
        self._server = server

    def grow(self, sweep: Sweep, places: Sequence[dict[str, str]]) -> None:
        """Start a worker for each place that has none."""
        for i, place in list(enumerate(places))[len(self.workers) :]:
            self.workers.append(Worker(place, sweep.folder / f"worker-{i}.log", self.heard, self._server))

    def leave(self) -> None:
        """Ask the workers to save and leave, and see them off; a second Ctrl-C kills them.

        A worker without a trial has nothing to save, and taking torch down in good order takes seconds.
        """
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.leave()
        deadline = time.monotonic() + LEAVE_SECONDS
        with suppress(KeyboardInterrupt):
            for worker in workers:
                if worker.entry:
                    worker.wait(max(0.0, deadline - time.monotonic()))
        for worker in workers:
            worker.kill()
        self._server.close()


def run(crew: Crew, sweep: Sweep, trials: Sequence[Entry], places: Sequence[dict[str, str]]) -> Generator[Event]:
    """Execute the trials, one worker for each place; yields what happens, and at least twice a second.

    The crew stays for the next trials, but where the iteration is left before its end it is asked to save and leave.
    Raises WorkerLost when a worker cannot even start.
    """
    queue = Queue(sweep, trials)
    try:
        crew.grow(sweep, places)
        while queue.waiting or any(worker.entry for worker in crew.workers):
            yield from queue.orphans()
            for worker in crew.workers:
                if worker.is_free() and (entry := queue.next()):
                    if worker.give(entry, sweep.trial(entry.signature)):
                        yield Event(entry, RUNNING)
                    else:
                        queue.take(entry, STOPPED, None)
            with suppress(Empty):
                if event := _hear(queue, *crew.heard.get(timeout=TICK_SECONDS)):
                    yield event
            yield Event()
    except BaseException:
        crew.leave()
        raise


def _hear(queue: Queue, worker: Worker, line: str) -> Event | None:
    """Take a worker's line in; a worker that died costs its own trial, and another takes its place."""
    entry = worker.entry
    if not line:
        cause = worker.last_words()
        if not worker.ready:
            raise WorkerLost(f"{cause} before it could begin; its output is in {worker.log}")
        left = worker.status == LEFT
        worker.start()
        if not entry:
            return None
        return queue.take(entry, STOPPED, cause) if left else queue.fail(entry, cause)
    if not worker.ready:
        worker.ready = line == f"{READY}\n"
        return None
    worker.entry = None
    return queue.take(entry, **json.loads(line)) if entry else None


def places(
    device: str,
    threads: int,
    workers: int | None,
    jobs_per_gpu: int,
    trials: int,
    server: ForkServer = fork_server.of_this_process,
) -> list[dict[str, str]]:
    """The environment of each worker: one per GPU x jobs_per_gpu, or on a CPU as many as the cores carry.

    `workers` overrides the number. No more places are made than there are trials.
    """
    if not trials:
        return []
    shared = dict.fromkeys(THREAD_VARIABLES, str(threads))
    gpus = machine.gpus(server.gpus) if device in ("auto", "cuda") else []
    if gpus:
        slots = gpus * jobs_per_gpu
    else:
        slots = [{}] * (jobs_per_gpu if device.startswith("cuda") else max(1, machine.cores() // threads))
    count = workers or len(slots)
    return [shared | slots[i % len(slots)] for i in range(min(count, trials))]
