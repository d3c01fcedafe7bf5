"""A command that is forked from a process with the libraries behaves as one that loads them itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from program import MODULE, ended, run, shared


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--version",), ("policy=clr", "max_lr=abc", "-m"), ("status",)])
def test_it_says_the_same_and_ends_with_the_same_status(tmp_path: Path, words: tuple[str, ...]):
    forked, fresh = run(tmp_path, *words), run(tmp_path, *words, fresh=True)
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


@pytest.mark.slow
def test_it_is_killed_by_its_own_id_and_its_status_says_so(tmp_path: Path):
    variables = warm.environment(shared(tmp_path))
    words, null = [*MODULE, "policy=constant", "-m"], subprocess.DEVNULL
    with subprocess.Popen(words, cwd=tmp_path, env=variables, stdout=null, start_new_session=True) as process:
        assert os.getpgid(process.pid) == process.pid
        process.kill()
        assert process.wait(60) == -signal.SIGKILL


def test_anything_else_is_started_as_ever(tmp_path: Path):
    done = ended([sys.executable, "-c", "raise SystemExit(7)"], tmp_path, os.environ)
    assert done.returncode == 7
