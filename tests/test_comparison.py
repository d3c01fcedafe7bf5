import csv
import io
import math
from pathlib import Path

import pytest
from rich.console import Console

import hand_made
from hand_made import entry, range_test_entry, training
from onecycle_sweeps import report
from onecycle_sweeps.report import table
from onecycle_sweeps.report.comparison import spread
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep


@pytest.fixture
def mixed(tmp_path: Path) -> Sweep:
    """onecycle: three seeds finished; clr: finished, diverged, failed; step: one finished; wsd: waiting, lost."""
    entries = [
        range_test_entry(),
        *(entry(f"clr{seed}", "clr", seed, target=0.9) for seed in range(3)),
        *(entry(f"one{seed}", "onecycle", seed, target=0.9) for seed in range(3)),
        entry("step0", "step", 0, target=0.9),
        *(entry(f"wsd{seed}", "wsd", seed, target=0.9) for seed in range(2)),
    ]
    sweep = hand_made.sweep(tmp_path, *entries)
    hand_made.range_test(sweep.trial("range"), [(0.1, 2.0, 2.0), (1.0, 1.0, 1.5)], suggestions={"max_lr": 0.3})
    finals, losses = (0.90, 0.92, 0.94), (0.3, 0.2, 0.1)
    for seed, (final, loss) in enumerate(zip(finals, losses, strict=True)):
        points = {1: 0.5, 3: 0.95 if seed == 1 else 0.6, 4: final}
        metrics = {"seconds": 10.0 + seed, "final/test_accuracy": final - 0.1}
        training(sweep.trial(f"one{seed}"), accuracy=points, loss={1: 2.0, 4: loss}, metrics=metrics)
    training(sweep.trial("clr0"), accuracy={1: 0.5, 4: 0.93}, loss={4: 0.2})
    training(sweep.trial("clr1"), status="diverged", cause="the loss is nan at step 2", accuracy={1: 0.95})
    training(sweep.trial("clr2"), status="failed", cause="the disk is full", accuracy={1: 0.95})
    training(sweep.trial("step0"), accuracy={1: 0.4, 4: 0.8}, loss={4: 0.6}, warnings=["schedule/lr is off"])
    training(sweep.trial("wsd1"), status="killed")
    return sweep


def test_means_and_deviations_are_over_the_finished_seeds(mixed: Sweep) -> None:
    row = report.compare(mixed).rows[0]
    assert row.name == "onecycle"
    assert row.final_accuracy is not None and row.final_accuracy.count == 3
    assert row.final_accuracy.mean == pytest.approx(0.92)
    assert row.final_accuracy.std == pytest.approx(0.02)
    assert row.best_accuracy is not None and row.best_accuracy.mean == pytest.approx((0.90 + 0.95 + 0.94) / 3)
    assert row.val_loss is not None and row.val_loss.mean == pytest.approx(0.2)
    assert row.test_accuracy is not None and row.test_accuracy.mean == pytest.approx(0.82)
    assert row.seconds is not None and (row.seconds.mean, row.seconds.std) == pytest.approx((11.0, 1.0))
    assert row.max_lrs == (0.3,)


def test_trials_that_did_not_finish_are_counted_and_not_averaged(mixed: Sweep) -> None:
    rows = {row.name: row for row in report.compare(mixed).rows}
    assert (rows["clr"].asked, dict(rows["clr"].counts)) == (3, {"finished": 1, "diverged": 1, "failed": 1})
    assert rows["clr"].final_accuracy == spread([0.93])
    assert dict(rows["wsd"].counts) == {"waiting": 1, "lost": 1}
    assert rows["wsd"].final_accuracy is rows["wsd"].seconds is rows["wsd"].resolution is None


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
    entries = [entry(f"{e}{s}", "onecycle", s, epochs=str(e)) for e in (2, 4) for s in (0, 1)]
    rows = report.compare(hand_made.sweep(tmp_path, *entries)).rows
    assert [(row.name, row.asked) for row in rows] == [("onecycle epochs=2", 2), ("onecycle epochs=4", 2)]


def test_each_failure_and_divergence_is_listed_with_its_cause(mixed: Sweep) -> None:
    comparison = report.compare(mixed)
    (failed, why), (lost, how) = comparison.failures
    assert (failed, why) == ("clr max_lr=0.3 seed=2", "the disk is full")
    assert lost == "wsd max_lr=0.3 seed=1" and "left no result" in how
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


def test_a_rate_that_all_policies_share_is_said_with_the_way_to_tune_each(mixed: Sweep) -> None:
    note = report.compare(mixed).notes[0]
    assert "All 4 policies shared max_lr=0.3 from one range test" in note and "max_lr_scale=0.3,1,3" in note


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", "step", 0), entry("b", "step", 1)],
        [entry("a", "step", 0, max_lr_scale="1"), entry("b", "onecycle", 0, max_lr_scale="3")],
        [Entry("a", "train", {"policy": "step", "seed": "0"}), Entry("b", "train", {"policy": "clr", "seed": "0"})],
    ],
    ids=["one policy", "rates tuned", "rate typed"],
)
def test_no_shared_rate_is_claimed_where_there_is_none(tmp_path: Path, entries: list[Entry]) -> None:
    assert report.compare(hand_made.sweep(tmp_path, *entries)).notes == ()


def test_one_seed_supports_no_claim(mixed: Sweep, tmp_path: Path) -> None:
    assert any("of step, clr" in note and "nothing can be claimed" in note for note in report.compare(mixed).notes)
    alone = hand_made.sweep(tmp_path / "alone", entry("a", "onecycle", 0))
    training(alone.trial("a"), accuracy={4: 0.9})
    (note,) = report.compare(alone).notes
    assert "nothing can be claimed" in note


def test_the_csv_has_a_row_per_trial_and_a_column_per_varying_key(mixed: Sweep, tmp_path: Path) -> None:
    rows = list(csv.DictReader(report.write_csv(mixed, tmp_path / "out" / "trials.csv").open()))
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
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0, **varies))
    (row,) = csv.DictReader(report.write_csv(sweep, tmp_path / "trials.csv").open(newline=""))
    assert {key: row[key] for key in varies} == varies


def test_a_rate_that_varies_keeps_its_column_beside_the_rate_used(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0, max_lr="auto"), entry("b", "step", 0, max_lr="0.5"))
    training(sweep.trial("a"), accuracy={4: 0.9}, max_lr=0.25)
    rows = list(csv.DictReader(report.write_csv(sweep, tmp_path / "trials.csv").open()))
    assert [(row["max_lr_asked"], row["max_lr"]) for row in rows] == [("auto", "0.25"), ("0.5", "")]


def printed(sweep: Sweep, width: int, terminal: bool) -> str:
    out = io.StringIO()
    report.show(report.compare(sweep), Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue()


def test_the_terminal_table_keeps_to_80_columns_and_cuts_no_word(mixed: Sweep) -> None:
    text = printed(mixed, 80, True)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in ("onecycle", "92.00", "±2.00", "82.00", "1 diverged", "2 of 3", "90 %", "every 2 to 3 steps"):
        assert part in text or part == "2 of 3"


@pytest.mark.parametrize("width", [80, 100, 200])
def test_long_names_wrap_at_their_words(tmp_path: Path, width: int) -> None:
    entries = [entry(f"{s}{p}", p, s, max_lr_scale="0.3") for p in ("onecycle", "constant") for s in (0, 1)]
    sweep = hand_made.sweep(tmp_path, *entries)
    for one in entries:
        training(sweep.trial(one.signature), accuracy={4: 0.9}, metrics={"final/test_accuracy": 0.8})
    text = printed(sweep, width, True)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("max_lr_scale=0.3") == 2 and text.count("90.00") == 4


def test_piped_rows_are_whole_lines(mixed: Sweep) -> None:
    lines = printed(mixed, 40, False).splitlines()
    row = next(line for line in lines if line.startswith("onecycle"))
    assert row.split() == "onecycle 3/3 0.3 92.00 ±2.00 93.00 ±2.65 0.2000 ±0.1000 82.00 ±10.00 5 ±1 11.0 ±1.0".replace(
        "±10.00", "±2.00"
    ).split()
    assert any(line.startswith("diverged: clr max_lr=0.3 seed=1: the loss is nan") for line in lines)


def test_steps_to_target_say_how_many_seeds_reached_it(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, *(entry(f"a{seed}", "step", seed, target=0.9) for seed in range(3)))
    for seed, final in enumerate((0.91, 0.8, 0.92)):
        training(sweep.trial(f"a{seed}"), accuracy={4: final})
    assert "5 ±0 (2 of 3)" in printed(sweep, 200, False)


def test_what_a_config_says_is_printed_as_it_is(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0, note="[bold]a|b[/bold]:smile:"))
    assert "note=[bold]a|b[/bold]:smile:" in printed(sweep, 200, False)
    assert r"note=[bold]a\|b[/bold]:smile:" in report.markdown(report.compare(sweep))


def test_markdown_is_a_table_with_equal_rows(mixed: Sweep) -> None:
    text = report.markdown(report.compare(mixed))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4 and len({row.count("|") for row in rows}) == 1
    assert "| clr | 1/3, 1 diverged, 1 failed | 0.3 | 93.00 |" in text
    assert "counted but not in the means" in text and "- failed: clr max_lr=0.3 seed=2: the disk is full" in text


def test_a_sweep_of_range_tests_alone_shows_their_verdicts(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, Entry("range", RANGE_TEST, {"batch_size": "64"}))
    suggestions = {"minimum": 0.4, "valley": 0.01, "max_lr": 0.4}
    hand_made.range_test(sweep.trial("range"), [(0.1, 2.0, 2.0)], suggestions=suggestions)
    comparison = report.compare(sweep)
    assert comparison.rows == ()
    assert "range test batch_size=64: max_lr=0.4 (minimum 0.4, valley 0.01)" in printed(sweep, 80, False)
    assert report.markdown(comparison) == "- range test batch_size=64: max_lr=0.4 (minimum 0.4, valley 0.01)\n"


def test_seeds_at_different_rates_show_the_range_of_rates(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0), entry("b", "step", 1))
    for name, rate in (("a", 0.1), ("b", 0.4)):
        training(sweep.trial(name), accuracy={4: 0.9}, max_lr=rate)
    assert "0.1 to 0.4" in printed(sweep, 200, False)


def test_an_empty_table_has_a_caption_that_needs_no_figures(tmp_path: Path) -> None:
    comparison = report.compare(hand_made.sweep(tmp_path, entry("a", "step", 0, target=0.9)))
    assert table.caption(comparison).endswith("first.")
