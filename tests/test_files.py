"""Files are replaced whole or not at all, and a file system without locks is refused."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from onecycle_sweeps import files
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.files import Damaged
from onecycle_sweeps.launching import doctor, preflight
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.session import Session
from real_trials import SHORT as QUICK
from real_trials import request

KEPT = (*QUICK, "save_model=true")


def test_writers_with_one_pid_do_not_damage_the_file_that_they_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path, failed = tmp_path / "file.json", []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                files.write_json(path, {"text": str(number) * 5000})
                assert files.read_json(path)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == [] and [each.name for each in tmp_path.iterdir()] == ["file.json"]


def test_bytes_that_are_no_text_are_damage(tmp_path: Path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(Damaged, match=r"a\.json"):
        files.read_json(tmp_path / "a.json")


def test_a_lock_ends_with_the_process_that_took_it_whatever_that_has_forked(tmp_path: Path):
    held, (reader, writer) = files.lock(tmp_path / "lock"), os.pipe()
    if not (child := os.fork()):
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        with pytest.raises(files.AlreadyLocked):
            files.lock(tmp_path / "lock", seconds=0)
        held.close()
        files.lock(tmp_path / "lock", seconds=1).close()
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_refused_in_one_line(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    asked = request(runs_dir, *KEPT)
    session = Session(asked.config, Preflight(preflight.in_this_process), single=True, ships=False)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(files.NoLocks, match="runs_dir"):
        files.lock(runs_dir / "lock")
    assert doctor.runs_dir(runs_dir, on_nodes=False).word == "FAILS"
    with pytest.raises(ConfigError, match="cannot be locked"):
        session.launch([asked], lambda *_: iter(()))  # pyright: ignore[reportArgumentType]
