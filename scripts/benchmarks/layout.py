"""One process on all cores, or one process a core: images a second in sum."""

import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from benchmarks.nets import Setting
from benchmarks.tables import Result, Table
from benchmarks.work import Options
from onecycle_sweeps.launching.machine import cores

CAPTION = """Bare training steps at batch {batch} on made-up images (SGD with Nesterov, channels_last), each process \
for {seconds:g} s from a common start. A row is a layout on {cores} cores, in turn with the others, {rounds} rounds; \
processes that have no turn wait, and have taken a step before the first round. Counted are the images a second of all \
processes together (median), and beside one process on all cores in the same round (median of ratios)."""


def run(options: Options) -> Result:
    """A table for each net and number format."""
    count = cores()
    layouts = {f"1 process x {count} threads": (1, count), f"{count} processes x 1 thread": (count, 1)}
    layouts |= {"1 process x 1 thread": (1, 1)}
    whole = next(iter(layouts))
    seconds = 0.5 if options.quick else 2.0
    batch = 16 if options.quick else 128
    tables, raw = [], {}
    for net in ("simple_cnn",) if options.quick else ("simple_cnn", "resnet20"):
        for numbers in ("fp32", "bf16"):
            rounds: dict[str, list[float]] = {name: [] for name in layouts}
            with ExitStack() as waiting:
                crews = {
                    name: waiting.enter_context(crew(processes, [net, numbers, str(batch), str(threads), str(seconds)]))
                    for name, (processes, threads) in layouts.items()
                }
                for _ in range(options.rounds):
                    for name, children in crews.items():
                        rounds[name].append(speed(children))
            rows = [
                (
                    name,
                    statistics.median(speeds),
                    statistics.median(own / one for own, one in zip(speeds, rounds[whole], strict=True)),
                )
                for name, speeds in rounds.items()
            ]
            caption = CAPTION.format(batch=batch, seconds=seconds, cores=count, rounds=options.rounds)
            tables.append(Table(f"{net}, {numbers}", caption, ("layout", "images/s", "beside the first"), rows))
            raw[f"{net}, {numbers}"] = rounds
    return Result(tables, (), (), raw)


Crew = Sequence[subprocess.Popen[str]]


@contextmanager
def crew(processes: int, words: Sequence[str]) -> Iterator[Crew]:
    """So many processes, each of which has taken its first step and waits."""
    command = [sys.executable, "-m", "benchmarks.layout", *words]
    with ExitStack() as running:
        children = [
            running.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(processes)
        ]
        for child in children:
            _line(child.stdout)
        yield children


def speed(children: Crew) -> float:
    """Images a second of all these processes at once, in sum."""
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
    return sum(float(_line(child.stdout)) for child in children)


def _line(output: IO[str] | None) -> str:
    assert output
    if not (line := output.readline()):
        raise RuntimeError(f"a process of {Path(__file__).name} ended early; its message is above")
    return line


def train(net: str, numbers: str, batch: int, threads: int, seconds: float) -> None:
    """Take a step and say so; then at each line that comes in train for so long, and print the images a second."""
    import torch

    from benchmarks import costs
    from benchmarks.nets import stepper

    torch.set_num_threads(threads)
    step = stepper(net, Setting(numbers == "bf16"), batch)
    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start, count = costs.now(), 0
        while costs.since(start).wall < seconds:
            step()
            count += 1
        print(count * batch / costs.since(start).wall, flush=True)


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
