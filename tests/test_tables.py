import io
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import hand_made
from hand_made import entry, training
from onecycle_sweeps import report
from onecycle_sweeps.report import tables
from onecycle_sweeps.report.tables import caption
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep


@pytest.fixture
def mixed(tmp_path: Path) -> Sweep:
    return hand_made.mixed(tmp_path)


def printed(sweep: Sweep, width: int, terminal: bool) -> str:
    out = io.StringIO()
    report.show(report.compare(sweep), Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue()


def test_the_terminal_table_keeps_to_80_columns_and_cuts_no_word(mixed: Sweep) -> None:
    text = printed(mixed, 80, True)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in ("onecycle", "92.00", "±2.00", "82.00", "1 diverged", "90 %", "every 2 to 3 steps"):
        assert part in " ".join(text.split())


@pytest.mark.parametrize("width", [80, 100, 200])
def test_long_names_wrap_at_their_words(tmp_path: Path, width: int) -> None:
    entries = [entry(f"{s}{p}", p, s, {"max_lr_scale": "0.3"}) for p in ("onecycle", "constant") for s in (0, 1)]
    sweep = hand_made.sweep(tmp_path, *entries)
    for one in entries:
        training(sweep.trial(one.signature), accuracy={4: 0.9}, metrics={"final/test_accuracy": 0.8})
    text = printed(sweep, width, True)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("max_lr_scale=0.3") == 2 and text.count("90.00") == 4


def test_the_terminal_output_is_the_golden_one(mixed: Sweep, golden: Callable[[str, str], None]) -> None:
    text = printed(mixed, 100, True).replace(f" on {socket.gethostname()} ", " on HOST ")
    golden("report.txt", "\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def test_piped_rows_are_whole_lines(mixed: Sweep) -> None:
    lines = printed(mixed, 40, False).splitlines()
    row = next(line for line in lines if line.startswith("onecycle"))
    figures = "92.00 ±2.00 93.00 ±2.65 0.2000 ±0.1000 82.00 ±2.00 5 ±1 11.0 ±1.0"
    assert row.split() == f"onecycle 3/3 0.3 {figures}".split()
    assert any(line.startswith("diverged: clr max_lr=0.3 seed=1: the loss is nan") for line in lines)


def test_steps_to_target_say_how_many_seeds_reached_it(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, *(entry(f"a{seed}", "step", seed, target=0.9) for seed in range(3)))
    for seed, final in enumerate((0.91, 0.8, 0.92)):
        training(sweep.trial(f"a{seed}"), accuracy={4: final})
    assert "5 ±0 (2 of 3)" in printed(sweep, 200, False)


def test_what_a_config_says_is_printed_as_it_is(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0, {"note": "[bold]a|b[/bold]:smile:"}))
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
    suggestions = {"minimum": 0.4, "valley": 0.01, "max_lr": 0.4, "divergence": 2.0}
    hand_made.range_test(sweep.trial("range"), [(0.1, 2.0, 2.0)], suggestions=suggestions)
    comparison = report.compare(sweep)
    assert comparison.rows == ()
    line = "range test batch_size=64: max_lr=0.4 (divergence 2); rules of other tools: minimum 0.4, valley 0.01"
    assert line in printed(sweep, 80, False)
    assert report.markdown(comparison) == f"{comparison.answer}\n\n- {line}\n"
    assert "max_lr=0.4" in comparison.answer


def test_the_answer_of_two_range_tests_says_which_suggests_what(tmp_path: Path) -> None:
    tests = {"64": 0.4, "128": 0.8}
    sweep = hand_made.sweep(tmp_path, *(Entry(size, RANGE_TEST, {"batch_size": size}) for size in tests))
    for size, rate in tests.items():
        hand_made.range_test(sweep.trial(size), [(0.1, 2.0, 2.0)], suggestions={"max_lr": rate})
    answer = report.compare(sweep).answer
    assert "max_lr=0.4 at batch_size=64" in answer and "max_lr=0.8 at batch_size=128" in answer


def test_seeds_at_different_rates_show_the_range_of_rates(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0), entry("b", "step", 1))
    for name, rate in (("a", 0.1), ("b", 0.4)):
        training(sweep.trial(name), accuracy={4: 0.9}, max_lr=rate)
    assert "0.1 to 0.4" in printed(sweep, 200, False)


def test_a_large_loss_has_no_more_digits_than_it_is_worth(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0))
    training(sweep.trial("a"), accuracy={4: 0.9}, loss={4: 3.02e9})
    assert "3.02e+09" in printed(sweep, 200, False) and "0000" not in printed(sweep, 200, False)


@pytest.mark.parametrize("loss", [1.9e-6, -4.2e-5, 0.00123])
def test_a_small_loss_is_no_zero(loss: float) -> None:
    assert float(tables.loss_words(loss)) == pytest.approx(loss, rel=0.005)


def test_a_measure_without_bounds_has_no_value_for_a_diverged_trial(tmp_path: Path) -> None:
    rmse = {"measures": [{"name": "rmse", "goal": "min"}]}
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0), entry("b", "clr", 0))
    training(sweep.trial("a"), status="diverged", cause="the loss is nan", resolved=rmse)
    training(sweep.trial("b"), accuracy={4: 0.5}, metrics={"final/val_rmse": 12.345678}, resolved=rmse)
    comparison = report.compare(sweep)
    assert [row.name for row in comparison.rows] == ["clr", "step"]
    text = printed(sweep, 200, False)
    assert "final val rmse" in text and "12.35" in text and "inf" not in text


def test_an_empty_table_has_a_caption_that_needs_no_figures(tmp_path: Path) -> None:
    comparison = report.compare(hand_made.sweep(tmp_path, entry("a", "step", 0, target=0.9)))
    assert caption(comparison).endswith("a claim.")


def test_of_a_large_sweep_the_status_has_a_line_for_each_trial_however_narrow_the_terminal(
    mixed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_FOLDED", len(mixed.trials) - 1)
    out = io.StringIO()
    report.show_status(mixed, Console(file=out, width=20, force_terminal=True, color_system=None))
    _, *rows = out.getvalue().splitlines()
    for row, one in zip(rows, mixed.trials, strict=False):
        state = mixed.trial(one.signature).state()
        assert row.startswith(one.name(mixed.trial(one.signature).max_lr())) and state.status in row
    assert "".join(rows[len(mixed.trials) :]).startswith(f"sweep {mixed.id}")
