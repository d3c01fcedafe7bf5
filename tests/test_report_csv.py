import csv
import io
import math
from pathlib import Path

import pytest

import hand_made
from hand_made import entry, training
from onecycle_sweeps import report
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.sweep import Sweep


@pytest.fixture
def mixed(tmp_path: Path) -> Sweep:
    return hand_made.mixed(tmp_path)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


def test_the_csv_has_a_row_per_trial_and_a_column_per_varying_key(mixed: Sweep, tmp_path: Path) -> None:
    rows = rows_of(report.write_csv(mixed, tmp_path / "out" / "trials.csv"))
    assert [row["signature"] for row in rows] == [entry.signature for entry in mixed.trials]
    found = {row["signature"]: row for row in rows}
    one = found["one1"]
    assert (one["policy"], one["seed"], one["status"], one["kind"]) == ("onecycle", "1", "finished", "train")
    assert (one["max_lr"], one["max_lr_from"], one["attempts"]) == ("0.3", "range_test:range", "1")
    assert (one["final/val_accuracy"], one["best/val_accuracy"], one["final/val_loss"]) == ("0.92", "0.95", "0.2")
    assert (one["steps_to_target"], one["target_accuracy"]) == ("4", "0.9")
    assert (found["clr2"]["status"], found["clr2"]["cause"]) == ("failed", "the disk is full")
    assert (found["wsd0"]["status"], found["wsd0"]["max_lr"]) == ("waiting", "")
    assert found["range"]["suggestion/max_lr"] == "0.3"


def test_csv_values_with_commas_quotes_and_newlines_survive(tmp_path: Path) -> None:
    varies = {"data.classes": "[3,7]", "note": 'say "a"\nb'}
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0, varies))
    (row,) = rows_of(report.write_csv(sweep, tmp_path / "trials.csv"))
    assert {key: row[key] for key in varies} == varies


def test_a_rate_that_varies_keeps_its_column_beside_the_rate_used(tmp_path: Path) -> None:
    sweep = hand_made.sweep(
        tmp_path, entry("a", "step", 0, {"max_lr": "auto"}), entry("b", "step", 0, {"max_lr": "0.5"})
    )
    training(sweep.trial("a"), accuracy={4: 0.9}, max_lr=0.25)
    rows = rows_of(report.write_csv(sweep, tmp_path / "trials.csv"))
    assert [(row["max_lr_asked"], row["max_lr"]) for row in rows] == [("auto", "0.25"), ("0.5", "")]


def test_range_test_csv_counts_the_steps_of_each_seed_from_zero(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "range")
    first = [(0.1, 2.0, 2.5), (0.2, 1.0, 1.5), (0.4, math.nan, math.nan)]
    hand_made.range_test(folder, first, [(0.1, 3.0, 3.5)], [(0.1, 4.0, 4.5), (0.2, 5.0, 5.5)])
    path = report.write_range_test_csv(folder)
    assert path == folder.path / "range_test.csv"
    assert path.read_text().splitlines() == [
        "seed_run,step,lr,loss,loss_smoothed",
        "0,0,0.1,2.0,2.5",
        "0,1,0.2,1.0,1.5",
        "0,2,0.4,nan,nan",
        "1,0,0.1,3.0,3.5",
        "2,0,0.1,4.0,4.5",
        "2,1,0.2,5.0,5.5",
    ]
