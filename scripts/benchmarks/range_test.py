"""What a range test costs for each iteration: the program's, fastai's, Lightning's and torch-lr-finder's."""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from benchmarks import costs, loops, machine
from benchmarks.costs import Cost
from benchmarks.loops import Incomplete
from benchmarks.tables import Result, Table
from benchmarks.timed_nets import stopwatch
from benchmarks.work import SEED, Options, Work, works
from onecycle_sweeps import journal, trial
from onecycle_sweeps.range_test import Ramp, until_diverged
from onecycle_sweeps.training import steps
from onecycle_sweeps.trial import resolve

# Below where either net diverges, so that none of them stops early.
START, END, ITERATIONS = 1e-5, 0.03, 100
OURS = "this program, with journal and verdict"
CAPTION = """A ramp from {start:g} to {end:g} over {iterations} iterations at batch {batch}, fp32, one thread, \
images in memory, from the same first weights over the same batches. A row is one range test, in turn with the \
others in one process, {rounds} rounds after one that is not counted. Counted is the whole call, with what it saves, \
restores and suggests, divided by the training passes that it made: wall and CPU time of all threads (medians), the \
median of the whole call, and the wall time beside this program's of the same round (median of ratios). Every side \
had recorded a rate and a loss for each of its iterations; this program's steps alone end in no verdict, and no file."""


@dataclass(frozen=True)
class Finder:
    """A range test: what it does with a work, made ready before it is timed; it returns how many losses it has."""

    name: str
    prepared: Callable[[Work], Callable[[], int]]

    def run(self, work: Work) -> Cost:
        """What an iteration costs; raises Incomplete unless each has left a loss."""
        search = self.prepared(work)
        stopwatch.reset()
        start = costs.now()
        recorded = search()
        cost = costs.since(start)
        if recorded != stopwatch.passes:
            raise Incomplete(f"{self.name} has {recorded} losses of {stopwatch.passes} iterations")
        return cost.per(stopwatch.passes)


def run(options: Options) -> Result:
    """Both nets, all range tests that are installed."""
    torch.set_num_threads(1)
    chosen, left_out = finders()
    tables, rounds = [], {}
    for name, work in works(options, "range_test").items():
        ramp = (f"range_test.start_lr={START}", f"range_test.end_lr={END}", f"range_test.steps={ITERATIONS}")
        work = replace(work, overrides=(*work.overrides, *ramp), steps=ITERATIONS)
        sides = {finder.name: lambda finder=finder, work=work: finder.run(work) for finder in chosen}
        measured = costs.interleaved(sides, options.rounds, warm=1)
        rounds[name] = {side: [asdict(cost) for cost in taken] for side, taken in measured.items()}
        tables.append(table(name, work, options.rounds, measured))
    return Result(tables, (), left_out, rounds)


def table(name: str, work: Work, rounds: int, measured: costs.Rounds) -> Table:
    """One net's table."""
    sizes = {"start": START, "end": END, "iterations": ITERATIONS, "batch": work.batch_size, "rounds": rounds}
    rows = [
        (
            side,
            1000 * costs.wall(measured, side),
            1000 * costs.cpu(measured, side),
            1000 * ITERATIONS * costs.wall(measured, side),
            costs.ratio(measured, side, OURS),
        )
        for side in measured
    ]
    columns = ("range test", "wall ms/iteration", "CPU ms/iteration", "ms in all", "wall / this program")
    return Table(f"A range test of {name}", CAPTION.format(**sizes), columns, rows)


def finders() -> tuple[Sequence[Finder], list[str]]:
    """The range tests that are installed, and why others are left out."""
    peers = {
        "fastai": Finder("fastai lr_find", fastai),
        "lightning": Finder("Lightning Tuner.lr_find", lightning),
        "torch_lr_finder": Finder("torch-lr-finder range_test", torch_lr_finder),
    }
    absent = machine.missing(*peers)
    found = [
        Finder(OURS, ours),
        Finder("this program, its steps alone", our_steps),
        *(finder for package, finder in peers.items() if package not in absent),
    ]
    return found, [machine.left_out(peers[package].name, package) for package in absent]


def ours(work: Work) -> Callable[[], int]:
    """The program's own trial of the task, from its folder to its verdict."""
    folder = work.folder()

    def search() -> int:
        trial.run(folder)
        return len(journal.read(folder.journal).series(journal.TRAIN_LOSS)[0])

    return search


def our_steps(work: Work) -> Callable[[], int]:
    """The trial's own steps, without what it records and reads from them."""
    student = resolve.learner(work.trial.config, {"device": "cpu", "precision": "fp32"}, work.data, SEED)
    ramp = Ramp(START, END, ITERATIONS)
    return lambda: len([float(step.loss) for step, _ in until_diverged(steps(student, ramp))])


def fastai(work: Work) -> Callable[[], int]:
    """fastai's, without its plot."""
    from benchmarks import fastai_learner

    learner = fastai_learner.learner(work)

    def search() -> int:
        with learner.no_bar():
            learner.lr_find(START, END, ITERATIONS, show_plot=False)
        return len(learner.recorder.losses)

    return search


def lightning(work: Work) -> Callable[[], int]:
    """Lightning's, which saves the trainer's state and restores it."""
    from lightning.pytorch.tuner.tuning import Tuner

    from benchmarks import lightning_net

    net, trainer, loader = lightning_net.Net(work), lightning_net.trainer(work), loops.loader(work)
    trainer.fit_loop.max_epochs = None

    def search() -> int:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            found = Tuner(trainer).lr_find(net, loader, min_lr=START, max_lr=END, num_training=ITERATIONS)
        return len(found.results["loss"]) if found else 0

    return search


def torch_lr_finder(work: Work) -> Callable[[], int]:
    """torch-lr-finder's, and the reset of the net that its page asks for."""
    import torch_lr_finder as package  # pyright: ignore[reportMissingImports]

    net, loader = work.net(), loops.loader(work)
    optimizer = SGD(net.parameters(), lr=START, **loops.SGD_SETTINGS)

    def search() -> int:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            finder = package.LRFinder(net, optimizer, cross_entropy, device="cpu")
            finder.range_test(loader, end_lr=END, num_iter=ITERATIONS)  # pyright: ignore[reportArgumentType]
            finder.reset()
        return len(finder.history["loss"])

    return search
