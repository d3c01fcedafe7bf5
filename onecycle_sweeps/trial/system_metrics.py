"""What a trial's process takes of its machine, by the names of MLflow's system metrics."""

import os
import time
from contextlib import suppress
from pathlib import Path

import torch

INTERVAL_SECONDS = 1.0
MEGABYTE = 10**6


class SystemMetrics:
    """Measures this process and the memory and use of its GPU, at most once every INTERVAL_SECONDS.

    The use of a CPU is in per cent of one core. That of a GPU needs the package nvidia-ml-py.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._time, self._cpu = time.monotonic(), time.process_time()

    def measure(self) -> dict[str, list[float]]:
        """Each metric with its value; empty where the last measurement is too recent."""
        now, cpu = time.monotonic(), time.process_time()
        if (passed := now - self._time) < INTERVAL_SECONDS:
            return {}
        found = {"system/cpu_utilization_percentage": [100 * (cpu - self._cpu) / passed]}
        self._time, self._cpu = now, cpu
        # Other systems than Linux do not have the file.
        with suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found["system/system_memory_usage_megabytes"] = [pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE]
        if self._device.startswith("cuda"):
            found["system/gpu_0_memory_usage_megabytes"] = [torch.cuda.memory_reserved(self._device) / MEGABYTE]
            with suppress(ImportError, RuntimeError):
                found["system/gpu_0_utilization_percentage"] = [float(torch.cuda.utilization(self._device))]
        return found
