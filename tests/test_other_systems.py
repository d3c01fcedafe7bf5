"""A local sweep on a system without what only Linux has, such as macOS, whose terminal and locale know only ASCII."""

from pathlib import Path

import pytest

from program import QUICK, run, sweep_of, trials, with_store

# What macOS has not of the modules and files that Linux has; `loaded` counts the processes without it.
WITHOUT_LINUX = """
import builtins, io, os, select, signal, socket

LACKING = {
    os: "sched_getaffinity sched_setaffinity posix_fadvise fdatasync memfd_create eventfd pidfd_open copy_file_range "
    "splice pipe2 O_TMPFILE O_PATH getrandom getxattr setxattr",
    socket: "SOCK_SEQPACKET SOCK_CLOEXEC SOCK_NONBLOCK AF_NETLINK AF_VSOCK SO_PEERCRED",
    select: "epoll",
    signal: "SIGRTMIN SIGRTMAX SIGPWR SIGSTKFLT SIGPOLL",
}
for module, names in LACKING.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

opened = builtins.open


def open_without(file, *args, **kwargs):
    if str(file).startswith(("/proc", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return opened(file, *args, **kwargs)


builtins.open = io.open = open_without
with opened({loaded!r}, "a") as file:
    file.write("x")
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.slow
def test_a_local_sweep_needs_neither_linux_nor_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, loaded = tmp_path / "caf\u00e9", tmp_path / "loaded"
    folder.mkdir()
    with_store(folder)
    for name, value in ASCII.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "sitecustomize.py").write_text(WITHOUT_LINUX.replace("{loaded!r}", repr(str(loaded))))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lacking"), prepend=":")
    done = run(folder, *QUICK, "seed=0,1", "hydra.launcher.workers=2", "-m", fresh=True)
    assert done.returncode == 0, done.stderr
    assert "+-" in done.stdout
    # The launching process and the one that workers are forked from.
    assert len(loaded.read_text()) >= 2
    assert [one.result() is not None for one in trials(folder).values()] == [True, True]
    assert len(sweep_of(folder).trials) == 2
    asked = run(folder, "doctor", fresh=True)
    assert asked.returncode == 0, asked.stdout + asked.stderr
