"""What a range test costs for each iteration: the program's, fastai's, Lightning's and torch-lr-finder's."""

import importlib
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks import costs, machine
from benchmarks.costs import Cost
from benchmarks.page import Result
from benchmarks.program import Incomplete
from benchmarks.stopwatch import stopwatch
from benchmarks.work import SEED, Options, Work, works
from onecycle_sweeps import journal, trial
from onecycle_sweeps.loop import steps
from onecycle_sweeps.range_test import Ramp, until_diverged
from onecycle_sweeps.trial import build

# Neither net diverges below the end, so that no side stops early.
RAMP = Ramp(1e-5, 0.03, 100)
OURS = "this program, with journal and verdict"
PEERS = {
    "fastai": "fastai lr_find",
    "lightning": "Lightning Tuner.lr_find",
    "torch_lr_finder": "torch-lr-finder range_test",
}
CAPTION = """A ramp from {start:g} to {end:g} over {iterations} iterations at batch {batch}, fp32, one thread, images \
in memory; first weights and batches are the same. All take turns in one process for {rounds} rounds after one that \
is not counted. Timed is the whole call, with what it saves, restores and suggests: medians, and medians of ratios \
and differences within a round. Each iteration has left a loss; the row "its steps alone" reaches no verdict and \
writes no file."""
# Prepares a range test: the returned call is timed, and returns the number of recorded losses.
Prepare = Callable[[Work], Callable[[], int]]


def run(options: Options) -> Result:
    """A table for each net, with all range tests that are installed."""
    torch.set_num_threads(1)
    absent = machine.missing(*PEERS)
    tests: dict[str, Prepare] = {OURS: ours, "this program, its steps alone": our_steps}
    tests |= {name: _peer(package) for package, name in PEERS.items() if package not in absent}
    keys = {"start_lr": RAMP.start_lr, "end_lr": RAMP.end_lr, "steps": RAMP.total_steps}
    ramp = [f"range_test.{key}={value}" for key, value in keys.items()]
    tables, rounds = [], {}
    for net, work in works(options, "range_test").items():
        work = replace(work, overrides=(*work.overrides, *ramp), steps=RAMP.total_steps)
        sides = {name: lambda name=name, work=work: cost(name, tests[name], work) for name in tests}
        rounds[net] = taken = costs.interleaved(sides, options.rounds)
        sizes = {"iterations": RAMP.total_steps, "batch": work.batch_size, "rounds": options.rounds}
        caption = CAPTION.format(start=RAMP.start_lr, end=RAMP.end_lr, **sizes)
        whole = {"ms in all": lambda side, taken=taken: 1000 * RAMP.total_steps * taken.wall(side)}
        tables.append(taken.table(f"A range test of {net}", caption, "range test", "ms/iteration", **whole))
    return Result(tables, (), [machine.left_out(PEERS[package], package) for package in absent], rounds)


def cost(name: str, prepare: Prepare, work: Work) -> Cost:
    """The cost of an iteration; raises Incomplete unless each has left a loss."""
    search = prepare(work)
    stopwatch.passes = 0
    start = costs.now()
    recorded = search()
    spent = costs.since(start)
    if recorded != stopwatch.passes:
        raise Incomplete(f"{name} has {recorded} losses of {stopwatch.passes} iterations")
    return spent.per(stopwatch.passes)


def ours(work: Work) -> Callable[[], int]:
    """The program's own trial, from its folder to its verdict."""
    folder = work.folder()

    def search() -> int:
        trial.run(folder)
        return len(journal.read(folder.journal).series(journal.TRAIN_LOSS)[0])

    return search


def our_steps(work: Work) -> Callable[[], int]:
    """The trial's steps, without what it writes and without a verdict."""
    learner = build.make_learner(work.trial.config, {"device": "cpu", "precision": "fp32"}, work.data, SEED)
    return lambda: len([float(step.loss) for step, _ in until_diverged(steps(learner, RAMP))])


def _peer(package: str) -> Prepare:
    return lambda work: importlib.import_module(f"benchmarks.peers.{package}").range_test(work, RAMP)
