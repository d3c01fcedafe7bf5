"""What this process may use of the machine: cores by affinity, cgroup and SLURM, GPUs by what is visible."""

import math
import os
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """The cores that this process may run on, and no more than its cgroup's quota allows or SLURM has granted."""
    bounds = [len(os.sched_getaffinity(0)), cpu_quota(), _granted()]
    return max(1, math.floor(min(bound for bound in bounds if bound is not None)))


def _granted() -> int | None:
    """The cores of a SLURM job around this process, which not every cluster binds it to."""
    values = (os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    return next((int(value) for value in values if value.isdigit()), None)


def cpu_quota(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The cores' worth of time that the narrowest cgroup around this process grants; None where there is no bound."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups if not controllers else cgroups / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        for folder in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):
            quotas += _quota(folder)
            if folder == root:
                break
    return min(quotas, default=None)


def gpus() -> list[str]:
    """The GPUs that CUDA would show this process, as values for CUDA_VISIBLE_DEVICES."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        listed = takewhile(lambda gpu: gpu != "-1", map(str.strip, visible.split(",")))
        return [gpu for gpu in listed if gpu]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]


def _quota(folder: Path) -> list[float]:
    """A cgroup's own quota in cores, from version 2's file or version 1's."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
            quota, period = quota.read_text(), period.read_text()
        return [int(quota) / int(period)] if quota.strip() not in ("max", "-1") else []
    except (OSError, ValueError):
        return []
