"""The machine and the packages of a benchmark."""

import importlib.metadata
import importlib.util
import os
import platform
import time
from pathlib import Path

from onecycle_sweeps import provenance
from onecycle_sweeps.machine import cores, cpu_quota

PACKAGES = ("onecycle-sweeps", "torch", "torchvision", "fastai", "lightning", "torch-lr-finder", "mlflow", "hydra-core")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
HOW_TO_INSTALL = "pip install -e '.[peers]' (or scripts/setup peers)"
DATA_ROOT = Path(os.environ.get("ONECYCLE_DATA", "data")).absolute()


def facts() -> dict[str, str]:
    """The machine, its load before the measurement, and the versions of what is compared."""
    flags = _cpu("flags").split()
    affinity, quota = len(os.sched_getaffinity(0)), cpu_quota() or "none"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "CPU": f"{_cpu('model name')}, {platform.machine()}",
        "instructions": ", ".join(f"{'has' if flag in flags else 'lacks'} {flag}" for flag in FLAGS),
        "cores": f"{os.cpu_count()}; affinity {affinity}, cgroup quota {quota}; used {cores()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "load average at the start": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **{package: _version(package) for package in PACKAGES},
        "git commit": provenance.git_commit(Path(__file__).parent) or "no checkout",
    }


def missing(*modules: str) -> list[str]:
    """The modules that are not installed."""
    return [module for module in modules if importlib.util.find_spec(module) is None]


def left_out(what: str, module: str) -> str:
    """The reason why something is not run, and how to change that."""
    return f"{what}: {module} not installed; {HOW_TO_INSTALL}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu(field: str) -> str:
    """A field of the first processor in /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}\t")), "unknown")
