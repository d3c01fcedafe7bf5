import csv
import io
import math
from pathlib import Path

import pytest

import hand_made
from hand_made import entry, training
from onecycle_sweeps import report
from onecycle_sweeps.outcome import read
from onecycle_sweeps.report.csv_files import write_trials
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import TrialFolder


@pytest.fixture
def mixed(tmp_path: Path) -> Sweep:
    return hand_made.mixed(tmp_path)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


def test_the_csv_has_a_row_per_trial_and_a_column_per_varying_key(mixed: Sweep, tmp_path: Path) -> None:
    rows = rows_of(write_trials(tmp_path / "out" / "trials.csv", read(mixed)))
    assert [row["signature"] for row in rows] == [entry.signature for entry in mixed.trials]
    found = {row["signature"]: row for row in rows}
    one = found["one1"]
    assert (one["policy"], one["seed"], one["status"], one["kind"]) == ("onecycle", "1", "finished", "train")
    assert (one["max_lr"], one["max_lr_from"], one["attempts"]) == ("0.3", "range_test:range", "1")
    assert (one["final/val_accuracy"], one["best/val_accuracy"], one["final/val_loss"]) == ("0.92", "0.95", "0.2")
    assert (one["steps_to_target"], one["target"]) == ("4", "0.9")
    assert (found["clr2"]["status"], found["clr2"]["cause"]) == ("failed", "the disk is full")
    assert (found["wsd0"]["status"], found["wsd0"]["max_lr"]) == ("waiting", "")
    assert found["range"]["suggestion/max_lr"] == "0.3"


@pytest.mark.slow
def test_the_claims_csv_has_a_row_per_claim_with_its_numbers_and_its_sentence(tmp_path: Path) -> None:
    entries = [entry(f"{p}{s}", p, s, target=0.7) for p in ("constant", "onecycle", "step") for s in range(3)]
    sweep = hand_made.sweep(tmp_path, *entries)
    for one, final in zip(entries[:6], (0.70, 0.72, 0.74, 0.80, 0.83, 0.83), strict=True):
        training(sweep.trial(one.signature), accuracy={1: 0.3 if one.varies["policy"] == "constant" else 0.7, 4: final})
    claims = report.compare(sweep).claims
    (better, none) = rows_of(next(path for path in report.write(report.compare(sweep)) if path.name == "claims.csv"))
    assert (better["name"], better["baseline"], better["budget"]) == ("onecycle", "constant", "")
    assert better["measure"] == "final/val_accuracy" and better["sentence"] == claims.claims[0].sentence
    assert float(better["difference_mean"]) == pytest.approx(0.1) and better["difference_pairs"] == "3"
    assert float(better["difference_low"]) < 0.1 < float(better["difference_high"])
    assert float(better["p_adjusted"]) == float(better["difference_p"]) and float(better["difference_detectable"]) > 0
    assert float(better["speedup_ratio"]) == pytest.approx(2.5) and better["speedup_missed"] == "0"
    assert (none["name"], none["difference_mean"], none["p_adjusted"], none["speedup_ratio"]) == ("step", "", "", "")


def test_csv_values_with_commas_quotes_and_newlines_survive(tmp_path: Path) -> None:
    varies = {"data.classes": "[3,7]", "note": 'say "a"\nb'}
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0, varies))
    (row,) = rows_of(write_trials(tmp_path / "trials.csv", read(sweep)))
    assert {key: row[key] for key in varies} == varies


def test_a_rate_that_varies_keeps_its_column_beside_the_rate_used(tmp_path: Path) -> None:
    sweep = hand_made.sweep(
        tmp_path, entry("a", "step", 0, {"max_lr": "auto"}), entry("b", "step", 0, {"max_lr": "0.5"})
    )
    training(sweep.trial("a"), accuracy={4: 0.9}, max_lr=0.25)
    rows = rows_of(write_trials(tmp_path / "trials.csv", read(sweep)))
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
        "0,2,0.4,nan,",
        "1,0,0.1,3.0,3.5",
        "2,0,0.1,4.0,4.5",
        "2,1,0.2,5.0,5.5",
    ]
