import math
from dataclasses import replace
from pathlib import Path

import pytest

import hand_made
from hand_made import entry, range_test_entry, training
from onecycle_sweeps import report
from onecycle_sweeps.report.standings import caption
from onecycle_sweeps.report.statistics import spread
from onecycle_sweeps.sweep import PROBE, Entry, Sweep


@pytest.fixture
def mixed(tmp_path: Path) -> Sweep:
    return hand_made.mixed(tmp_path)


def test_means_and_deviations_are_over_the_finished_seeds(mixed: Sweep) -> None:
    row = report.compare(mixed).rows[0]
    assert row.name == "onecycle"
    final, seconds = row.metrics["final/val_accuracy"], row.metrics["seconds"]
    assert (final.mean, final.std, final.count) == pytest.approx((0.92, 0.02, 3))
    assert row.metrics["best/val_accuracy"].mean == pytest.approx((0.90 + 0.95 + 0.94) / 3)
    assert row.metrics["final/val_loss"].mean == pytest.approx(0.2)
    assert row.metrics["final/test_accuracy"].mean == pytest.approx(0.82)
    assert (seconds.mean, seconds.std) == pytest.approx((11.0, 1.0))
    assert row.max_lrs == (0.3,)


def test_trials_that_did_not_finish_are_counted_and_not_averaged(mixed: Sweep) -> None:
    rows = {row.name: row for row in report.compare(mixed).rows}
    assert (rows["clr"].trials, dict(rows["clr"].counts)) == (3, {"finished": 1, "diverged": 1, "failed": 1})
    assert rows["clr"].metrics["final/val_accuracy"] == spread([0.93])
    assert dict(rows["wsd"].counts) == {"waiting": 1, "lost": 1}
    assert rows["wsd"].metrics == {} and rows["wsd"].resolution is None


def test_one_value_has_no_deviation() -> None:
    one = spread([0.5])
    assert one is not None and one.std is None
    assert spread([]) is None


def test_a_value_that_is_not_finite_makes_no_mean() -> None:
    broken = spread([1.0, math.inf])
    assert broken is not None and math.isnan(broken.mean) and broken.std is None


def test_steps_to_target_count_the_updates_until_the_first_evaluation_that_reaches_it(mixed: Sweep) -> None:
    rows = {row.name: row for row in report.compare(mixed).rows}
    reached = rows["onecycle"].steps_to_target
    assert reached is not None and (reached.mean, reached.count) == (pytest.approx((5 + 4 + 5) / 3), 3)
    assert rows["onecycle"].resolution == 2
    assert rows["clr"].steps_to_target == spread([5]) and rows["clr"].resolution == 3
    assert rows["step"].steps_to_target is None


def test_the_best_row_comes_first_and_a_diverged_seed_counts_as_zero(mixed: Sweep) -> None:
    assert [row.name for row in report.compare(mixed).rows] == ["onecycle", "step", "clr", "wsd"]


def test_groups_differ_in_every_varying_key_but_the_seed(tmp_path: Path) -> None:
    entries = [entry(f"{e}{s}", "onecycle", s, {"epochs": str(e)}) for e in (2, 4) for s in (0, 1)]
    rows = report.compare(hand_made.sweep(tmp_path, *entries)).rows
    assert [(row.name, row.trials) for row in rows] == [("onecycle epochs=2", 2), ("onecycle epochs=4", 2)]


def test_each_failure_and_divergence_is_listed_with_its_cause(mixed: Sweep) -> None:
    comparison = report.compare(mixed)
    (failed, why), (lost, how) = comparison.failures
    assert (failed, why) == ("clr max_lr=0.3 seed=2", "the disk is full")
    assert lost == "wsd max_lr=0.3 seed=1" and "without recording a result" in how
    assert comparison.diverged == (("clr max_lr=0.3 seed=1", "the loss is nan at step 2"),)
    assert comparison.warnings == (("step max_lr=0.3 seed=0", "schedule/lr is off"),)


def test_a_failed_range_test_is_among_the_failures(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, range_test_entry(), entry("a", "step", 0))
    hand_made.range_test(sweep.trial("range"), [(0.1, 2.0, 2.0)])
    sweep.trial("range").write("failure", {"cause": "no descent", "attempt": 1, "time": 0.0})
    comparison = report.compare(sweep)
    assert comparison.failures == (("range test", "no descent"),)
    assert comparison.range_tests[0].status == "failed"
    assert "range test: failed" in report.remarks(comparison)


def test_a_note_says_how_to_tune_each_policy_if_all_share_a_rate(mixed: Sweep) -> None:
    note = report.compare(mixed).notes[0]
    assert "All 4 policies shared max_lr=0.3 from one range test" in note and "max_lr_scale=0.3,1,3" in note


def test_two_policies_that_share_a_rate_are_both(tmp_path: Path) -> None:
    (note,) = report.compare(hand_made.two_policies(tmp_path)).notes
    assert note.startswith("Both policies shared ")


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", "step", 0), entry("b", "step", 1)],
        [entry("a", "step", 0, {"max_lr_scale": "1"}), entry("b", "onecycle", 0, {"max_lr_scale": "3"})],
        [Entry("a", "train", {"policy": "step", "seed": "0"}), Entry("b", "train", {"policy": "clr", "seed": "0"})],
    ],
    ids=["one policy", "rates tuned", "rate typed"],
)
def test_no_shared_rate_is_claimed_where_there_is_none(tmp_path: Path, entries: list[Entry]) -> None:
    assert report.compare(hand_made.sweep(tmp_path, *entries)).notes == ()


def test_one_seed_supports_no_claim(mixed: Sweep, tmp_path: Path) -> None:
    claims = {claim.name: claim.sentence for claim in report.compare(mixed).claims.claims}
    assert all("From one seed nothing can be claimed" in claims[name] for name in ("onecycle", "step"))
    alone = hand_made.sweep(tmp_path / "alone", entry("a", "onecycle", 0))
    training(alone.trial("a"), accuracy={4: 0.9})
    assert report.compare(alone).claims.sentence.startswith("From one seed nothing can be claimed")


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_caption_names_a_test_only_where_one_was_made(tmp_path: Path, seeds: int) -> None:
    entries = [entry(f"{p}{seed}", p, seed) for p in ("constant", "onecycle") for seed in range(seeds)]
    sweep = hand_made.sweep(tmp_path, *entries)
    for one, accuracy in zip(entries, (0.9, 0.91, 0.92, 0.95), strict=False):
        training(sweep.trial(one.signature), accuracy={4: accuracy})
    assert ("paired t-test" in caption(report.compare(sweep))) == (seeds == 2)


@pytest.mark.parametrize("short_trainings", [True, False])
def test_doubts_of_a_range_test_are_a_warning_unless_short_trainings_decided(tmp_path: Path, short_trainings: bool):
    probe = Entry("probe", PROBE, {"policy": "onecycle"}, "range")
    training = replace(hand_made.entry("one", "onecycle", 0), needs="probe" if short_trainings else "range")
    made = hand_made.sweep(tmp_path, hand_made.range_test_entry(), *([probe] if short_trainings else []), training)
    hand_made.training(made.trial("one"), accuracy={4: 0.9})
    rate = {"suggestion/max_lr": 0.3}
    warnings = ["the verdict is ambiguous: it is wide; try the grid max_lr=0.1,1 -m", "the data set has a duplicate"]
    result = hand_made.a_result(kind="range_test", metrics=rate, verdict={"doubts": ["it is wide"]}, warnings=warnings)
    for signature, ended in (("range", result), ("probe", hand_made.a_result(kind="probe", metrics=rate))):
        hand_made.range_test(made.trial(signature), [(0.1, 2.0, 2.0), (1.0, 1.0, 1.5)], suggestions={"max_lr": 0.3})
        made.trial(signature).write("result", ended)
    said = [text for name, text in report.compare(made).warnings if name == "range test"]
    assert said == (warnings[1:] if short_trainings else warnings)
