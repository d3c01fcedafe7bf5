"""What the user reads on a terminal: an exception in one line."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onecycle_sweeps.launching import commands


def test_a_keyboard_interrupt_that_no_signal_has_raised_is_a_mistake_of_the_users_code(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
):
    session: Any = SimpleNamespace(close=lambda: None, sweep=None, typed_in=None)
    before = signal.getsignal(signal.SIGINT)
    said: list[Any] = []
    with (
        pytest.raises(SystemExit) as left,
        commands.errors_in_one_line(),
        commands.interruptible(session, lambda *what: said.append(what)),
    ):
        raise KeyboardInterrupt
    assert left.value.code == 2 and "test_terminal.py" in capsys.readouterr().err and said == []
    with (
        pytest.raises(SystemExit) as left,
        commands.errors_in_one_line(),
        commands.interruptible(session, lambda *what: said.append(what)),
    ):
        signal.raise_signal(signal.SIGINT)
    assert left.value.code == 130 and said == [(None, None)]
    assert signal.getsignal(signal.SIGINT) == before
