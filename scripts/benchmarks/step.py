"""What a training step costs beyond the net's own work: the program with all its logging, a bare loop, the peers."""

from functools import partial

import torch

from benchmarks import costs, machine, program
from benchmarks.costs import Cost
from benchmarks.page import Requirement, Result
from benchmarks.peers import torch_loop
from benchmarks.program import STEP_METRICS, Points
from benchmarks.stopwatch import WARM_STEPS, stopwatch
from benchmarks.work import VALIDATION, Options, Side, Work, works
from onecycle_sweeps import journal, tracking, trial

BARE, OURS = "bare loop", "this program, journal on disk"
MOST = {"simple_cnn": 1.02, "one layer": 1.25}
CAPTION = """One epoch of {steps} steps, batch {batch}, fp32, one thread, images in memory, SGD with Nesterov, 1cycle, \
an evaluation of {validation} images at the end; first weights and batch order are the same. All ways take \
turns in one process for {rounds} rounds after one that is not counted. Timed is everything from step {warm} to the \
end of the training, with what it writes at its end, divided by the steps: medians; the last columns are medians of \
ratios and differences within a round. The logged points are read back after each turn."""


def run(options: Options) -> Result:
    """A table for each net, with all sides that are installed."""
    torch.set_num_threads(1)
    chosen, left_out = sides()
    logs = {side.name: len(side.logs) for side in chosen}
    tables, required, rounds = [], [], {}
    for name, work in works(options).items():
        rounds[name] = taken = costs.interleaved(
            {side.name: partial(side.run, work) for side in chosen}, options.rounds
        )
        sizes = {"steps": work.steps, "batch": work.batch_size, "rounds": options.rounds, "warm": WARM_STEPS}
        caption = CAPTION.format(validation=VALIDATION, **sizes)
        points = {"points logged": lambda side, steps=work.steps: steps * logs[side]}
        tables.append(taken.table(f"A step of {name}", caption, "way to train", "ms/step", **points))
        required += [
            Requirement(f"{name}: wall time of a step beside the bare loop's", taken.ratio(OURS, BARE), MOST[name]),
            Requirement(f"{name}: CPU ms that are added to a step", 1000 * taken.added_cpu(OURS, BARE), 0.3),
        ]
    return Result(tables, required, left_out, rounds)


def sides() -> tuple[list[Side], list[str]]:
    """The sides whose packages are installed, and why others are left out."""
    found, left_out = (
        [
            Side(BARE, torch_loop.train),
            Side(OURS, train, STEP_METRICS),
            Side("this program, then shipped to MLflow (sqlite)", train_with_mlflow, STEP_METRICS),
            Side("bare loop + mlflow.log_metric x 3 (sqlite)", torch_loop.train_with_mlflow, torch_loop.LOGGED),
        ],
        [],
    )
    plain = "fastai fit_one_cycle"
    if machine.missing("fastai"):
        left_out.append(machine.left_out(plain, "fastai"))
    else:
        from benchmarks.peers import fastai

        found.append(Side(plain, fastai.train, fastai.LOGGED))
    plain, with_logger = "Lightning, no logger", "Lightning + MLFlowLogger (sqlite) + LearningRateMonitor"
    if machine.missing("lightning"):
        left_out += [machine.left_out(name, "lightning") for name in (plain, with_logger)]
    else:
        from benchmarks.peers import lightning

        found.append(Side(plain, lightning.train))
        found.append(Side(with_logger, lightning.train_with_mlflow, lightning.LOGGED))
    return found, left_out


def train(work: Work) -> tuple[Cost, Points]:
    """The program's trial, from its folder to its result."""
    folder = work.folder()
    trial.run(folder)
    cost, record = stopwatch.read(work.steps), journal.read(folder.journal)
    return cost, {name: record.series(name)[0] for name in STEP_METRICS}


def train_with_mlflow(work: Work) -> tuple[Cost, Points]:
    """The program's trial, whose journal the same process ships to MLflow at the end."""
    folder, store = work.folder(), program.fresh_store(work.runs_dir)
    made = program.recorded_sweep(work.runs_dir.parent, f"sqlite:///{store}", [work.trial])
    trial.run(folder)
    tracking.ship(made)
    return stopwatch.read(work.steps), program.only_run(store, STEP_METRICS)
