"""What a range test costs for each iteration: the program's, fastai's, Lightning's and torch-lr-finder's."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks import costs, machine
from benchmarks.costs import Cost, Rounds
from benchmarks.page import Incomplete, Result, Table
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
in memory, from the same first weights over the same batches. A row is one range test; all take turns in one process \
for {rounds} rounds after one that is not counted. Timed is the whole call, with what it saves, restores and \
suggests, divided by its training passes: wall and CPU time of all threads (medians), the median of the whole call, \
and the wall time beside this program's in the same round (median of ratios). Every side has recorded a loss for each \
of its iterations; the row "its steps alone" reaches no verdict and writes no file."""


@dataclass(frozen=True)
class Finder:
    """A range test: `prepare` makes a call, which is timed and returns the number of recorded losses."""

    name: str
    prepare: Callable[[Work], Callable[[], int]]

    def run(self, work: Work) -> Cost:
        """The cost of an iteration; raises Incomplete unless each has left a loss."""
        search = self.prepare(work)
        stopwatch.reset()
        start = costs.now()
        recorded = search()
        cost = costs.since(start)
        if recorded != stopwatch.passes:
            raise Incomplete(f"{self.name} has {recorded} losses of {stopwatch.passes} iterations")
        return cost.per(stopwatch.passes)


def run(options: Options) -> Result:
    """A table for each net, with all range tests that are installed."""
    torch.set_num_threads(1)
    absent = machine.missing(*PEERS)
    finders = [Finder(OURS, ours), Finder("this program, its steps alone", our_steps)]
    finders += [Finder(name, _peer(package)) for package, name in PEERS.items() if package not in absent]
    left_out = [machine.left_out(PEERS[package], package) for package in absent]
    tables, rounds = [], {}
    for name, work in works(options, "range_test").items():
        ends = (f"range_test.start_lr={RAMP.start_lr}", f"range_test.end_lr={RAMP.end_lr}")
        ramp = (*ends, f"range_test.steps={RAMP.total_steps}")
        work = replace(work, overrides=(*work.overrides, *ramp), steps=RAMP.total_steps)
        sides = {finder.name: lambda finder=finder, work=work: finder.run(work) for finder in finders}
        rounds[name] = costs.interleaved(sides, options.rounds)
        tables.append(table(name, work, rounds[name]))
    return Result(tables, (), left_out, rounds)


def table(name: str, work: Work, measured: Rounds) -> Table:
    sizes = {"start": RAMP.start_lr, "end": RAMP.end_lr, "iterations": RAMP.total_steps, "batch": work.batch_size}
    rows = [
        (
            side,
            1000 * measured.wall(side),
            1000 * measured.cpu(side),
            1000 * RAMP.total_steps * measured.wall(side),
            measured.ratio(side, OURS),
        )
        for side in measured
    ]
    columns = ("range test", "wall ms/iteration", "CPU ms/iteration", "ms in all", "wall / this program")
    caption = CAPTION.format(rounds=len(measured[OURS]), **sizes)
    return Table(f"A range test of {name}", caption, columns, rows)


def ours(work: Work) -> Callable[[], int]:
    """The program's own trial, from its folder to its verdict."""
    folder = work.folder()

    def search() -> int:
        trial.run(folder)
        return len(journal.read(folder.journal).series(journal.TRAIN_LOSS)[0])

    return search


def our_steps(work: Work) -> Callable[[], int]:
    """The trial's steps, without what it writes and without a verdict."""
    data = replace(work.data, batch_size=work.batch_size)
    learner = build.make_learner(work.trial.config, {"device": "cpu", "precision": "fp32"}, data, SEED)
    return lambda: len([float(step.loss) for step, _ in until_diverged(steps(learner, RAMP))])


def _peer(package: str) -> Callable[[Work], Callable[[], int]]:
    return lambda work: importlib.import_module(f"benchmarks.peers.{package}").range_test(work, RAMP)
