"""The sentence that a sweep's report begins with: what is best, by how much, and how surely."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from hand_made import made_up
from onecycle_sweeps.measures import Measure, as_records
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.answer import answer, findings
from onecycle_sweeps.report.claims import claims_of
from onecycle_sweeps.report.statistics import detectable_effect

ABOUT = {"data": "fashion_mnist", "model": "simple_cnn"}
BASE, BETTER = (0.87, 0.875, 0.872), (0.9, 0.904, 0.8995)
RMSE = Measure("rmse", "min")


def outcomes(finals: Mapping[str, Sequence[float]]) -> list[Outcome]:
    return [made_up(policy, seed, value) for policy, values in finals.items() for seed, value in enumerate(values)]


def said(finals: Mapping[str, Sequence[float]]) -> str:
    found = outcomes(finals)
    return answer(ABOUT, found, claims_of(found))


def test_the_best_stands_beside_the_baseline_and_beside_the_second():
    close = tuple(value - shift for value, shift in zip(BETTER, (0.001, -0.002, 0.0015), strict=True))
    text = said({"constant": BASE, "step": close, "onecycle": BETTER})
    first, second = text.split(" It cannot be ")
    assert first.startswith(
        "On fashion_mnist with simple_cnn, onecycle reached 90.12 %, 2.88 points above constant (95 %"
    )
    assert "3 seeds" in first
    assert second.startswith("told apart from step (90.10 %)")


def test_a_second_that_is_told_apart_has_its_interval_too():
    text = said({"constant": (0.5, 0.51, 0.52), "step": BASE, "onecycle": BETTER})
    assert text.count("95 % interval") == 2 and "points above step (" in text


def test_a_baseline_that_is_best_stands_beside_the_second_alone():
    text = said({"constant": BETTER, "onecycle": BASE, "step": (0.5, 0.51, 0.52)})
    assert "constant reached 90.12 %, 2.88 points above onecycle" in text and "step" not in text


def test_from_one_seed_nothing_is_claimed_and_more_seeds_are_asked_for():
    text = said({"constant": BASE[:1], "onecycle": BETTER[:1]})
    assert "onecycle reached 90.00 %" in text and "nothing can be claimed" in text and "seed=0,1,2 -m" in text


def test_where_no_reasonable_number_of_seeds_would_do_that_is_said():
    text = said({"constant": (0.80, 0.90, 0.85), "onecycle": (0.90, 0.82, 0.86)})
    assert "cannot be told apart from constant" in text and text.endswith(
        "too few to show a difference of 0.50 points."
    )


def test_one_seed_in_common_is_not_said_to_be_all_seeds_of_the_best_and_a_divergence_explains_its_place():
    """The mean of the finished seeds of clr is the highest, but two of its three diverged."""
    found = outcomes({"clr": (0.93, 0.9, 0.9), "onecycle": BETTER})
    found = [replace(o, status="diverged", result={}) if o.entry.signature in ("clr1", "clr2") else o for o in found]
    text = answer(ABOUT, found, claims_of(found))
    assert "onecycle reached 90.12 %" in text and "clr (93.00 %, 2 of 3 seeds diverged)" in text
    assert "only one finished seed in common" in text and "one seed nothing" not in text


def test_a_single_policy_is_said_to_have_reached_what_it_reached():
    assert said({"onecycle": BETTER}) == "On fashion_mnist with simple_cnn, onecycle reached 90.12 % (3 seeds)."


def test_a_function_of_the_users_own_is_named_in_place_of_data_and_model():
    found = outcomes({"onecycle": BETTER})
    assert answer({**ABOUT, "loop": "mine"}, found, claims_of(found)).startswith("With mine, onecycle")


@given(st.lists(st.floats(-0.02, 0.02), min_size=3, max_size=6, unique=True))
def test_so_many_more_seeds_would_show_half_a_point(shifts: list[float]):
    """The number of seeds is the smallest whose minimum detectable difference, at this spread, is half a point."""
    text = said({"constant": [0.8] * len(shifts), "onecycle": [0.8 + shift for shift in shifts]})
    assume(" more seeds would show a difference of 0.50 points" in text)
    found = claims_of(outcomes({"constant": [0.8] * len(shifts), "onecycle": [0.8 + s for s in shifts]})).claims[0]
    assert found.difference and found.difference.detectable
    deviation = found.difference.detectable / detectable_effect(len(shifts))
    seeds = len(shifts) + int(text.split("; ")[1].split()[0])
    assert deviation * detectable_effect(seeds) <= 0.005 < deviation * detectable_effect(seeds - 1)


@pytest.mark.parametrize("baseline_is_best", [True, False])
def test_of_a_measure_that_falls_the_best_is_below_and_the_share_is_of_the_one_that_is_named(baseline_is_best: bool):
    values = {"constant": (2.0, 2.01, 1.99), "onecycle": (1.0, 1.02, 0.98)}
    if baseline_is_best:
        values = dict(zip(values, reversed(values.values()), strict=True))
    best, other = ("constant", "onecycle") if baseline_is_best else ("onecycle", "constant")
    found = [
        replace(one, result={"metrics": {RMSE.final_val: one.metrics["final/val_accuracy"]}}, resolved=resolved)
        for one in outcomes(values)
        for resolved in [{"measures": as_records([RMSE])}]
    ]
    text = answer(ABOUT, found, claims_of(found))
    assert f"{best} reached rmse 1, 1 (50 %) below {other}" in text
    assert ttest_rel(values[best], values[other]).pvalue < 0.05


def found_in(finals: Mapping[str, Sequence[float]], measure: Measure | None = None) -> dict[str, str | float]:
    made = outcomes(finals)
    if measure:
        resolved = {"measures": as_records([measure])}
        made = [replace(one, resolved=resolved, result={"metrics": {measure.final_val: one.final}}) for one in made]
    return findings(made, claims_of(made))


def test_the_findings_are_the_numbers_of_the_answer():
    found = found_in({"constant": BASE, "onecycle": BETTER})
    text = said({"constant": BASE, "onecycle": BETTER})
    assert found["winner"] == found["best"] == "onecycle"
    assert found["gain"] == "2.88 points over constant" and "2.88 points above constant" in text
    assert f"95 % interval {found['interval']}" in text
    difference = [better - base for better, base in zip(BETTER, BASE, strict=True)]
    assert found["gain/mean"] == pytest.approx(sum(difference) / 3)
    assert found["gain/p"] == pytest.approx(ttest_rel(BETTER, BASE).pvalue)
    assert found["gain/low"] < found["gain/mean"] < found["gain/high"]  # type: ignore[operator]


def test_a_gain_is_positive_whichever_side_is_the_baseline_and_whatever_the_goal():
    assert found_in({"constant": BETTER, "onecycle": BASE})["gain/mean"] == pytest.approx(0.0288, abs=1e-4)
    found = found_in({"constant": BASE, "onecycle": BETTER}, RMSE)
    assert found["best"] == "constant" and found["gain/mean"] == pytest.approx(0.0288, abs=1e-4)


def test_there_is_no_winner_where_nothing_is_shown():
    assert found_in({"constant": BASE[:1], "onecycle": BETTER[:1]})["winner"] == "none shown"
    assert found_in({"onecycle": BETTER}) == {"best": "onecycle", "winner": "none shown"}
    assert findings([], claims_of([])) == {}
