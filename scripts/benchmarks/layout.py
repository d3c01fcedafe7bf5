"""One process on all cores, or one process a core: images a second in sum."""

import multiprocessing
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

from benchmarks import costs
from benchmarks.page import Result, Table
from benchmarks.work import Options
from onecycle_sweeps.machine import cores

CAPTION = """Bare training steps at batch {batch} on random images (SGD with Nesterov, channels_last), each process \
for {seconds:g} s from a common start. A row is a layout on {cores} cores; they take turns for {rounds} rounds, and \
the processes of the others wait. Each process has taken a step before the first round. Counted are the images a \
second of all processes together (median), and their ratio to one process on all cores in the same round (median of \
ratios)."""


def run(options: Options) -> Result:
    """A table for each net and number format."""
    count = cores()
    layouts = {f"1 process x {count} threads": (1, count), f"{count} processes x 1 thread": (count, 1)}
    layouts |= {"1 process x 1 thread": (1, 1)}
    seconds, batch = (0.5, 16) if options.quick else (2.0, 128)
    caption = CAPTION.format(batch=batch, seconds=seconds, cores=count, rounds=options.rounds)
    tables, raw = [], {}
    for net in ("simple_cnn",) if options.quick else ("simple_cnn", "resnet20"):
        for numbers in ("fp32", "bf16"):
            rounds: dict[str, list[float]] = {name: [] for name in layouts}
            with ExitStack() as stack:
                groups = {
                    name: stack.enter_context(group(processes, net, numbers, batch, threads, seconds))
                    for name, (processes, threads) in layouts.items()
                }
                for _ in range(options.rounds):
                    for name, connections in groups.items():
                        rounds[name].append(speed(connections))
            first = rounds[next(iter(layouts))]
            rows = [
                (name, statistics.median(speeds), statistics.median(a / b for a, b in zip(speeds, first, strict=True)))
                for name, speeds in rounds.items()
            ]
            tables.append(Table(f"{net}, {numbers}", caption, ("layout", "images/s", "beside the first"), rows))
            raw[f"{net}, {numbers}"] = rounds
    return Result(tables, (), (), raw)


@contextmanager
def group(processes: int, *arguments: object) -> Iterator[Sequence[Connection]]:
    """Connections to as many processes, each of which has taken its first step and waits."""
    spawn, children, connections = multiprocessing.get_context("spawn"), [], []
    try:
        for _ in range(processes):
            ours, theirs = spawn.Pipe()
            children.append(spawn.Process(target=train, args=(theirs, *arguments), daemon=True))
            children[-1].start()
            theirs.close()
            connections.append(ours)
        for connection in connections:
            connection.recv()
        yield connections
    finally:
        for child in children:
            child.terminate()
            child.join()


def speed(connections: Sequence[Connection]) -> float:
    """Images a second of all these processes at once, in sum."""
    for connection in connections:
        connection.send("go")
    return sum(connection.recv() for connection in connections)


def train(connection: Connection, net: str, numbers: str, batch: int, threads: int, seconds: float) -> None:
    """Take a step; then train for some seconds after each message, and answer with the images a second."""
    import torch

    from benchmarks.precision import Setting, stepper

    torch.set_num_threads(threads)
    step = stepper(net, Setting(numbers == "bf16"), batch)
    step()
    connection.send("ready")
    while connection.recv():
        start, count = costs.now(), 0
        while costs.since(start).wall < seconds:
            step()
            count += 1
        connection.send(count * batch / costs.since(start).wall)
