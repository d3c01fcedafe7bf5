import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

import hand_made
from hand_made import entry, made_up, training
from onecycle_sweeps import report
from onecycle_sweeps.outcome import read
from onecycle_sweeps.report.claims import MINUS, Claim, Claims, claims_of, unsigned
from onecycle_sweeps.report.groups import families, ranked
from onecycle_sweeps.report.standings import detectable_words, interval_words, p_words
from onecycle_sweeps.report.statistics import LEVEL
from onecycle_sweeps.sweep import Sweep

BASE = (0.90, 0.91, 0.92)
BETTER = (0.93, 0.94, 0.951)
Finals = Mapping[str, Sequence[float | None]]


def swept(tmp_path: Path, finals: Finals, rest: Mapping[str, Mapping[str, Any]] | None = None) -> Sweep:
    """A sweep with a training per seed for each `policy key=value`, by final val accuracy; None is a diverged seed."""
    entries = {}
    for name, values in finals.items():
        policy, *keys = name.split()
        varies = dict(key.split("=") for key in keys)
        for seed in range(len(values)):
            entries[name, seed] = entry(f"{name}:{seed}".replace(" ", "_"), policy, seed, varies)
    made = hand_made.sweep(tmp_path, *entries.values())
    for (name, seed), one in entries.items():
        more = dict((rest or {}).get(name, {}))
        test = {"final/test_accuracy": more.pop("test")[seed]} if "test" in more else {}
        if (final := finals[name][seed]) is None:
            training(made.trial(one.signature), status="diverged", cause="the loss is nan", **more)
        else:
            training(made.trial(one.signature), accuracy={4: final}, metrics=test, **more)
    return made


def claims(tmp_path: Path, finals: Finals, rest: Mapping[str, Mapping[str, Any]] | None = None, **asked: Any) -> Claims:
    return claims_of(read(swept(tmp_path, finals, rest)), **asked)


def says(text: str, *parts: str) -> bool:
    """Whether the text has all of these facts, in any words between them."""
    return all(part in text for part in parts)


def only(found: Claims) -> Claim:
    (claim,) = found.claims
    return claim


def test_a_policy_is_better_than_the_first_typed_where_its_seeds_show_it(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": BASE, "onecycle": BETTER})
    claim = only(found)
    assert (claim.name, claim.baseline, claim.budget, claim.speedup) == ("onecycle", "constant", None, None)
    assert claim.difference is not None and claim.p_adjusted == claim.difference.p
    assert claim.difference.mean == pytest.approx(0.091 / 3)
    assert claim.difference.p == pytest.approx(stats.ttest_rel(BETTER, BASE).pvalue)
    assert claim.kind == "better" and says(claim.sentence, "3.03 points", "2.89 to 3.18", "p<0.001", "3 seeds")
    assert says(found.sentence, "constant", "final/val_accuracy", "better: onecycle") and found.flags == ()


def test_a_worse_policy_is_reported_with_its_interval(tmp_path: Path) -> None:
    claim = only(claims(tmp_path, {"onecycle": BETTER, "constant": BASE}))
    assert (claim.kind, claim.name, claim.baseline) == ("worse", "constant", "onecycle")
    assert says(claim.sentence, "worse", "3.03 points", "2.89 to 3.18")


def test_without_a_difference_the_minimum_detectable_one_is_reported(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": BASE, "step": (0.91, 0.905, 0.925)})
    claim = only(found)
    assert claim.difference is not None and claim.difference.detectable is not None
    could = f"{100 * claim.difference.detectable:.2f} points"
    assert claim.kind == "no difference shown" and claim.difference.low is not None and claim.difference.low < 0
    assert says(claim.sentence, "+0.33 points", f"95 % interval {MINUS}", "3 seeds", "80 % power", could)
    assert "no difference shown: step" in found.sentence


def test_a_difference_that_is_not_significant_after_holm_is_not_called_better(tmp_path: Path) -> None:
    weak = (0.91, 0.917, 0.926)
    alone = only(claims(tmp_path / "alone", {"constant": BASE, "step": weak}))
    assert alone.p_adjusted is not None and 0.01 < alone.p_adjusted < 0.05
    assert alone.kind == "better" and "Holm" not in alone.sentence
    among = {"constant": BASE, "step": weak, "clr": (0.9, 0.92, 0.91), "wsd": (0.91, 0.9, 0.92)}
    found = claims(tmp_path / "among", among)
    assert found.claims[0].difference is not None and alone.difference is not None
    assert (found.claims[0].difference.mean, found.claims[0].difference.p) == (
        alone.difference.mean,
        alone.difference.p,
    )
    assert found.claims[0].p_adjusted == pytest.approx(3 * alone.p_adjusted)
    assert found.claims[0].kind == "no difference shown" and found.claims[0].sentence.count("Holm") == 2


def shown_numbers(sentence: str) -> tuple[float, float, float]:
    """The ends of the interval and the p-value as a reader sees them."""
    plain = sentence.replace(MINUS, "-")
    low, high, p = re.search(r"95 % interval (-?[\d.]+) to (-?[\d.]+), p[=<]([\d.]+)", plain).groups()  # type: ignore
    return float(low), float(high), float(p)


SHIFTS = st.lists(st.lists(st.floats(-0.02, 0.02), min_size=3, max_size=3), min_size=1, max_size=4)


@pytest.mark.slow
@given(SHIFTS, st.floats(0.001, 1.0))
@example([[0.0, 0.0, 0.0078125], [0.0, 0.0, 0.01195500008113683], [0.01171875, 0.01171875, 0.02]], 0.001)
def test_interval_p_value_and_verdict_agree_to_the_last_digit_shown(shifts: list[list[float]], scale: float) -> None:
    """An interval, a p-value and a word that say the same to the last digit shown, in the sentence and on the page."""
    policies = {f"policy{i}": [b + scale * d for b, d in zip(BASE, some, strict=True)] for i, some in enumerate(shifts)}
    rows = {"constant": list(BASE), **policies}
    found = claims_of([made_up(name, seed, value) for name, row in rows.items() for seed, value in enumerate(row)])
    for claim in found.claims:
        if claim.p_adjusted is None:
            assert claim.kind == "nothing can be claimed"
            continue
        low, high, p = shown_numbers(claim.sentence)
        assert (claim.kind in ("better", "worse")) == (low > 0 or high < 0) == (p < LEVEL)
        interval, p_of_page, detectable = interval_words(claim), p_words(claim), detectable_words(claim)
        ends = [float(end.replace(MINUS, "-")) for end in interval.split(" to ")]
        assert sorted(map(abs, ends)) == sorted(map(abs, (low, high)))
        assert p_of_page.lstrip("<") == re.search(r"p[=<]([\d.]+)", claim.sentence).group(1)  # type: ignore
        if claim.kind == "no difference shown":
            assert f"detectable difference: {detectable} points" in claim.sentence
            # As shown: both are rounded, and may be equal.
            assert claim.difference is not None
            assert float(unsigned(claim.headline, abs(claim.difference.mean))) <= float(detectable)


def test_from_one_seed_nothing_is_claimed(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": [0.8], "onecycle": [0.9]})
    assert only(found).kind == "nothing can be claimed" and only(found).p_adjusted is None
    assert says(only(found).sentence, "one seed", "+10.00 points") and "interval" not in only(found).sentence
    assert "nothing can be claimed: onecycle" in found.sentence


def test_equal_differences_claim_nothing(tmp_path: Path) -> None:
    among = {"constant": BASE, "step": BASE, "clr": [value + 0.01 for value in BASE]}
    same, shifted = claims(tmp_path, among).claims
    assert same.p_adjusted is shifted.p_adjusted is None
    assert same.kind == shifted.kind == "nothing can be claimed"
    assert says(same.sentence, "step", "do not differ", "3 seeds") and says(shifted.sentence, "clr", "+1.00 points")


def test_only_seeds_that_finished_in_both_are_paired_and_the_others_are_named(tmp_path: Path) -> None:
    claim = only(claims(tmp_path, {"constant": (*BASE, 0.93), "clr": (0.93, None, 0.951)}))
    assert claim.difference is not None and claim.difference.pairs == 2
    assert claim.difference.mean == pytest.approx((0.03 + 0.031) / 2)
    diverged, unpaired = claim.remarks
    assert diverged == "1 trial of clr diverged" and unpaired.endswith(": 3")
    assert says(claim.sentence, *claim.remarks)


def test_without_a_seed_that_finished_in_both_there_is_no_number(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": BASE, "clr": (None, None, None)})
    assert only(found).difference is None and only(found).kind == "no seed finished in both"
    assert says(only(found).sentence, "clr", "constant", "3 trials of clr diverged")
    assert "no seed finished in both: clr" in found.sentence


def test_a_sweep_of_one_group_claims_nothing(tmp_path: Path) -> None:
    found = claims(tmp_path, {"onecycle": BASE})
    assert found == Claims(None, "final/val_accuracy", (), (), "")


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("precision", ("fp32", "bf16"), "bf16 and fp32"),
        ("device", ("cpu", "cuda:1"), "cuda and cpu"),
        ("threads", (1, 4), "4 and 1"),
        ("total_steps", (5, 10), "10 and 5"),
    ],
)
def test_trials_under_unlike_conditions_are_not_comparable(
    tmp_path: Path, key: str, values: tuple[Any, Any], said: str
) -> None:
    fixed = {name: {"resolved": {key: value}} for name, value in zip(("constant", "onecycle"), values, strict=True)}
    found = claims(tmp_path, {"constant": BASE, "onecycle": BETTER}, fixed)
    word = "steps" if key == "total_steps" else key
    (flag,) = found.flags
    assert says(flag, "onecycle", "constant", f"{word}: {said}")
    assert only(found).kind == "not comparable" and only(found).p_adjusted is None
    assert says(only(found).sentence, word, "+3.03 points", "95 % interval") and "better" not in only(found).sentence
    assert "not comparable: onecycle" in found.sentence


def test_one_seed_at_another_precision_is_enough_to_be_flagged(tmp_path: Path) -> None:
    sweep = swept(tmp_path, {"constant": BASE, "onecycle": BETTER})
    for one in sweep.trials:
        precision = "bf16" if one.signature == "onecycle:2" else "fp32"
        sweep.trial(one.signature).write("resolved", {"max_lr": 0.1, "total_steps": 5, "precision": precision})
    (flag,) = report.compare(sweep).claims.flags
    assert flag.endswith("precision: fp32 or bf16 and fp32")


def test_two_gpus_of_a_machine_are_one_kind_of_device(tmp_path: Path) -> None:
    fixed = {name: {"resolved": {"device": name}} for name in ("cuda:0", "cuda:1")}
    assert claims(tmp_path, {"cuda:0": BASE, "cuda:1": BETTER}, fixed).flags == ()


def test_a_preset_may_allow_different_budgets_but_no_other_difference(tmp_path: Path) -> None:
    steps: dict[str, dict[str, Any]] = {
        "constant": {"resolved": {"total_steps": 80}},
        "onecycle": {"resolved": {"total_steps": 10}},
    }
    found = claims(tmp_path / "steps", {"constant": BASE, "onecycle": BETTER}, steps, budgets_may_differ=True)
    assert found.flags == () and only(found).kind == "better" and says(only(found).sentence, "10 against 80")
    steps["onecycle"]["resolved"]["precision"], steps["constant"]["resolved"]["precision"] = "bf16", "fp32"
    found = claims(tmp_path / "both", {"constant": BASE, "onecycle": BETTER}, steps, budgets_may_differ=True)
    assert len(found.flags) == 1 and only(found).kind == "not comparable"


TUNED = {
    "constant max_lr_scale=1": BASE,
    "constant max_lr_scale=3": (0.99, None, 0.99),
    "onecycle max_lr_scale=1": (0.89, 0.91, 0.92),
    "onecycle max_lr_scale=3": BETTER,
}


def at_scales(**test: Sequence[float]) -> dict[str, dict[str, Any]]:
    tests = {name: {"test": test[name.split()[0]]} if test else {} for name in TUNED}
    return {name: {"max_lr": 0.1 * int(name[-1])} | tests[name] for name in TUNED}


def test_each_policy_is_compared_at_its_best_rate_and_a_diverged_seed_counts_against_a_rate(tmp_path: Path) -> None:
    found = claims(tmp_path, TUNED, at_scales())
    claim = only(found)
    assert (claim.name, claim.baseline) == ("onecycle", "constant")
    assert claim.difference is not None and claim.difference.mean == pytest.approx(0.091 / 3)
    assert claim.kind == "better"
    picked, optimistic, edge = found.flags
    assert picked.endswith("constant max_lr_scale=1, onecycle max_lr_scale=3.")
    assert "optimistic" in optimistic and "data.val_fraction=0.1" in optimistic
    assert edge.endswith("constant took the lowest, onecycle took the highest.")


def rates(policy: str, count: int, finals: Sequence[float | None] = BASE) -> dict[str, Sequence[float | None]]:
    return {f"{policy} max_lr={rate}": finals for rate in range(1, count + 1)}


def test_data_that_hold_out_a_part_already_are_not_told_to_hold_one_out(tmp_path: Path) -> None:
    made = swept(tmp_path, {**rates("constant", 2), **rates("onecycle", 3, BETTER)})
    for one in made.trials:
        folder = made.trial(one.signature)
        folder.write_config({**folder.config(), "data": {"val_fraction": 0.2}})
    found = claims_of(read(made))
    text = " ".join([only(found).sentence, *found.flags])
    assert says(text, "as many rates", "other seeds", "optimistic", "data.split_seed")
    assert "data.val_fraction" not in text


@pytest.mark.parametrize(("ours", "theirs"), [(3, 1), (1, 3), (3, 2)])
def test_the_best_of_more_rates_is_not_called_better_by_the_accuracy_that_picked_it(
    tmp_path: Path, ours: int, theirs: int
) -> None:
    finals = {**rates("constant", theirs), **rates("onecycle", ours, BETTER)}
    found = claims(tmp_path, finals)
    claim = only(found)
    assert (claim.kind, claim.p_adjusted) == ("no verdict", None)
    assert claim.difference is not None and claim.difference.mean == pytest.approx(0.091 / 3)
    assert claim.difference.low is claim.difference.high is claim.difference.p is None
    assert f"best of {ours} rate" in claim.sentence and f"constant of {theirs}" in claim.sentence
    for way_out in ("as many rates", "other seeds", "data.val_fraction"):
        assert way_out in claim.sentence
    assert "interval" not in claim.sentence and "better:" not in found.sentence
    assert found.sentence.endswith("no verdict: onecycle.")


def test_the_best_of_more_rates_may_be_called_better_by_images_that_did_not_pick_it(tmp_path: Path) -> None:
    finals = {**rates("constant", 1), **rates("onecycle", 3, BETTER)}
    tests = {name: {"test": BETTER if "onecycle" in name else BASE} for name in finals}
    found = claims(tmp_path, finals, tests)
    assert found.measure == "final/test_accuracy" and only(found).kind == "better"
    assert any("same trainings" in flag for flag in found.flags)


def test_a_family_without_a_verdict_takes_no_part_in_the_adjustment(tmp_path: Path) -> None:
    finals = {**rates("constant", 1), **rates("step", 1, (0.91, 0.917, 0.926)), **rates("onecycle", 3, BETTER)}
    step, onecycle, leading = claims(tmp_path, finals).claims
    assert step.difference is not None and step.p_adjusted == step.difference.p
    assert (step.kind, onecycle.kind, leading.kind) == ("better", "no verdict", "no verdict")


def test_a_rate_that_diverged_was_tried_and_one_that_has_not_run_was_not(tmp_path: Path) -> None:
    finals = {**rates("constant", 1), "constant max_lr=2": (None, None, None), **rates("onecycle", 2, BETTER)}
    assert only(claims(tmp_path / "diverged", finals)).kind == "better"
    sweep = swept(tmp_path / "waiting", finals)
    for seed in range(3):
        sweep.trial(f"constant_max_lr=2:{seed}").remove("result.json")
    assert only(report.compare(sweep).claims).kind == "no verdict"


def test_a_policy_of_which_every_seed_diverged_has_no_best_rate(tmp_path: Path) -> None:
    lost = (None, None, None)
    finals = {**rates("constant", 2), **rates("clr", 2, lost)}
    found = claims(tmp_path, finals)
    assert says(found.flags[0], "best rate", "constant max_lr=1") and "clr" not in found.flags[0]
    assert says(found.flags[1], "clr", "no best rate")
    assert not any("clr took the" in flag for flag in found.flags)
    alone = claims(tmp_path / "alone", rates("clr", 2, lost))
    assert not any("at its best rate" in flag or "picked on" in flag for flag in alone.flags)


def test_no_rate_is_picked_before_a_trial_has_ended(tmp_path: Path) -> None:
    sweep = swept(tmp_path, rates("constant", 2))
    for one in sweep.trials:
        sweep.trial(one.signature).remove("result.json")
    assert not any("best rate" in flag for flag in report.compare(sweep).claims.flags)


def test_seeds_that_stayed_at_chance_are_named(tmp_path: Path) -> None:
    finals = {"constant": (0.97, 0.4917, 0.975), "onecycle": (0.99, 0.52, 0.99)}
    found = claims(tmp_path / "two", finals, {name: {"chance": 0.5044} for name in finals})
    assert "seed 1 of onecycle stayed at chance (52.00 %)" in only(found).sentence
    assert "seed 1 of constant stayed at chance (49.17 %)" in only(found).sentence
    alone = claims(tmp_path / "one", {"constant": (0.97, 0.4917, 0.11)}, {"constant": {"chance": 0.5044}})
    (flag,) = alone.flags
    assert says(flag, "seeds 1, 2 of constant", "49.17 %", "11.00 %")
    unknown = claims(tmp_path / "old", {"constant": (0.97, 0.4917, 0.11)})
    assert unknown.flags == ()


def test_of_rates_of_equal_accuracy_the_one_with_the_lower_val_loss_is_picked(tmp_path: Path) -> None:
    finals = {f"{policy} max_lr={rate}": BASE for policy in ("constant", "onecycle") for rate in (1, 2, 3)}
    losses = dict(zip(finals, (0.2, 0.1, 0.3, 0.3, 0.3, 0.1), strict=True))
    found = claims(tmp_path, finals, {name: {"loss": {4: loss}} for name, loss in losses.items()})
    assert found.flags[0].endswith("constant max_lr=2, onecycle max_lr=3.")


def test_a_rate_picked_on_held_out_data_is_quoted_on_the_test_set(tmp_path: Path) -> None:
    found = claims(tmp_path, TUNED, at_scales(constant=(0.80, 0.81, 0.82), onecycle=(0.81, 0.83, 0.82)))
    difference = only(found).difference
    assert found.measure == "final/test_accuracy"
    assert difference is not None and difference.mean == pytest.approx(0.01)
    assert found.flags[0].endswith("constant max_lr_scale=1, onecycle max_lr_scale=3.")
    assert not any("optimistic" in flag for flag in found.flags)


def test_a_rate_that_lacks_seeds_is_named(tmp_path: Path) -> None:
    sweep = swept(tmp_path, {"constant": BASE, **{name: TUNED[name] for name in TUNED if "onecycle" in name}})
    failed = sweep.trial("onecycle_max_lr_scale=1:0")
    failed.remove("result.json")
    failed.write("failure", {"cause": "the disk is full", "attempt": 1, "time": 0.0})
    flags = report.compare(sweep).claims.flags
    (flag,) = [flag for flag in flags if "lack seeds" in flag]
    assert "Rates of onecycle" in flag and flag.endswith("max_lr_scale=1 (1 of 3 have no result).")


def test_epochs_are_compared_at_equal_epochs_and_never_across(tmp_path: Path) -> None:
    finals = {
        "constant epochs=5": BASE,
        "constant epochs=10": [value + 0.05 for value in BASE],
        "onecycle epochs=5": BETTER,
        "onecycle epochs=10": [value + 0.05 for value in BASE[::-1]],
    }
    five, ten = claims(tmp_path, finals).claims
    assert [(c.name, c.baseline, c.budget) for c in (five, ten)] == [
        ("onecycle", "constant", "epochs=5"),
        ("onecycle", "constant", "epochs=10"),
    ]
    assert five.kind == "better" and five.sentence.startswith("epochs=5: ") and "3.03 points" in five.sentence
    assert ten.difference is not None and ten.difference.mean == pytest.approx(0.0)
    assert five.difference is not None and five.p_adjusted == pytest.approx(2 * (five.difference.p or 0))


def test_data_sets_are_never_compared_and_models_only_where_policies_do_not_vary(tmp_path: Path) -> None:
    names = [f"{policy} data={data}" for data in ("mnist", "digits") for policy in ("constant", "onecycle")]
    found = claims(tmp_path / "data", dict(zip(names, (BASE, BETTER) * 2, strict=True)))
    assert [(c.name, c.budget) for c in found.claims] == [("onecycle", "data=mnist"), ("onecycle", "data=digits")]
    names = [f"{policy} model={model}" for policy in ("constant", "onecycle") for model in ("lenet", "resnet9")]
    found = claims(tmp_path / "models", dict(zip(names, (BASE, BETTER) * 2, strict=True)))
    assert [(c.name, c.budget) for c in found.claims] == [("onecycle", "model=lenet"), ("onecycle", "model=resnet9")]
    found = claims(tmp_path / "one_policy", {"onecycle model=lenet": BASE, "onecycle model=resnet9": BETTER})
    assert only(found).name == "onecycle model=resnet9" and only(found).baseline == "onecycle model=lenet"


@pytest.mark.parametrize("name", ["step", "step max_lr_scale=3"])
def test_a_sweep_may_name_its_baseline_by_its_family_or_by_a_group_of_it(tmp_path: Path, name: str) -> None:
    finals = {"constant max_lr_scale=1": BASE, "step max_lr_scale=1": BASE, "step max_lr_scale=3": BETTER}
    found = claims(tmp_path, finals, baseline=name)
    assert found.baseline == only(found).baseline == "step" and only(found).name == "constant"


def test_a_baseline_that_is_not_in_the_sweep_is_replaced_with_a_flag(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": BASE, "onecycle": BETTER}, baseline="cosine")
    assert found.baseline == "constant"
    (flag,) = found.flags
    assert "cosine is not in this sweep" in flag and "constant" in flag


def test_test_accuracy_is_compared_where_every_trial_has_it(tmp_path: Path) -> None:
    test = {"constant": {"test": (0.8, 0.81, 0.82)}, "onecycle": {"test": (0.81, 0.83, 0.82)}}
    found = claims(tmp_path / "all", {"constant": BASE, "onecycle": BETTER}, test)
    assert found.measure == "final/test_accuracy" and "final/test_accuracy" in found.sentence
    difference = only(found).difference
    assert difference is not None and difference.mean == pytest.approx(0.01)
    found = claims(tmp_path / "some", {"constant": BASE, "onecycle": BETTER}, {"onecycle": test["onecycle"]})
    assert found.measure == "final/val_accuracy" and "Not every finished trial has final/test" in found.flags[0]


def test_speed_ups_count_the_seeds_that_never_reached_the_target(tmp_path: Path) -> None:
    entries = [entry(f"{p}{s}", p, s, target=0.9) for p in ("constant", "onecycle") for s in range(4)]
    sweep = hand_made.sweep(tmp_path, *entries)
    courses = [{1: 0.5, 3: 0.9, 7: 0.9}, {1: 0.6, 7: 0.95}, {1: 0.5, 7: 0.6}, {1: 0.5, 5: 0.94, 7: 0.9}]
    courses += [{1: 0.91, 7: 0.9}, {1: 0.93, 3: 0.92, 7: 0.9}, {1: 0.95, 3: 0.91, 7: 0.9}]
    rates = [0.1] * 8
    for one, course in zip(entries, courses, strict=False):
        training(sweep.trial(one.signature), accuracy=course, lr=rates)
    training(sweep.trial("onecycle3"), status="diverged", cause="nan", accuracy={1: 0.95}, lr=rates)
    claim = only(report.compare(sweep).claims)
    assert claim.speedup is not None
    assert (claim.speedup.pairs, claim.speedup.missed_baseline, claim.speedup.missed) == (4, 1, 1)
    assert claim.speedup.ratio is None
    assert says(claim.sentence, "no speed-up", "90 %", "1 seed of constant", "1 seed of onecycle")


def test_a_speed_up_over_a_baseline_that_did_not_always_get_there_is_a_bound(tmp_path: Path) -> None:
    entries = [entry(f"{p}{s}", p, s, target=0.9) for p in ("constant", "onecycle") for s in range(2)]
    sweep = hand_made.sweep(tmp_path, *entries)
    for one, course in zip(entries, ({1: 0.5, 7: 0.95}, {1: 0.5, 7: 0.6}, {1: 0.91}, {1: 0.93}), strict=True):
        training(sweep.trial(one.signature), accuracy=course, lr=[0.1] * 8)
    claim = only(report.compare(sweep).claims)
    assert claim.speedup is not None and claim.speedup.ratio == pytest.approx(4)
    assert claim.speedup.bound == "at least"
    assert says(claim.sentence, "90 %", "at least 4.00", "2 seeds", "1 seed of constant")


def test_the_remarks_begin_with_what_is_claimed(tmp_path: Path) -> None:
    comparison = report.compare(swept(tmp_path, {"constant": BASE, "onecycle": BETTER, "step": BASE}))
    found = comparison.claims
    expected = [found.sentence, *(claim.sentence for claim in found.claims)]
    assert report.remarks(comparison)[:3] == expected
    assert f"- {found.claims[0].sentence.partition('<')[0]}" in report.markdown(comparison)
    single = report.compare(swept(tmp_path / "single", {"constant": BASE, "onecycle": BETTER}))
    assert report.remarks(single)[0] == single.claims.claims[0].sentence


def test_a_policy_with_a_diverged_seed_is_not_simply_called_better(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": (*BASE, 0.9), "onecycle": (*BETTER, None)})
    assert only(found).kind == "better where it did not diverge" and f"{only(found).kind}: onecycle" in found.sentence
    assert "1 trial of onecycle diverged" in only(found).sentence


def test_what_cannot_be_compared_takes_no_part_in_the_adjustment(tmp_path: Path) -> None:
    odd = {name: {"resolved": {"precision": "fp32"}} for name in ("constant", "step")}
    odd["onecycle"] = {"resolved": {"precision": "bf16"}}
    both = claims(tmp_path, {"constant": BASE, "step": BETTER, "onecycle": BETTER}, odd)
    step, onecycle, leading = both.claims
    assert step.difference is not None and step.p_adjusted == step.difference.p
    assert onecycle.kind == leading.kind == "not comparable" and onecycle.p_adjusted is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_seed_without_a_finite_value_is_in_no_pair_and_that_is_said(tmp_path: Path, value: float) -> None:
    finals = {"constant": (0.90, 0.91, 0.92, value), "onecycle": (*BETTER, 0.5), "step": (value, *BETTER)}
    found = claims(tmp_path, finals)
    onecycle, step = (claim for claim in found.claims if claim.baseline == "constant")
    assert onecycle.difference is not None and onecycle.difference.mean == pytest.approx(0.091 / 3)
    assert onecycle.difference.pairs == 3 and onecycle.kind == "better"
    assert says(onecycle.sentence, "seed 3 of constant", f"{value}", "in no pair")
    assert step.difference is not None and step.difference.pairs == 2, "seeds 1 and 2"
    assert says(step.sentence, "seed 0 of step", "seed 3 of constant")
    against = claims(tmp_path / "other", {"constant": (*BASE, 0.9), "onecycle": (*BETTER, value)})
    assert only(against).kind == "better where it is finite"
    (flag,) = claims(tmp_path / "alone", {"constant": (0.9, value)}).flags
    assert says(flag, "seed 1 of constant", f"{value}")


def test_where_no_seed_is_finite_in_both_there_is_no_difference_and_no_claim(tmp_path: Path) -> None:
    made = swept(tmp_path, {"constant": (0.9, math.nan), "onecycle": (math.inf, 0.9), "step": (0.8, 0.8)})
    comparison = report.compare(made)
    (onecycle, *_) = comparison.claims.claims
    assert onecycle.difference is None and onecycle.kind == "no seed is finite in both"
    assert says(onecycle.sentence, "seed 0 of onecycle", "inf", "seed 1 of constant", "nan")
    assert "step reached 80.00 %" in comparison.answer, "the others count as the worst in the order"
    text = report.markdown(comparison)
    assert "not finite" in text and "nan %" not in text and "inf %" not in text
    assert hand_made.page(made).exists()


@pytest.mark.parametrize("bad_first", [True, False])
def test_a_loss_that_is_no_number_does_not_win_among_rates_with_equal_scores(tmp_path: Path, bad_first: bool) -> None:
    losses = {"0.1": math.nan if bad_first else 0.5, "0.3": 0.5 if bad_first else math.nan}
    entries = {rate: entry(f"at{rate}", "constant", 0, {"max_lr": rate}) for rate in losses}
    made = hand_made.sweep(tmp_path, *entries.values())
    for rate, one in entries.items():
        hand_made.training(made.trial(one.signature), accuracy={4: 0.9}, loss={4: losses[rate]})
    (family,) = families(read(made))
    assert dict(family.picked)["max_lr"] == ("0.3" if bad_first else "0.1")


def test_two_seeds_whose_differences_are_equal_after_float32_claim_nothing(tmp_path: Path) -> None:
    def float32(*values: float) -> list[float]:
        return [float(np.float32(value)) for value in values]

    claim = only(claims(tmp_path, {"constant": float32(0.865, 0.84), "onecycle": float32(0.815, 0.79)}))
    assert claim.kind == "nothing can be claimed" and claim.p_adjusted is None
    assert says(claim.sentence, "5.00 points in each of 2 seeds")
    same = only(claims(tmp_path / "same", {"constant": (0.865, 0.84), "onecycle": float32(0.865, 0.84)}))
    assert says(same.sentence, "do not differ in any of 2 seeds")


def test_policies_with_equal_scores_keep_their_order_also_after_float32(tmp_path: Path) -> None:
    above = [float(np.float32(value)) for value in (0.8, 0.8)]
    made = read(swept(tmp_path, {"constant": (0.8, 0.8), "onecycle": above}))
    assert [family.name for family in ranked(families(made))] == ["constant", "onecycle"] and min(above) > 0.8
