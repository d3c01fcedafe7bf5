"""The display of a running sweep."""

import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

import recorded
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching import display
from onecycle_sweeps.launching.display import Display, describe
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import DIVERGED, FAILED, FINISHED, RUNNING, TrialFolder

ROWS = 50
CONFIG = {"max_lr": "auto", "evaluations_per_epoch": 1, "epochs": 2, "batch_size": 8, "needs": {"data": "digits"}}


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of two trials: `a` has taken 60 of its 100 steps, `b` has finished."""
    made = recorded.sweep(tmp_path, recorded.training("a", "clr"), recorded.training("b"))
    recorded.attempt(made.trial("a"), 0, 60, config=CONFIG)
    recorded.attempt(made.trial("b"), 0, 100, config=CONFIG)
    recorded.finish(made.trial("b"), metrics={"final/val_accuracy": 0.9876, "seconds": 61.5})
    return made


def entries(made: Sweep) -> dict[str, Entry]:
    return {entry.signature: entry for entry in made.trials}


def test_without_a_terminal_each_trial_that_ends_leaves_a_plain_line(made: Sweep, capfd: pytest.CaptureFixture[str]):
    with Display(made, made.trials) as shown:
        shown.show(Event(entries(made)["a"], RUNNING))
        shown.show(Event(entries(made)["b"], RUNNING))
        shown.show(Event(entries(made)["b"], FINISHED))
        shown.show(Event())
        shown.show(Event(entries(made)["a"], FAILED, "the disk is full"))
    assert capfd.readouterr().err.splitlines() == [
        "[1/2] onecycle max_lr=0.8 seed=0: finished, val accuracy 98.76 %, 61.5 s",
        "[2/2] clr max_lr=0.8 seed=0: failed, the disk is full",
    ]


def test_without_a_terminal_the_progress_of_a_long_trial_is_printed_now_and_then(
    made: Sweep, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    with Display(made, made.trials) as shown:
        shown.show(Event(entries(made)["a"], RUNNING))
        shown.show(Event())
        shown.show(Event())
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("30 %, ") and " 0 of 2 trials done; 1 running, 1 waiting; " in line
    assert line.endswith("clr max_lr=0.8 seed=0: step 60/100, loss 2.59, lr 0.59, val accuracy 60.00 %")


def test_a_failure_is_told_once_with_its_log_and_not_again_for_other_seeds(tmp_path: Path, capfd: Any):
    entries = [replace(recorded.training(f"t{seed}"), varies={"policy": "clr", "seed": str(seed)}) for seed in range(3)]
    made = recorded.sweep(tmp_path, *entries)
    cause = "ArithmeticError: no way forward (net.py:10 in forward)"
    for entry in entries:
        recorded.attempt(made.trial(entry.signature), 0, 5)
        made.trial(entry.signature).log.write_text("a traceback")
    with Display(made, entries) as shown:
        shown.show(Event(entries[0], FAILED, cause))
        shown.show(Event(entries[1], FAILED, cause))
        shown.show(Event(entries[2], FAILED, f"range test 28ab: {cause}"))
    first, *others = capfd.readouterr().err.splitlines()
    assert cause in first and first.endswith(f"log: {made.trial('t0').log}")
    for line in others:
        assert cause not in line and "log.txt" not in line and "clr max_lr=0.8 seed=0" in line


def test_the_notes_of_an_attempt_are_printed_once_when_it_has_begun(made: Sweep, capfd: pytest.CaptureFixture[str]):
    with Display(made, made.trials) as shown:
        shown.show(Event(entries(made)["a"], RUNNING))
        assert not capfd.readouterr().err
        note = "net.py changed: the trial begins again from step 0"
        Journal(made.trial("a").journal, 2).begin(0, notes=[note])
        for event in (Event(), Event(), Event(entries(made)["a"], FAILED, "the disk is full")):
            shown.show(event)
    told, ended = capfd.readouterr().err.splitlines()
    assert told == f"clr max_lr=0.8 seed=0: {note}"
    assert ended.startswith("[1/2]")
    with Display(made, made.trials[:1]) as shown:
        shown.show(Event(entries(made)["a"], RUNNING))
        shown.show(Event())
    assert not capfd.readouterr().err


def test_code_that_changed_since_a_reused_result_is_named_before_anything_runs(
    made: Sweep, capfd: pytest.CaptureFixture[str]
):
    with Display(made, made.trials[:1], 1, ["layers.py"]):
        assert (line := capfd.readouterr().err).startswith("1 of 2 results") and "layers.py" in line


def test_reused_results_are_counted(made: Sweep, capfd: pytest.CaptureFixture[str]):
    with Display(made, made.trials[:1], 1):
        pass
    line = capfd.readouterr().err
    assert line.startswith("1 of 2 results") and "rerun=true" in line and line.count("\n") == 1


def test_a_range_test_that_ends_is_shown_with_its_rate(made: Sweep):
    trial = TrialFolder(made.runs_dir / "r")
    trial.create({"task": "range_test"})
    trial.write("resolved", {"max_lr": None, "total_steps": 100})
    Journal(trial.journal, 1, 0)
    recorded.finish(trial, metrics={"suggestion/max_lr": 0.1234, "seconds": 2.0})
    line = describe(trial, recorded.range_test("r"), FINISHED, None)
    assert line == "range test: finished, max_lr 0.123, 2.0 s"


def test_a_trial_that_diverged_is_shown_with_the_reason(made: Sweep):
    line = describe(made.trial("a"), entries(made)["a"], DIVERGED, "the loss is nan at step 7")
    assert line == "clr max_lr=0.8 seed=0: diverged, the loss is nan at step 7"


SHOW = """
import sys
from pathlib import Path
from onecycle_sweeps import sweep
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching import display
from onecycle_sweeps.launching.queue import Event

display.REFRESH_SECONDS = 0.0
made = sweep.load(Path(sys.argv[1]))
a, b = made.trials
with display.Display(made, made.trials) as shown:
    shown.show(Event(a, "running"))
    shown.show(Event(b, "running"))
    shown.show(Event(b, "finished"))
    shown.show(Event())
print("the table")
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [120, 80])
def test_on_a_terminal_a_live_table_shows_the_running_trials_and_is_removed_in_the_end(made: Sweep, columns: int):
    seen = in_a_terminal([sys.executable, "-c", SHOW, str(made.folder)], columns)
    both = "0 of 2 trials done; 2 running, 0 waiting"
    headings, first, second, bar, counts = screen(seen[: seen.index(both) + len(both)], columns)
    assert {"running", "step", "loss", "left"} <= set(headings.split())
    assert re.match(r"clr max_l\S* .*60/100 +2\.59 .*60\.00 %", first)
    assert re.match(r"onecycle\S* .*100/100 +2\.99 .*100\.00 %", second)
    assert "80 %, at least " in bar
    assert counts == both
    assert max(map(len, (headings, first, second, bar, counts))) <= columns
    after = [line for line in screen(seen, columns) if line]
    assert "".join(after) == ("[1/2] onecycle max_lr=0.8 seed=0: finished, val accuracy 98.76 %, 61.5 sthe table")
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h")


@pytest.mark.slow
def test_the_standing_of_a_trial_has_its_colour_on_a_terminal_unless_no_color_is_set(made: Sweep):
    command = [sys.executable, "-c", SHOW, str(made.folder)]
    assert "\x1b[32mfinished" in in_a_terminal(command, 80)
    plain = in_a_terminal(command, 80, NO_COLOR="1")
    assert "finished" in plain and not re.search(r"\x1b\[3\dm", plain)


@pytest.mark.parametrize("running", [3, 300])
def test_more_running_trials_than_a_terminal_has_lines_leave_room_for_the_bar(tmp_path: Path, running: int):
    entries = [recorded.training(f"t{i}") for i in range(running)]
    made = recorded.sweep(tmp_path, *entries)
    for entry in entries:
        made.trial(entry.signature).create(CONFIG)
    shown = Display(made, entries)
    shown._console = Console(force_terminal=True, width=80, height=24, color_system=None)
    shown._seen = dict.fromkeys((entry.signature for entry in entries), None)
    shown.running = {entry.signature: entry for entry in entries}
    with shown._console.capture() as captured:
        for part in shown._running_trials():
            shown._console.print(part)
    lines = captured.get().splitlines()
    assert len(lines) <= 24 - 3
    assert ("and " in lines[-1] and "more" in lines[-1]) == (running > 24)


def test_trials_that_a_terminal_has_no_line_for_are_looked_at_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entries = [recorded.training(f"t{i}") for i in range(40)]
    shown = Display(recorded.sweep(tmp_path, *entries), entries)
    shown._console = Console(force_terminal=True, width=80, height=24, color_system=None)
    shown._live = Live(console=shown._console, auto_refresh=False)
    shown.running = {entry.signature: entry for entry in entries}
    looked_at: list[str] = []
    monkeypatch.setattr(shown, "_progress", looked_at.append)
    shown._show_progress()
    assert len(looked_at) == 40
    looked_at.clear()
    shown._show_progress()
    assert looked_at == [f"t{i}" for i in range(24 - display.OTHER_LINES - 1)]


def in_a_terminal(command: list[str], columns: int, **more: str) -> str:
    """All that a command writes to a terminal with so many columns."""
    leader, follower = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": str(ROWS)} | more
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=env) as process:
        os.close(follower)
        seen = b""
        while chunk := _read(leader):
            seen += chunk
        os.close(leader)
        assert process.wait() == 0, seen.decode()
    return seen.decode()


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # the last process at the other end has gone
        return b""


def screen(written: str, columns: int) -> list[str]:
    """The lines of a terminal after this was written to it; knows only the escape sequences that rich uses."""
    rows, row, column = [""], 0, 0
    for mark, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", written):
        if mark == "\r":
            column = 0
        elif mark == "\n":
            row += 1
        elif up := re.fullmatch(r"\x1b\[(\d+)A", mark):
            row -= int(up[1])
        elif mark == "\x1b[2K":
            rows[row] = ""
        elif mark and not re.fullmatch(r"\x1b\[(\?25[lh]|[\d;]*m)", mark):
            raise AssertionError(f"{mark!r} is not understood")
        for character in text:
            if column == columns:
                row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
            rows[row] = rows[row].ljust(column)[:column] + character + rows[row][column + 1 :]
            column += 1
        rows += [""] * (row + 1 - len(rows))
    return [line.rstrip() for line in rows]
