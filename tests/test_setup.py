"""scripts/setup, with a stand-in for Python that writes down what it is asked to do."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

STAND_IN = f"""#!/usr/bin/env bash
log() {{ printf '%s\\n' "$*" >>"$SETUP_LOG"; }}
case "$*" in
    *sys.version_info*) exit "${{TOO_OLD:-0}}" ;;
    *ensurepip*) exit "${{NO_VENV:-0}}" ;;
    *disk_usage*) echo "${{FREE_GB:-100}}" ;;
    *--version | *-VV) echo "Python ${{VERSION:-3.12.1}}" ;;
    "-m venv "*) log venv; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip "*) log "pip ${{*: -1}}"; sleep "${{PIP_SECONDS:-0}}"; log done; exit "${{PIP_STATUS:-0}}" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


class Checkout:
    """A folder with the scripts and pyproject.toml, and a stand-in for every Python that may be asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a checkout"
        self.log = folder / "log"
        self.log.touch()
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.folder)
        self.python = folder / "python3"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Begin scripts/setup in a session of its own, so that killing it kills all that it began."""
        env = os.environ | {"PYTHON": str(self.python), "SETUP_LOG": str(self.log)} | environment
        command = [str(self.folder / "scripts" / "setup"), *arguments]
        return subprocess.Popen(
            command, env=env, cwd="/", text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def setup(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run scripts/setup to its end: its exit status and what it said. It never writes to stdout."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        assert out == ""
        return process.returncode, err

    def asked(self) -> list[str]:
        """What the stand-in has been asked so far."""
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_setup_makes_the_environment_and_the_second_does_nothing(checkout: Checkout) -> None:
    assert checkout.setup()[0] == 0
    assert checkout.asked() == ["venv", "pip .", "done"]
    assert checkout.setup() == (0, "")
    assert checkout.asked() == ["venv", "pip .", "done"]


def test_an_extra_is_added_to_the_environment_and_covers_the_plain_setup(checkout: Checkout) -> None:
    checkout.setup()
    checkout.setup("test")
    assert checkout.asked() == ["venv", "pip .", "done", "pip .[test]", "done"]
    assert checkout.setup() == checkout.setup("test") == (0, "")


@pytest.mark.parametrize("change", ["pyproject.toml", "the version of Python"])
def test_a_change_installs_again_in_place(checkout: Checkout, change: str) -> None:
    checkout.setup()
    if change == "pyproject.toml":
        with (checkout.folder / "pyproject.toml").open("a") as file:
            file.write("# another word\n")
    environment = {} if change == "pyproject.toml" else {"VERSION": "3.13.0"}
    assert checkout.setup(**environment)[0] == 0
    assert checkout.asked() == ["venv", "pip .", "done", "pip .", "done"]


def test_an_environment_that_somebody_made_is_kept(checkout: Checkout) -> None:
    (checkout.folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(checkout.python, checkout.folder / ".venv" / "bin" / "python")
    assert checkout.setup()[0] == 0
    assert checkout.asked() == ["pip .", "done"]


def test_a_setup_that_was_killed_is_noticed_and_repeated(checkout: Checkout) -> None:
    process = checkout.start(PIP_SECONDS="60")
    _wait_for(checkout, "pip .")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    status, said = checkout.setup()
    assert status == 0
    assert "did not come to its end" in said
    assert checkout.asked() == ["venv", "pip .", "venv", "pip .", "done"]


def test_a_setup_that_pip_refused_is_tried_again_in_place(checkout: Checkout) -> None:
    status, said = checkout.setup(PIP_STATUS="1")
    assert status == 1
    assert "pip could not install" in said
    assert checkout.setup()[0] == 0
    assert checkout.asked() == ["venv", "pip .", "done", "pip .", "done"]


@pytest.mark.skipif(shutil.which("flock") is None, reason="without flock, set-ups do not wait for one another")
def test_two_setups_at_once_install_once(checkout: Checkout) -> None:
    first = checkout.start(PIP_SECONDS="1")
    _wait_for(checkout, "pip .")
    status, said = checkout.setup()
    assert (first.wait(), status) == (0, 0)
    assert "waiting for it" in said
    assert checkout.asked() == ["venv", "pip .", "done"]
    first.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"TOO_OLD": "1", "VERSION": "3.8.18"},
            "Python >= 3.11 with its venv module is needed; {python} is Python 3.8.18",
        ),
        ({"NO_VENV": "1"}, "{python} has no venv module (Debian and Ubuntu: apt install python3-venv)"),
        ({"PYTHON": "/nowhere/python3"}, "/nowhere/python3 does not run"),
        ({"FREE_GB": "3"}, "7 GB of free disk are needed in {folder}, and 3 GB are free"),
    ],
)
def test_a_machine_that_will_not_do_is_told_in_one_line(
    checkout: Checkout, environment: dict[str, str], sentence: str
) -> None:
    status, said = checkout.setup(**environment)
    assert status == 1
    assert sentence.format(python=checkout.python, folder=checkout.folder) in said
    assert said.count("\n") == 1
    assert checkout.asked() == []
    status, said = checkout.setup()
    assert status == 0
    assert "did not come to its end" not in said


def _wait_for(checkout: Checkout, line: str) -> None:
    end = time.monotonic() + 30
    while line not in checkout.asked():
        assert time.monotonic() < end, f"setup did not come to '{line}' within 30 s"
        time.sleep(0.02)
