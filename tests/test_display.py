"""The display of a running sweep."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import recorded
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching import display
from onecycle_sweeps.launching.display import Display, describe
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import DIVERGED, FAILED, FINISHED, RUNNING, TrialFolder

ROWS = 50


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of two trials: `a` has taken 60 of its 100 steps, `b` has finished."""
    made = recorded.sweep(tmp_path, recorded.training("a", "clr"), recorded.training("b"))
    recorded.attempt(made.trial("a"), 0, 60)
    recorded.attempt(made.trial("b"), 0, 100)
    recorded.finish(made.trial("b"), metrics={"final/val_accuracy": 0.9876, "seconds": 61.5})
    return made


def entries(made: Sweep) -> dict[str, Entry]:
    return {entry.signature: entry for entry in made.trials}


def test_without_a_terminal_each_trial_that_ends_leaves_a_plain_line(made: Sweep, capfd: pytest.CaptureFixture[str]):
    with Display(made, 2) as shown:
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
    with Display(made, 2) as shown:
        shown.show(Event(entries(made)["a"], RUNNING))
    (line,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"clr max_lr=0\.8 seed=0: step 60/100, loss 2\.59, lr 0\.59(, \d+ s left)?", line)


def test_the_notes_of_an_attempt_are_printed_once_when_it_has_begun(made: Sweep, capfd: pytest.CaptureFixture[str]):
    with Display(made, 2) as shown:
        shown.show(Event(entries(made)["a"], RUNNING))
        assert not capfd.readouterr().err
        note = "net.py changed: the trial begins again from step 0"
        Journal(made.trial("a").journal, 2).begin(0, notes=[note])
        for event in (Event(), Event(), Event(entries(made)["a"], FAILED, "the disk is full")):
            shown.show(event)
    told, ended = capfd.readouterr().err.splitlines()
    assert told == f"clr max_lr=0.8 seed=0: {note}"
    assert ended.startswith("[1/2]")
    with Display(made, 1) as shown:
        shown.show(Event(entries(made)["a"], RUNNING))
        shown.show(Event())
    assert not capfd.readouterr().err


def test_code_that_changed_since_a_reused_result_is_named_before_anything_runs(
    made: Sweep, capfd: pytest.CaptureFixture[str]
):
    with Display(made, 1, 1, ["layers.py"]):
        assert (line := capfd.readouterr().err).startswith("1 of 2 results") and "layers.py" in line


def test_reused_results_are_counted(made: Sweep, capfd: pytest.CaptureFixture[str]):
    with Display(made, 1, 1):
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
with display.Display(made, 2) as shown:
    shown.show(Event(a, "running"))
    shown.show(Event(b, "running"))
    shown.show(Event(b, "finished"))
    shown.show(Event())
print("the table")
"""


@pytest.mark.parametrize("columns", [120, 40])
def test_on_a_terminal_a_live_table_shows_the_running_trials_and_is_removed_in_the_end(made: Sweep, columns: int):
    seen = in_a_terminal([sys.executable, "-c", SHOW, str(made.folder)], columns)
    both = "0 of 2 trials done; 2 running, 0 waiting"
    headings, first, second, counts = screen(seen[: seen.index(both) + len(both)], columns)
    assert headings.split() == ["running", "progress"]
    assert re.match(r"clr max_l\S+ .* ?step 60/100, loss 2\.59", first)
    assert re.match(r"onecycle \S+ .* ?step 100/100, loss 2\.99", second)
    assert counts == both
    after = [line for line in screen(seen, columns) if line]
    assert "".join(after) == ("[1/2] onecycle max_lr=0.8 seed=0: finished, val accuracy 98.76 %, 61.5 sthe table")
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h")


def in_a_terminal(command: list[str], columns: int) -> str:
    """All that a command writes to a terminal with so many columns."""
    leader, follower = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": str(ROWS)}
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
