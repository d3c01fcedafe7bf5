"""A file system that lies as NFS does: stale handles, files without their content, and listings that lag."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import recorded
from onecycle_sweeps import files, journal, outcome
from onecycle_sweeps.trial import running
from onecycle_sweeps.trial_folder import TrialFolder

SOURCE = Path(__file__).with_name("lying_files.c")
# What a process sees of a trial; `files.NETWORK` has the file system on which the test runs.
LOOK = """
import sys
from pathlib import Path
from onecycle_sweeps import files, journal
from onecycle_sweeps.trial_folder import TrialFolder
trial = TrialFolder(Path(sys.argv[1]))
files.NETWORK = (files.file_system(trial.path),)
state = trial.state()
print(state.status, journal.read(trial.journal).durable, state.cause)
"""


@pytest.fixture
def trial(tmp_path: Path) -> TrialFolder:
    """A trial that has finished after 50 steps."""
    made = recorded.sweep(tmp_path, recorded.training("a"))
    recorded.attempt(made.trial("a"), 0, 50, saved=50)
    recorded.finish(made.trial("a"))
    return made.trial("a")


def stale(*_: object, **__: object) -> None:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


@pytest.mark.slow
def test_a_real_process_sees_through_the_lies_of_a_file_server(trial: TrialFolder, tmp_path: Path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")
    library = tmp_path / "lying.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    lies = (
        {"LIE_IN": "runs/a/", "STALE": "4"},
        {"LIE_IN": "0001.jsonl", "STALE": "3"},
        *({"LIE_IN": name, "HALF": "2"} for name in ("result.json", "resolved.json", "config.yaml", "0001.jsonl")),
        {"LIE_IN": "runs/a/journal", "STALE": "1"},
        {"LIE_IN": "runs/a/journal", "LAG": "9"},
    )
    looking = [seen(library, trial, **lie) for lie in lies]
    stays = seen(library, trial, LIE_IN="result.json", STALE="999")
    assert {finished(process) for process in looking} == {"finished 50 None\n"}
    assert finished(stays) == f"lost 50 {trial.path}/result.json cannot be read: Stale file handle after 6 tries\n"


def seen(library: Path, trial: TrialFolder, **lie: str) -> subprocess.Popen[str]:
    environment = os.environ | {"LD_PRELOAD": str(library)} | lie
    command = [sys.executable, "-c", LOOK, str(trial.path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return out


def test_a_stale_handle_is_tried_again_and_named_when_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "STALE_PAUSES", (0.0, 0.0))
    tries: list[int] = []

    def third_time() -> str:
        tries.append(1)
        return "whole" if len(tries) == 3 else stale() or ""

    assert files.steadily(tmp_path, third_time) == "whole"
    with pytest.raises(files.StaleHandle, match=rf"^{tmp_path} cannot be used: Stale file handle after 3 tries$"):
        files.steadily(tmp_path, stale)
    with pytest.raises(PermissionError):
        files.steadily(tmp_path, lambda: (_ for _ in ()).throw(PermissionError()))


def test_whatever_looks_at_a_trial_tries_a_stale_handle_again(trial: TrialFolder, monkeypatch: pytest.MonkeyPatch):
    trial.remove("result.json")
    known, state = journal.attempts(trial.journal), trial.state()
    monkeypatch.setattr(files, "STALE_PAUSES", (0.0, 0.0))
    for name in ("open", "stat"):
        monkeypatch.setattr(Path, name, every_second_time_stale(getattr(Path, name)))
    assert trial.state() == state
    assert sum(len(block.metrics.get("train/loss", ())) for block in journal.blocks(trial.journal, known)) == 50
    seen = trial.progress()
    assert seen and seen.step == 49


def every_second_time_stale(real: Callable[..., Any]) -> Callable[..., Any]:
    """A method of Path that fails with ESTALE at its first call, its third, ..."""
    calls: list[Path] = []

    def lying(self: Path, *arguments: Any, **rest: Any) -> Any:
        calls.append(self)
        return stale() if len(calls) % 2 and "runs" in self.parts else real(self, *arguments, **rest)

    return lying


def test_a_write_that_meets_a_stale_folder_is_repeated_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    replace = os.replace
    answers = iter([stale, replace])
    monkeypatch.setattr(os, "replace", lambda *paths: next(answers)(*paths))
    files.write_json(tmp_path / "a.json", {"whole": True})
    assert files.read_json(tmp_path / "a.json") == {"whole": True}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_is_not_whole_is_read_again_on_a_network_file_system_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files.write_json(tmp_path / "a.json", {"whole": True})
    reads = iter([b"", b'{"whole"', (tmp_path / "a.json").read_bytes(), b"", b""])
    monkeypatch.setattr(files, "read_bytes", lambda _: next(reads))
    monkeypatch.setattr(files, "HALF_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(files, "_is_remote", lambda _: True)
    assert files.read_json(tmp_path / "a.json") == {"whole": True}
    monkeypatch.setattr(files, "_is_remote", lambda _: False)
    with pytest.raises(files.Damaged, match="empty"):
        files.read_json(tmp_path / "a.json")


def test_a_listing_that_lags_neither_loses_an_attempt_nor_names_one_that_is_gone(
    trial: TrialFolder, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as lagging:
        lagging.setattr(files, "listed", lambda _: [])
        assert len(outcome.look(recorded.training("a"), trial).history) == 1
        assert trial.attempts() == 1
    # The new listing lacks the attempt that another machine has begun.
    number, book = running._next_attempt(trial, 1)
    book.begin(50)
    assert number == 2 and len(journal.attempts(trial.journal)) == 2
    listed = files.listed
    monkeypatch.setattr(files, "listed", lambda folder: [*listed(folder), "0003.jsonl"])
    assert [attempt.number for attempt in journal.attempts(trial.journal)] == [1, 2]
    assert [attempt.number for attempt in journal.read(trial.journal).attempts] == [1, 2]
    assert journal.latest_block(trial.journal) is None
