"""What a training step costs beyond the net's own work: the program with all its logging, a bare loop, the peers."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import costs, machine, program
from benchmarks.costs import Cost, Rounds
from benchmarks.page import Requirement, Result, Table
from benchmarks.peers import torch_loop
from benchmarks.program import STEP_METRICS, Stores
from benchmarks.stopwatch import WARM_STEPS, stopwatch
from benchmarks.work import VALIDATION, Options, Points, Side, Work, works
from onecycle_sweeps import journal, tracking, trial

BARE, OURS = "bare loop", "this program, journal on disk"
CAPTION = """One epoch of {steps} steps, batch {batch}, fp32, one thread, images in memory, SGD with Nesterov under a \
1cycle schedule, an evaluation of {validation} images at the end; the same first weights and batch order for all. A \
row is one way to train; all take turns in one process for {rounds} rounds after one that is not counted. Timed is \
everything from the beginning of step {warm} until the training returns, including what it writes at its end, divided \
by the steps: wall and CPU time of all threads (medians), the wall time beside the bare loop's in the same round \
(median of ratios), the CPU time above it (median of differences). The logged points are read back after each turn."""


def run(options: Options) -> Result:
    """A table for each net, with all sides that are installed."""
    torch.set_num_threads(1)
    chosen, left_out = sides(options)
    tables, requirements, rounds = [], [], {}
    for name, work in works(options).items():
        measured = costs.interleaved({side.name: partial(side.run, work) for side in chosen}, options.rounds)
        rounds[name] = measured
        tables.append(table(name, work, chosen, measured))
        requirements += bounds(name, measured)
    return Result(tables, requirements, left_out, rounds)


def sides(options: Options) -> tuple[list[Side], list[str]]:
    """The sides whose packages are installed, and why others are left out."""
    stores = Stores(options.scratch)
    found = [
        Side(BARE, torch_loop.train),
        Side(OURS, train, STEP_METRICS),
        _in_mlflow("this program, then shipped to MLflow (sqlite)", train_with_mlflow, STEP_METRICS, stores),
        _in_mlflow(
            "bare loop + mlflow.log_metric x 3 (sqlite)", torch_loop.train_with_mlflow, torch_loop.LOGGED, stores
        ),
    ]
    left_out = []
    if machine.missing("fastai"):
        left_out.append(machine.left_out("fastai fit_one_cycle", "fastai"))
    else:
        from benchmarks.peers import fastai

        found.append(Side("fastai fit_one_cycle", fastai.train, fastai.LOGGED))
    with_logger = "Lightning + MLFlowLogger (sqlite) + LearningRateMonitor"
    if machine.missing("lightning"):
        left_out += [machine.left_out(name, "lightning") for name in ("Lightning, no logger", with_logger)]
    else:
        from benchmarks.peers import lightning

        found.append(Side("Lightning, no logger", lightning.train))
        found.append(_in_mlflow(with_logger, lightning.train_with_mlflow, lightning.LOGGED, stores))
    return found, left_out


def train(work: Work) -> tuple[Cost, Points]:
    """The program's trial, from its folder to its result."""
    folder = work.folder()
    trial.run(folder)
    cost, record = stopwatch.read(work.steps), journal.read(folder.journal)
    return cost, {name: record.series(name)[0] for name in STEP_METRICS}


def train_with_mlflow(work: Work, store: Path) -> Cost:
    """The program's trial, whose journal the same process ships to MLflow at the end."""
    folder = work.folder()
    made = program.recorded_sweep(work.runs_dir, f"sqlite:///{store}", "benchmark", [work.trial])
    made.folder.joinpath("tracking.json").unlink(missing_ok=True)
    trial.run(folder)
    tracking.ship(made)
    return stopwatch.read(work.steps)


def _in_mlflow(name: str, train: Callable[[Work, Path], Cost], logs: tuple[str, ...], stores: Stores) -> Side:
    """A side that logs to a store of its own, whose one run is read back."""

    def train_and_read(work: Work) -> tuple[Cost, Points]:
        store = stores.fresh()
        cost = train(work, store)
        return cost, next(iter(program.points(store, logs).values()), {})

    return Side(name, train_and_read, logs)


def table(name: str, work: Work, chosen: Sequence[Side], measured: Rounds) -> Table:
    sizes = {"steps": work.steps, "batch": work.batch_size, "rounds": len(measured[BARE]), "warm": WARM_STEPS}
    rows = [
        (
            side.name,
            work.steps * len(side.logs),
            1000 * measured.wall(side.name),
            1000 * measured.cpu(side.name),
            measured.ratio(side.name, BARE),
            1000 * measured.added_cpu(side.name, BARE),
        )
        for side in chosen
    ]
    columns = ("way to train", "points logged", "wall ms/step", "CPU ms/step", "wall / bare", "added CPU ms/step")
    return Table(f"A step of {name}", CAPTION.format(validation=VALIDATION, **sizes), columns, rows)


def bounds(name: str, measured: Rounds) -> list[Requirement]:
    """The requirements on the program beside the bare loop."""
    most = {"simple_cnn": 1.02, "one layer": 1.25}[name]
    added = 1000 * measured.added_cpu(OURS, BARE)
    return [
        Requirement(f"{name}: wall time of a step beside the bare loop's", measured.ratio(OURS, BARE), most),
        Requirement(f"{name}: CPU ms that are added to a step", added, 0.3),
    ]
