"""The precision of a trial that leaves it open: a fixed table of devices and kinds of nets, never a timing.

| device computes in bf16 | fewer than 50,000 weights | grouped convolutions | all others |
|---|---|---|---|
| CUDA (capability 8.0 and up) | fp32 | bf16 | bf16 |
| CPU (avx512_bf16, amx_bf16, or Arm's bf16) | fp32 | fp32 | bf16 |
| neither | fp32 | fp32 | fp32 |

`scripts/benchmark precision` measures the CPU's row, `scripts/gpu-check step` CUDA's. On an H200 (docs/gpu) bf16 takes
1.5 to 2.0 times less where the GPU is busy (ResNet-9 and WRN-22 at batch 512), and up to a quarter more where the step
waits for its kernels to be started (all nets at batch 128, deep and narrow ones at 512 too).
"""

import re
from pathlib import Path

import torch
from torch import nn

# A smaller net does not spend its time in the products that bf16 makes faster, and casts add to it.
SMALL_NET = 50_000
CUDA_CAPABILITY = (8, 0)
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
CPU_INFO = Path("/proc/cpuinfo")


def chosen(device: str, model: nn.Module) -> str:
    """bf16 where it makes the training of this net faster on this device, else fp32."""
    if sum(weights.numel() for weights in model.parameters()) < SMALL_NET:
        return "fp32"
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.get_device_capability(device) >= CUDA_CAPABILITY else "fp32"
    return "bf16" if cpu_computes_bf16() and not _has_grouped_convolutions(model) else "fp32"


def cpu_computes_bf16(info: Path = CPU_INFO) -> bool:
    """Whether this machine's processor multiplies in bf16, by the flags that Linux tells; elsewhere it is not known."""
    try:
        listed = re.search(r"^(?:flags|Features)\s*:(.*)$", info.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return False
    return listed is not None and not CPU_FLAGS.isdisjoint(listed[1].split())


def _has_grouped_convolutions(model: nn.Module) -> bool:
    """Whether it has convolutions within groups of channels, which oneDNN computes slower in bf16 than in fp32."""
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return any(isinstance(part, convolutions) and part.groups > 1 for part in model.modules())
