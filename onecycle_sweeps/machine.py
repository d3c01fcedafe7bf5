"""What this process may use of the machine: cores by affinity, cgroup and SLURM, and the visible GPUs."""

import math
import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """How many cores this process may use, by its affinity, its cgroup's quota and its SLURM job."""
    bounds = [processors(), cpu_quota(), _granted()]
    return max(1, math.floor(min(bound for bound in bounds if bound is not None)))


def processors() -> int:
    """The processors that this process may run on; all of the machine's if the system has no affinity, as on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _granted() -> int | None:
    """The cores of the SLURM job that this process is in; not every cluster sets the affinity to them."""
    values = (os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    return next((int(value) for value in values if value.isdigit()), None)


def cpu_quota(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The lowest CPU quota, in cores, of the cgroups that this process is in; None if there is none."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
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


def gpus(count: Callable[[], int]) -> list[dict[str, str]]:
    """The GPUs that torch would find in this process: for each, the variable that makes it the only visible one.

    `count` counts them by torch, whose import takes seconds, so it is called only if neither a variable nor nvidia-smi
    lists them. On ROCm, HIP_VISIBLE_DEVICES has precedence over CUDA_VISIBLE_DEVICES.
    """
    names = ["CUDA_VISIBLE_DEVICES"] if shutil.which("nvidia-smi") else ["HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]
    for name in names:
        if (visible := os.environ.get(name)) is not None:
            return [{name: gpu} for gpu in _listed(visible)]
    return [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(_nvidias() or count())]


def _listed(visible: str) -> list[str]:
    listed = takewhile(lambda gpu: gpu != "-1", map(str.strip, visible.split(",")))
    return [gpu for gpu in listed if gpu]


def _nvidias() -> int:
    """How many GPUs NVIDIA's driver lists; 0 without one."""
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _quota(folder: Path) -> list[float]:
    """The quota of one cgroup in cores, by the file of cgroup version 2 or those of version 1; empty if it has none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
            quota, period = quota.read_text(encoding="utf-8"), period.read_text(encoding="utf-8")
        return [int(quota) / int(period)] if quota.strip() not in ("max", "-1") else []
    except (OSError, ValueError):
        return []
