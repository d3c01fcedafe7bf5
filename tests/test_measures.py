"""A measure names its metrics, compares values by its goal and writes them; a trial has any number of measures."""

import base64
import csv
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hand_made
import real_trials
import recorded
from onecycle_sweeps import journal, report, tracking, trial
from onecycle_sweeps.files import Damaged
from onecycle_sweeps.measures import ACCURACY, LOSS, MINUS, Measure, as_records, of_trial
from onecycle_sweeps.objectives.classification import Classification
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.groups import score
from onecycle_sweeps.report.tables import contents
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.tracking import ui
from onecycle_sweeps.trial import build
from onecycle_sweeps.trial_folder import DIVERGED, LOST, WAITING, TrialFolder

RMSE = Measure("rmse", "min")


def test_metric_names_are_composed_of_the_measures_name():
    assert ACCURACY.val == "val/accuracy"
    assert ACCURACY.train == "train/accuracy"
    assert ACCURACY.final_val == "final/val_accuracy"
    assert ACCURACY.best_val == "best/val_accuracy"
    assert RMSE.final_test == "final/test_rmse"


def test_the_goal_decides_which_value_is_better():
    assert ACCURACY.better(0.9, 0.8) and not ACCURACY.better(0.8, 0.8)
    assert RMSE.better(0.8, 0.9) and not RMSE.better(0.9, 0.8)
    assert ACCURACY.best([0.1, 0.3, 0.2]) == 0.3
    assert RMSE.best([0.1, 0.3, 0.2]) == 0.1


def test_a_value_reaches_a_target_that_it_equals():
    assert ACCURACY.reaches(0.9, 0.9) and not ACCURACY.reaches(0.89, 0.9)
    assert RMSE.reaches(0.9, 0.9) and not RMSE.reaches(0.91, 0.9)
    assert not ACCURACY.reaches(math.nan, 0.9) and not RMSE.reaches(math.nan, 0.9)


@pytest.mark.parametrize(
    ("mean", "deviation", "written"),
    [
        (20594.3, 691.4, ("20594", "691")),
        (58.5283, 0.8888, ("58.53", "0.89")),
        (0.325712, 0.020563, ("0.326", "0.021")),
        (-0.04, 0.5, (f"{MINUS}0.04", "0.50")),
        (3.0, 1e-9, ("3.00000", "0.00000")),
        (12.345678, 0.0, ("12.35", "0")),
        (3.2e12, 5e9, ("3.2e+12", "5e+09")),
        (1.0, math.inf, ("1", "inf")),
    ],
)
def test_a_mean_is_as_fine_as_two_digits_of_its_deviation(mean: float, deviation: float, written: tuple[str, str]):
    assert RMSE.with_deviation(mean, deviation) == written


def test_prices_are_written_in_whole_numbers_and_fractions_in_per_cent():
    assert [RMSE.number(value) for value in (20594.3, -250000.0, 9999.4, 0.012346)] == [
        *("20594", f"{MINUS}250000", "9999", "0.01235"),
    ]
    assert ACCURACY.with_deviation(0.92, 0.005) == ("92.00", "0.50")


@pytest.mark.parametrize(
    ("measure", "worst"),
    [(ACCURACY, 0.0), (Measure("error", "min", True), 1.0), (LOSS, math.inf), (Measure("r2", "max"), -math.inf)],
)
def test_the_worst_value_is_that_of_the_measures_range(measure: Measure, worst: float):
    assert measure.worst == worst


def test_fractions_are_written_in_per_cent():
    assert ACCURACY.text(0.90049) == "90.05 %"
    assert ACCURACY.label == "accuracy (%)"
    assert RMSE.text(12.34567) == "12.35"


def test_a_trial_whose_record_names_no_measure_is_compared_by_accuracy():
    assert of_trial(None) == of_trial({"max_lr": 0.1}) == (ACCURACY,)
    assert of_trial({"measures": as_records([RMSE, ACCURACY])}) == (RMSE, ACCURACY)


@pytest.mark.parametrize(
    ("measures", "named"),
    [
        ([{"name": "rmse", "goal": "lowest"}], "lowest"),
        ([{"name": "a/b", "goal": "min"}], "a/b"),
        ([{"goal": "min"}], "name"),
        ([], "empty"),
        (3, "measures"),
    ],
)
def test_a_damaged_list_of_measures_makes_the_record_damaged(tmp_path: Path, measures: object, named: str):
    folder = TrialFolder(tmp_path / "a")
    hand_made.training(folder, accuracy={4: 0.9}, resolved={"measures": measures})
    with pytest.raises(Damaged, match=named):
        folder.resolved()
    state = folder.state()
    assert state.status == LOST and state.is_unreadable and str(folder.path / "resolved.json") in (state.cause or "")
    assert folder.headline() == ACCURACY


@pytest.mark.parametrize("measures", [(RMSE, ACCURACY, RMSE), (Measure("loss", "max"),)])
def test_measures_of_one_name_are_refused(measures: tuple[Measure, ...]):
    with pytest.raises(ValueError, match="different names"):
        as_records(measures)


def test_groups_are_ranked_where_a_diverged_seed_has_no_value():
    def group(policy: str, *finals: float | None) -> list[Outcome]:
        """The seeds of a policy by their RMSE; None has diverged."""
        resolved = {"measures": as_records([RMSE])}
        made = [hand_made.made_up(policy, seed, 0.0) for seed in range(len(finals))]
        return [
            replace(one, resolved=resolved, result={"metrics": {RMSE.final_val: final}})
            if final is not None
            else replace(one, resolved=resolved, status=DIVERGED, result={"metrics": {}})
            for one, final in zip(made, finals, strict=True)
        ]

    waiting = [replace(one, status=WAITING) for one in group("f", 0.0)]
    ranked = [group("a", 2.0, 3.0), group("b", 3.0, 3.0), group("c", 1.0, None), group("d", None, None), waiting]
    scores = [score(members) for members in ranked]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)


BRIER = Measure("brier", "min")
TESTED = ("data.val_fraction=0.2",)


@dataclass(frozen=True)
class WithBrierScore(Classification):
    """Classification that is measured by the squared error of its probabilities too."""

    measures: tuple[Measure, ...] = (BRIER, ACCURACY)

    def training(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor | int]]:
        loss, sums = super().training(outputs, targets)
        return loss, sums | squared_error(outputs.detach(), targets)

    def evaluation(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor | int]:
        return super().evaluation(outputs, targets) | squared_error(outputs, targets)

    def values(self, totals: Mapping[str, Any]) -> dict[str, float]:
        return super().values(totals) | {"brier": totals["squared"] / totals["count"]}


def squared_error(outputs: Tensor, targets: Tensor) -> dict[str, Tensor | int]:
    wanted = torch.nn.functional.one_hot(targets, outputs.shape[1])
    return {"squared": (outputs.softmax(1) - wanted).square().sum()}


def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *measures: Measure) -> Sweep:
    """A sweep of two policies and two seeds whose objective has these measures."""
    monkeypatch.setattr(build, "make_objective", lambda *_: WithBrierScore(measures=measures))
    entries: list[Entry] = []
    for policy in ("constant", "onecycle"):
        for seed in range(2):
            folder = real_trials.made(
                tmp_path / "runs", *real_trials.SHORT, *TESTED, f"policy={policy}", f"seed={seed}"
            )
            trial.run(folder)
            entries.append(Entry(folder.signature, TRAIN, {"policy": policy, "seed": str(seed)}))
    return recorded.sweep(tmp_path, *entries)


@pytest.mark.slow
def test_every_measure_of_a_trial_reaches_its_result_the_report_and_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = trained(tmp_path, monkeypatch, BRIER, ACCURACY)
    result = made.trial(made.trials[0].signature).result()
    assert result and {*result["metrics"]} >= {
        *(measure.final_val for measure in (BRIER, ACCURACY)),
        *(measure.best_val for measure in (BRIER, ACCURACY)),
        *(measure.final_test for measure in (BRIER, ACCURACY)),
    }
    assert result["metrics"][BRIER.best_val] <= result["metrics"][BRIER.final_val]

    comparison = report.compare(made)
    means = [row.metrics[BRIER.final_val].mean for row in comparison.rows]
    assert means == sorted(means) and comparison.claims.measure == BRIER.final_test
    headers = [header.replace("\n", " ") for header in contents(comparison)[0]]
    assert headers[3:7] == ["final val brier", "best val brier", "final val accuracy (%)", "final val loss"]
    assert headers[7:9] == ["test brier", "test accuracy (%)"]

    files = {path.name: path for path in report.write(comparison)}
    assert {"val_brier.png", "val_accuracy.png", "val_loss.png"} < {*files}
    page = files["report.html"].read_text()
    assert all(page.count(f'"Validation {name} against steps"') == 1 for name in ("brier", "accuracy", "loss"))
    evaluations = next(csv.DictReader(files["evaluations.csv"].read_text().splitlines()))
    assert all(float(evaluations[name]) >= 0 for name in ("val/loss", "val/brier", "val/accuracy"))
    columns = next(csv.reader(files["trials.csv"].read_text().splitlines()))
    assert {"final/val_brier", "best/val_brier", "final/val_accuracy", "final/val_loss"} < {*columns}

    assert not tracking.ship(made)
    stored = next(run["latest_metrics"] for name, run in recorded.runs(made).items() if name.startswith("constant"))
    assert {"final/val_brier", "final/val_accuracy", "val/brier", "val/accuracy", "val/loss", "train/brier"} < {*stored}
    assert {"val/brier", "final/val_brier", "val/accuracy"} < charts(made)


@pytest.mark.slow
def test_the_loss_as_headline_appears_once_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = trained(tmp_path, monkeypatch, LOSS, BRIER)
    folder = made.trial(made.trials[0].signature)
    steps, _ = real_trials.series(folder, LOSS.train)
    assert steps == list(range(len(real_trials.series(folder, journal.LR)[0])))
    assert "val/accuracy" not in real_trials.names(folder)

    comparison = report.compare(made)
    headers = [header.replace("\n", " ") for header in contents(comparison)[0]]
    assert headers[3:6] == ["final val loss", "best val loss", "final val brier"]
    assert headers.count("final val loss") == 1
    files = {path.name: path for path in report.write(comparison)}
    for name in ("evaluations.csv", "trials.csv"):
        columns = next(csv.reader(files[name].read_text().splitlines()))
        assert len(columns) == len(set(columns))
    assert files["report.html"].read_text().count('"Validation loss against steps"') == 1
    tracking.ship(made)
    assert {"val/loss", "train/loss", "val/brier", "final/val_loss"} < charts(made)


def test_the_view_has_the_measures_once_a_trial_has_begun(tmp_path: Path):
    made = recorded.sweep(tmp_path, recorded.training("a"))
    tracking.ship(made)
    assert {"val/loss", "train/loss"} <= charts(made) and not any("accuracy" in key for key in charts(made))
    recorded.attempt(made.trial("a"), 0, 5)
    made.trial("a").write("resolved", {"max_lr": 0.8, "total_steps": 100, "measures": as_records([RMSE])})
    tracking.ship(made)
    assert {"val/rmse", "train/rmse", "final/val_rmse", "val/loss"} < charts(made)


def charts(made: Sweep) -> set[str]:
    """The metrics that have a chart in the view of a sweep that was shipped."""
    (view,) = (tag for key, tag in recorded.experiment_tags(made).items() if key.startswith(ui.VIEW_TAG))
    found = json.loads(zlib.decompress(base64.b64decode(view.removeprefix("deflate;"))))["compareRunCharts"]
    keys = [chart["metricKey"] for chart in found]
    assert len(keys) == len(set(keys))
    return set(keys)


@pytest.mark.parametrize(("goal", "best"), [("max", 0.8), ("min", 0.2)])
def test_the_best_value_is_a_number_where_one_is_known(goal: Any, best: float) -> None:
    measure = Measure("score", goal)
    assert measure.best([math.nan, 0.2, 0.8]) == measure.best([0.2, 0.8, math.nan]) == best
    assert math.isnan(measure.best([math.nan]))


def test_a_target_is_reached_by_the_value_that_float32_has_of_it() -> None:
    exact = float(torch.tensor(0.9, dtype=torch.float32))
    assert exact < 0.9 and ACCURACY.reaches(exact, 0.9) and not ACCURACY.reaches(0.89999, 0.9)
    assert LOSS.reaches(float(torch.tensor(0.1)), 0.1) and not LOSS.reaches(math.nan, 0.1)
