"""What a training step and a range test cost beyond the net's own work: this program, a bare loop and the peers."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks import journals
from benchmarks.page import Requirement, Result, Table
from benchmarks.peers import torch_loop
from benchmarks.timing import WARM_STEPS, Cost, Rounds, stopwatch
from benchmarks.work import SEED, STEP_METRICS, Options, Points, Side, Work, compared, installed, works
from onecycle_sweeps import journal, tracking, trial
from onecycle_sweeps.loop import steps
from onecycle_sweeps.range_test import Ramp, until_diverged
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.trial import build
from onecycle_sweeps.trial_folder import TrialFolder

BARE, OURS = "bare loop", "this program, journal on disk"
MOST = {"simple_cnn": 1.02, "one layer": 1.25}
# Neither net diverges below the end, so that no side stops early.
RAMP = Ramp(1e-5, 0.03, 100)


def step(options: Options) -> Result:
    """Steps of nets on images, of all sides that are installed, timed by the net."""
    sides, left_out = installed(STEP_SIDES)
    rounds = compared(works(options), sides, options)
    required = []
    for net, taken in rounds.items():
        what = f"{net}: wall time of a step beside the bare loop's"
        required.append(Requirement(what, taken.ratio(OURS, BARE), MOST[net]))
        what = f"{net}: CPU ms that are added to a step"
        required.append(Requirement(what, 1000 * taken.added_cpu(OURS, BARE), 0.3))
    return Result(tables_of_steps(works(options), rounds, sides, options), required, left_out, rounds)


def tables_of_steps(
    trained: Mapping[str, Work], rounds: Mapping[str, Rounds], sides: Sequence[Side], options: Options
) -> list[Table]:
    """A table for each work: what a step costs on each side, and how many points it logged."""
    logs, tables = {side.name: len(side.logs) for side in sides}, []
    for name, taken in rounds.items():
        steps, batch = trained[name].steps, trained[name].config["batch_size"]
        caption = f"""{steps} steps at batch {batch} in fp32 on one thread, timed from step {WARM_STEPS} to the end; \
all rows have the same first weights and data. {options.turns}"""
        points = {"points logged": lambda side, steps=steps: steps * logs[side]}
        tables.append(taken.table(f"A step of {name}", caption, "way to train", "ms/step", **points))
    return tables


def train(work: Work) -> tuple[Cost, Points]:
    """The program's trial, from its folder to its result."""
    folder = work.folder()
    trial.run(folder)
    return stopwatch.read(work.steps), logged_steps(folder)


def logged_steps(folder: TrialFolder) -> Points:
    record = journal.read(folder.journal)
    return {name: record.series(name)[0] for name in STEP_METRICS}


def train_with_mlflow(work: Work) -> tuple[Cost, Points]:
    """The program's trial, whose journal the same process ships to MLflow at the end."""
    folder, uri = work.folder(), journals.fresh_store(work.runs_dir)
    made = journals.recorded_sweep(work.runs_dir.parent, uri, [work.trial])
    trial.run(folder)
    tracking.ship(made)
    cost = stopwatch.read(work.steps)
    return cost, journals.logged(uri, ledger.load(made).runs[work.trial.signature].run_id, STEP_METRICS)


def range_test(options: Options) -> Result:
    """A table for each net, with all range tests that are installed."""
    ends = (f"range_test.start_lr={RAMP.start_lr}", f"range_test.end_lr={RAMP.end_lr}")
    ramp = ("task=range_test", *ends, f"range_test.steps={RAMP.total_steps}")
    sides, left_out = installed(RANGE_TESTS)
    rounds = compared(works(options, *ramp), sides, options)
    caption = f"""{RAMP.total_steps} iterations from {RAMP.start_lr:g} to {RAMP.end_lr:g} on one thread, with what the \
whole call saves, restores and suggests; "its steps" does none of it. {options.turns}"""
    tables = [
        taken.table(f"A range test of {net}", caption, "range test", "ms/iteration") for net, taken in rounds.items()
    ]
    return Result(tables, (), left_out, rounds)


def whole_trial(work: Work) -> tuple[Cost, Points]:
    """The program's own trial, from its folder to its result or verdict: what it builds and reads is counted."""
    folder = work.folder()
    cost = stopwatch.whole(partial(trial.run, folder), work.steps)
    return cost, logged_steps(folder)


def find_rate_steps(work: Work) -> tuple[Cost, Points]:
    """The trial's steps, without what it writes and without a verdict."""
    learner = build.make_learner(work.config, {"device": "cpu", "precision": "fp32"}, work.data, SEED)
    losses: list[float] = []
    stream = (float(one.loss) for one, _ in until_diverged(steps(learner, RAMP)))
    return stopwatch.whole(partial(losses.extend, stream), work.steps), {"loss": range(len(losses))}


def _peer(package: str, function: str, *arguments: Ramp) -> Callable[[Work], tuple[Cost, Points]]:
    """A peer's function, whose package is imported when it is called."""
    return lambda work: getattr(importlib.import_module(f"benchmarks.peers.{package}"), function)(work, *arguments)


STEP_SIDES = (
    Side(BARE, torch_loop.train),
    Side(OURS, train, STEP_METRICS),
    Side("this program, then shipped to MLflow (sqlite)", train_with_mlflow, STEP_METRICS),
    Side("bare loop + mlflow.log_metric x 3 (sqlite)", torch_loop.train_with_mlflow, torch_loop.LOGGED),
    Side("fastai fit_one_cycle", _peer("fastai", "train"), ("losses", "lr"), "fastai"),
    Side("Lightning, no logger", _peer("lightning", "train"), (), "lightning"),
    Side(
        "Lightning + MLFlowLogger (sqlite) + LearningRateMonitor",
        _peer("lightning", "train_with_mlflow"),
        ("lr-SGD", "lr-SGD-momentum", "train_loss"),
        "lightning",
    ),
)
RANGE_TESTS = (
    Side("this program, with journal and verdict", whole_trial, STEP_METRICS),
    Side("this program, its steps", find_rate_steps, ("loss",)),
    Side("fastai lr_find", _peer("fastai", "range_test", RAMP), ("loss",), "fastai"),
    Side("Lightning Tuner.lr_find", _peer("lightning", "range_test", RAMP), ("loss",), "lightning"),
    Side("torch-lr-finder", _peer("torch_lr_finder", "range_test", RAMP), ("loss",), "torch_lr_finder"),
)
