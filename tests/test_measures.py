"""A measure names its metrics, compares values by its goal, and writes them."""

import math

import pytest

from onecycle_sweeps.measures import ACCURACY, LOSS, Measure, headline

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
    ("measure", "worst"),
    [(ACCURACY, 0.0), (Measure("error", "min", True), 1.0), (LOSS, math.inf), (Measure("r2", "max"), -math.inf)],
)
def test_the_worst_value_is_that_of_the_measures_range(measure: Measure, worst: float):
    assert measure.worst == worst


def test_fractions_are_written_in_per_cent():
    assert ACCURACY.text(0.90049) == "90.05 %"
    assert ACCURACY.label == "accuracy (%)"
    assert RMSE.text(12.34567) == "12.35"


def test_a_trial_whose_record_names_no_headline_measure_is_compared_by_accuracy():
    assert headline(None) == headline({"max_lr": 0.1}) == ACCURACY
    assert headline({"headline": RMSE.as_record()}) == RMSE
