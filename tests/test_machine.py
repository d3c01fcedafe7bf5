"""The cores and GPUs that a process may use."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onecycle_sweeps import machine

Cgroup = Callable[[str, dict[str, str]], float | None]


@pytest.fixture
def quota(tmp_path: Path) -> Cgroup:
    """The quota of a process with this /proc/self/cgroup and these files in /sys/fs/cgroup."""

    def read(own: str, files: dict[str, str]) -> float | None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        (tmp_path / "own").write_text(own)
        return machine.cpu_quota(tmp_path, tmp_path / "own")

    return read


def test_a_process_bound_to_one_core_has_one_core():
    bind = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})"
    ask = "from onecycle_sweeps import machine; print(machine.cores())"
    done = subprocess.run([sys.executable, "-c", f"{bind}; {ask}"], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    ("allowed", "quota", "cores"), [(8, None, 8), (8, 2.9, 2), (8, 0.5, 1), (2, 16.0, 2), (8, 8.0, 8)]
)
def test_a_quota_bounds_the_cores(allowed: int, quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.cores() == cores


@pytest.mark.parametrize(
    ("granted", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "6"}, 3),
        ({"SLURM_CPUS_ON_NODE": "6"}, 6),
        ({"SLURM_CPUS_PER_TASK": "64"}, 8),
        ({"SLURM_CPUS_PER_TASK": ""}, 8),
    ],
)
def test_a_slurm_job_has_no_more_cores_than_it_was_granted(
    granted: dict[str, str], cores: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in granted.items():
        monkeypatch.setenv(name, value)
    assert machine.cores() == cores


def test_the_quota_of_a_version_2_cgroup_is_read(quota: Cgroup):
    assert quota("0::/job\n", {"job/cpu.max": "250000 100000\n"}) == 2.5


def test_a_container_sees_its_own_cgroup_as_the_root(quota: Cgroup):
    assert quota("0::/\n", {"cpu.max": "150000 100000\n"}) == 1.5


def test_a_cgroup_path_outside_the_container_falls_back_to_the_root(quota: Cgroup):
    assert quota("0::/../../docker/1234\n", {"cpu.max": "300000 100000\n"}) == 3


def test_the_narrowest_of_the_cgroups_around_counts(quota: Cgroup):
    files = {"slurm/cpu.max": "400000 100000\n", "slurm/job_7/cpu.max": "max 100000\n", "cpu.max": "900000 100000\n"}
    assert quota("0::/slurm/job_7/step_0\n", files) == 4


def test_the_quota_of_a_version_1_cgroup_is_read(quota: Cgroup):
    files = {"cpu/job/cpu.cfs_quota_us": "300000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}
    assert quota("7:cpuset:/other\n4:cpu,cpuacct:/job\n", files) == 3


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/job\n", {"job/cpu.max": "max 100000\n"}),
        ("4:cpu:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}),
        ("4:memory:/job\n", {"memory/job/cpu.cfs_quota_us": "1\n"}),
        ("0::/job\n", {}),
        ("0::/job\n", {"job/cpu.max": "nonsense\n"}),
    ],
)
def test_without_a_quota_there_is_no_bound(quota: Cgroup, own: str, files: dict[str, str]):
    assert quota(own, files) is None


def test_a_system_without_cgroups_has_no_bound(tmp_path: Path):
    assert machine.cpu_quota(tmp_path, tmp_path / "missing") is None


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which no variable names a GPU, and PATH is only this folder."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def driver(folder: Path, lines: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    tool.chmod(0o755)


def unasked() -> int:
    raise AssertionError("torch was asked")


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("0,1", ["0", "1"]),
        (" 2, 5 ", ["2", "5"]),
        ("GPU-8a3c,MIG-1f", ["GPU-8a3c", "MIG-1f"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
    ],
)
@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"])
@pytest.mark.usefixtures("bare")
def test_the_gpus_are_those_that_torch_is_shown(
    name: str, visible: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, visible)
    assert machine.gpus(unasked) == [{name: gpu} for gpu in gpus]


def test_rocm_looks_at_its_own_variable_first_and_cuda_not_at_all(bare: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,3")
    assert machine.gpus(unasked) == [{"HIP_VISIBLE_DEVICES": "2"}, {"HIP_VISIBLE_DEVICES": "3"}]
    driver(bare, "GPU 0: H100")
    assert machine.gpus(unasked) == [{"CUDA_VISIBLE_DEVICES": "0"}]


def test_without_a_variable_the_driver_lists_the_gpus(bare: Path):
    driver(bare, r"GPU 0: H100 (UUID: GPU-1)\n  MIG 1g\nGPU 1: H100 (UUID: GPU-2)\n")
    assert machine.gpus(unasked) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


@pytest.mark.parametrize("says", [None, "", r"No devices were found\n"])
def test_if_no_driver_lists_a_gpu_torch_counts_them(says: str | None, bare: Path):
    if says is not None:
        driver(bare, says)
    assert machine.gpus(lambda: 0) == []
    assert machine.gpus(lambda: 2) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


def test_without_affinity_all_processors_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine.processors() == 7
