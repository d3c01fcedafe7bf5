"""What a step costs beside the net's own work: the program with all of its logging, a bare loop, and the peers."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import torch

from benchmarks import costs, loops, machine, stores
from benchmarks.costs import Rounds
from benchmarks.loops import Side
from benchmarks.tables import Requirement, Result, Table
from benchmarks.timed_nets import WARM_STEPS
from benchmarks.tracked import Tracked
from benchmarks.work import VALIDATION, Options, Work, works

BARE, OURS = "bare loop", "this program, journal on disk"
CAPTION = """One epoch of {steps} steps, batch {batch}, fp32, one thread, images in memory, SGD with Nesterov under \
a 1cycle schedule, an evaluation of {validation} images at the end, the same first weights and batch order for all. \
A row is one way to train it, in turn with the others in one process, {rounds} rounds after one that is not counted. \
Counted is all from the beginning of step {warm} to the return of the training, with what it writes at its end, for \
each step: wall and CPU time of all threads (medians), the wall time beside the bare loop's of the same round \
(median of ratios), the CPU time above it (median of differences). A row's points were read back after each turn."""


def run(options: Options) -> Result:
    """Both nets, all sides that are installed."""
    torch.set_num_threads(1)
    chosen, left_out = sides(options)
    tables, requirements, rounds = [], [], {}
    for name, work in works(options).items():
        measured = measure(work, chosen, options.rounds)
        rounds[name] = {side: [asdict(cost) for cost in taken] for side, taken in measured.items()}
        tables.append(table(name, work, chosen, measured))
        requirements += bounds(name, measured)
    return Result(tables, requirements, left_out, rounds)


def sides(options: Options) -> tuple[list[Side], list[str]]:
    """The sides whose packages are installed, and why others are left out."""
    tracked = Tracked(options.scratch)
    found = [
        Side(BARE, loops.bare),
        Side(OURS, loops.journalled, stores.OURS),
        Side("this program, then shipped to MLflow (sqlite)", tracked.shipped, stores.OURS),
        Side("bare loop + mlflow.log_metric x 3 (sqlite)", tracked.logged, ("lr", "momentum", "loss")),
    ]
    peers = {
        "fastai": [Side("fastai fit_one_cycle", loops.fastai, ("losses", "lr"))],
        "lightning": [
            Side("Lightning, no logger", loops.lightning),
            Side("Lightning + MLFlowLogger (sqlite) + LearningRateMonitor", tracked.lightning, stores.LIGHTNING),
        ],
    }
    absent = machine.missing(*peers)
    found += [side for package, some in peers.items() if package not in absent for side in some]
    return found, [machine.left_out(side.name, package) for package in absent for side in peers[package]]


def measure(work: Work, chosen: Sequence[Side], rounds: int) -> Rounds:
    """What a step costs each side in each round; raises Incomplete where one lacks a point that it claims."""
    return costs.interleaved({side.name: partial(side.run, work) for side in chosen}, rounds, warm=1)


def table(name: str, work: Work, chosen: Sequence[Side], measured: Rounds) -> Table:
    """One net's table."""
    turns = len(measured[BARE])
    sizes = {"steps": work.steps, "batch": work.batch_size, "rounds": turns, "warm": WARM_STEPS}
    rows = [
        (
            side.name,
            work.steps * len(side.logs),
            1000 * costs.wall(measured, side.name),
            1000 * costs.cpu(measured, side.name),
            costs.ratio(measured, side.name, BARE),
            1000 * costs.added_cpu(measured, side.name, BARE),
        )
        for side in chosen
    ]
    columns = ("way to train", "points logged", "wall ms/step", "CPU ms/step", "wall / bare", "added CPU ms/step")
    return Table(f"A step of {name}", CAPTION.format(validation=VALIDATION, **sizes), columns, rows)


def bounds(name: str, measured: Rounds) -> list[Requirement]:
    """What is required of the program beside the bare loop."""
    most = {"simple_cnn": 1.02, "one layer": 1.25}[name]
    added = 1000 * costs.added_cpu(measured, OURS, BARE)
    return [
        Requirement(f"{name}: wall time of a step beside the bare loop's", costs.ratio(measured, OURS, BARE), most),
        Requirement(f"{name}: CPU ms that are added to a step", added, 0.3),
    ]
