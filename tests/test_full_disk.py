"""A full disk fails a trial with that reason until there is room; a full disk under the server costs nothing."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import outages
from onecycle_sweeps import checkpoint, files, journal, trial
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.trial import TrialFailed
from onecycle_sweeps.trial_folder import FAILED, TrialFolder, TrialState
from real_trials import SHORT, made, outcome, undisturbed
from tracking_server import up

# The size of the disk under a server.
DISK_MB = 160
KEPT = (*SHORT, "save_model=true", "checkpoint_minutes=1e-9")
NO_SPACE = f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"
FILLS_UP = """
import sys
from pathlib import Path
from onecycle_sweeps import trial
from onecycle_sweeps.trial_folder import TrialFolder
folder = TrialFolder(Path(sys.argv[1]))
for _ in range(2):
    try:
        print(trial.run(folder)["status"])
    except trial.TrialFailed as error:
        print(error)
    Path(sys.argv[2]).unlink(missing_ok=True)
"""


def full(path: Path) -> Path:
    """Let a file be one that the kernel refuses to fill."""
    path.symlink_to("/dev/full")
    return path


def with_part(monkeypatch: pytest.MonkeyPatch, name: str, part: Path) -> None:
    """Let the next version of a file be written there first, once."""
    temporary_path, left = files.temporary_path, [part]
    monkeypatch.setattr(
        files, "temporary_path", lambda path: left.pop() if path.name == name and left else temporary_path(path)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint.pt", "model.pt", "result.json", "resolved.json"])
def test_a_record_that_does_not_fit_on_the_disk_fails_the_trial_with_that_reason(
    runs_dir: Path, beside: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    folder = made(runs_dir, *KEPT)
    with_part(monkeypatch, name, full(folder.path / f".{name}.part"))
    with pytest.raises(TrialFailed, match=r"^the disk is full: ") as raised:
        trial.run(folder)
    assert NO_SPACE in str(raised.value)
    assert folder.state() == TrialState(FAILED, str(raised.value))
    assert folder.result() is None
    assert journal.read(folder.journal).torn == 0
    assert trial.run(folder)["status"] == "finished"
    assert outcome(folder) == undisturbed(beside, *KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 2, 7, 20])
def test_a_journal_that_does_not_fit_on_the_disk_fails_the_trial_and_stays_readable(
    runs_dir: Path, beside: Path, monkeypatch: pytest.MonkeyPatch, lines: int
):
    folder, room = made(runs_dir, *KEPT), iter([*[sys.maxsize] * (lines - 1), 20])
    whole = os.write

    def write(file: int, data: memoryview) -> int:
        """Some lines find room, the next one finds it for 20 bytes, and then there is none."""
        if (left := next(room, 0)) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(file, data[:left])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(TrialFailed, match=r"^the disk is full: ") as raised:
            trial.run(folder)
    record = journal.read(folder.journal)
    assert record.torn == (lines > 1)
    assert record.series("train/loss")[0] == list(range(len(record.series("train/loss")[0])))
    saved = checkpoint.load(folder.checkpoint)
    assert saved is None or record.covers("train/loss", saved["step"])
    assert folder.state() == TrialState(FAILED, str(raised.value))
    assert trial.run(folder)["status"] == "finished"
    assert journal.read(folder.journal).attempts[-1].start == (saved["step"] if saved else 0)
    assert outcome(folder) == undisturbed(beside, *KEPT)


def test_a_failure_that_could_only_be_written_to_the_journal_is_known(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    folder = made(runs_dir, *KEPT)
    with_part(monkeypatch, "result.json", full(folder.path / ".result.json.part"))

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TrialFolder, "write", no_room)
    with pytest.raises(TrialFailed) as raised:
        trial.run(folder)
    assert folder.failure() is None
    assert folder.state() == TrialState(FAILED, str(raised.value))


@pytest.mark.slow
def test_a_log_that_does_not_fit_on_the_disk_costs_no_result(
    runs_dir: Path, beside: Path, capsys: pytest.CaptureFixture[str]
):
    folder = made(runs_dir, *KEPT)
    full(folder.log)
    assert trial.run(folder)["status"] == "finished"
    assert outcome(folder) == undisturbed(beside, *KEPT)
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trial_on_a_really_full_disk_continues_once_there_is_room(runs_dir: Path, beside: Path, tmp_path: Path):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no file system of its own can be mounted here: unshare -rm is not allowed")
    here, disk, kept = made(runs_dir, *KEPT), tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    there = disk / "runs" / here.signature
    script = f"""set -e
        mount -t tmpfs -o size=1m tmpfs {disk}
        mkdir {disk}/runs
        ln -s {runs_dir}/data {disk}/runs/data
        cp -r {here.path} {there}
        head -c 1m /dev/zero > {disk}/ballast || truncate -s -400k {disk}/ballast
        "$@"
        cp -r {there} {kept}"""
    program = [sys.executable, "-c", FILLS_UP, str(there), str(disk / "ballast")]
    command = ["unshare", "-rm", "sh", "-c", script, "sh", *program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    first, second = done.stdout.splitlines() or [done.stderr, ""]
    assert first.startswith("the disk is full: ")
    assert second == "finished"
    assert outcome(TrialFolder(kept)) == undisturbed(beside, *KEPT)


def test_a_disk_that_fills_up_after_the_result_loses_nothing(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    folder = made(runs_dir, *SHORT, "save_model=true")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for owner, name in ((Journal, "saved"), (Journal, "end"), (TrialFolder, "remove")):
        monkeypatch.setattr(owner, name, full if name != "remove" else lambda *_: None)
    assert trial.run(folder)["status"] == "finished"
    assert folder.state().status == "finished" and folder.failure() is None


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small disk that PostgreSQL's user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("cannot mount a disk here: that needs root, and a container that allows it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.server
def test_a_full_disk_under_the_server_costs_no_step_and_no_point(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "server").mkdir()
    (disk / "artifacts").mkdir()
    (tmp_path / "server" / "artifacts").symlink_to(disk / "artifacts")
    with up(tmp_path / "server", TMPDIR=str(disk)) as server:
        said = server.folder / "log" / "postgres.log"
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with outages.training(tmp_path, server.uri, server.environment) as begun:
            windows = {"disk full": begun.through(outages.full(server, disk))}
            assert server.is_alive("postgres")
            # It refuses what is to be stored, or already a new connection, for which it writes a file.
            assert re.search("(ERROR|FATAL):  could not (extend|write)", said.read_text())
            windows["disk full, PostgreSQL ended"] = begun.through(outages.full_to_its_log(server, disk))
        assert begun.sync() == [0, 0]
        assert "No space left on device" in said.read_text()
        costs = begun.costs(windows)
    outages.tell(costs)
    for found in costs.values():
        assert (found.lost, found.doubled) == (0, 0)
        assert found.longest < outages.STALL_SECONDS
