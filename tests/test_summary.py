"""What a sweep shows on a terminal at its end."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import hand_made
from hand_made import entry, training
from kinds_of_sweeps import KINDS
from onecycle_sweeps import report
from onecycle_sweeps.measures import MINUS
from onecycle_sweeps.sweep import Sweep


def printed(made: Sweep, width: int, *, terminal: bool = True) -> list[str]:
    """The lines of a sweep's summary."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None, highlight=False)
    report.show_summary(report.compare(made), console)
    return out.getvalue().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_comes_first_and_nothing_is_wider_than_the_terminal(kind: str, tmp_path: Path):
    made = KINDS[kind](tmp_path)
    comparison = report.compare(made)
    answer, names = comparison.answer, {row.group[0][1] for row in comparison.rows}
    for width in (80, 120):
        lines = printed(made, width)
        assert names <= {line.split()[0] for line in lines if line}
        assert " ".join(" ".join(lines).split()).startswith(answer)
        assert max(map(len, lines)) <= width
        assert not any("…" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_terminal_there_is_a_line_for_the_answer_and_for_each_row(kind: str, tmp_path: Path):
    made = KINDS[kind](tmp_path)
    lines = printed(made, 80, terminal=False)
    assert lines[0] == report.compare(made).answer
    assert "\x1b" not in "".join(lines)


def test_the_table_has_the_difference_from_the_baseline_with_its_interval_and_p(tmp_path: Path):
    lines = printed(KINDS["default"](tmp_path), 120)
    (row,) = [line for line in lines if line.startswith("onecycle  ")]
    assert " to +" in row and "±" in row and "3/3" in row


def test_long_names_leave_room_for_the_interval_and_keep_each_row_on_a_line(tmp_path: Path):
    lines = printed(KINDS["groups"](tmp_path), 120)
    rows = [line for line in lines if "2/2" in line]
    assert len(rows) == 30 and all("±" in row for row in rows)
    assert any(" to +" in row for row in rows)


def test_a_negative_difference_has_the_same_sign_as_in_the_report(tmp_path: Path):
    made = hand_made.sweep(tmp_path, *(entry(f"{p}{s}", p, s) for p in ("constant", "clr") for s in range(3)))
    for one in made.trials:
        seed, worse = int(one.varies["seed"]), one.varies["policy"] == "clr"
        training(made.trial(one.signature), accuracy={4: 0.9 - 0.1 * worse + 0.001 * seed * seed * (1 + worse)})
    text = "\n".join(printed(made, 120))
    assert f"{MINUS}9" in text and "-9" not in text


def test_what_failed_is_told_once_for_its_seeds_with_its_log_and_before_all_else(tmp_path: Path):
    entries = [entry(f"{p}{s}", p, s) for p in ("constant", "clr") for s in range(3)]
    made = hand_made.sweep(tmp_path, *entries)
    for one in entries:
        trial = made.trial(one.signature)
        if one.varies["policy"] == "constant":
            training(trial, accuracy={4: 0.9}, warnings=["val is near chance"])
        else:
            training(trial, status="failed", cause="ValueError: no (net.py:3 in forward)", accuracy={1: 0.9})
            trial.log.write_text("a traceback")
    first, *others = report.highlights(report.compare(made))
    assert "clr max_lr=0.3 (seeds 0, 1, 2): ValueError: no (net.py:3 in forward)" in first
    assert first.endswith(f"log: {made.trial('clr0').log}")
    assert not any(line.startswith("failed") for line in others)
    assert any("3 trials: val is near chance" in line for line in others)


def test_trainings_whose_range_test_failed_are_told_with_it(tmp_path: Path):
    entries = [hand_made.range_test_entry(), entry("a", "clr", 0), entry("b", "step", 0)]
    made = hand_made.sweep(tmp_path, *entries)
    cause = "ValueError: no (net.py:3 in forward)"
    for one in entries:
        trial, prefix = made.trial(one.signature), "" if one.signature == "range" else "range test range: "
        trial.create({"task": "train"})
        trial.write("failure", {"cause": prefix + cause, "attempt": 0, "time": 0.0})
    (line,) = [line for line in report.highlights(report.compare(made)) if line.startswith("failed")]
    assert line == f"failed: range test and 2 other trials: {cause}"
    assert report.compare(made).answer == "On digits with simple_cnn, no training has finished: 2 failed."


def test_diverged_seeds_share_a_line(tmp_path: Path):
    made = hand_made.sweep(tmp_path, *(entry(f"a{s}", "clr", s) for s in (0, 1)))
    for one in made.trials:
        cause = f"the loss is nan at step {one.varies['seed']}"
        training(made.trial(one.signature), status="diverged", cause=cause, accuracy={1: 0.1})
    (line,) = [line for line in report.highlights(report.compare(made)) if line.startswith("diverged")]
    assert "(seeds 0, 1): the loss is nan at step 0" in line


def test_the_summary_is_the_golden_one(golden: Callable[[str, str], None], tmp_path: Path):
    golden("summary.txt", "\n".join(line.rstrip() for line in printed(KINDS["default"](tmp_path), 80)) + "\n")
