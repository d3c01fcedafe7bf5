"""The processes of one cluster: its daemons, job steps and jobs, and no other processes."""

import os
import signal
import time
from pathlib import Path

DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmscriptd", "slurmd", "slurmstepd")


def of(folder: Path) -> set[int]:
    """The ids of the living processes of the cluster in a folder."""
    parents = _parents()
    found = {pid for pid in parents if _belongs(Path(f"/proc/{pid}"), folder)}
    # A process that a job has started may have an empty environment.
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def end(folder: Path, seconds: float = 20.0) -> set[int]:
    """Kill them all, including those that are started meanwhile; returns those that are still alive in the end."""
    deadline = time.monotonic() + seconds
    while (left := of(folder)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    return left


def _parents() -> dict[int, int]:
    """The parent of each living process; a zombie is not living, and without an init that reaps it, it stays."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state not in "ZX":
            found[int(path.name)] = int(parent)
    return found


def _belongs(process: Path, folder: Path) -> bool:
    """Whether it is a daemon or a job; a shell that only has SLURM_CONF exported is neither."""
    try:
        environment = (process / "environ").read_bytes().split(b"\0")
        name = (process / "comm").read_text().strip()
    except OSError:
        return False
    if f"SLURM_CONF={folder}/slurm.conf".encode() not in environment:
        return False
    return name in DAEMONS or any(line.startswith(b"SLURM_JOB_ID=") for line in environment)
