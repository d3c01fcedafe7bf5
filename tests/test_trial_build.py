"""What a trial is trained with where its config leaves it open: the precision; and how it takes memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from onecycle_sweeps.models.lenet import LeNet
from onecycle_sweeps.models.simple_cnn import SimpleCNN
from onecycle_sweeps.trial import build

SMALL = nn.Conv2d(3, 64, 3)
WIDE = nn.Conv2d(64, 256, 3)
DEPTHWISE = nn.Sequential(nn.Conv2d(3, 512, 7), nn.Conv2d(512, 512, 7, groups=512))
X86 = "processor : 0\nflags\t\t: fpu sse avx512f {} rdpid\nprocessor : 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("net", "found"),
    [(SMALL, "fp32"), (SimpleCNN(1, 10), "fp32"), (LeNet(1, 10), "bf16"), (WIDE, "bf16"), (DEPTHWISE, "fp32")],
)
def test_a_processor_that_computes_in_bf16_trains_all_but_small_and_depthwise_nets_in_it(net, found, monkeypatch):
    monkeypatch.setattr(build, "cpu_computes_bf16", lambda: True)
    assert build.choose_precision("cpu", net) == found


@pytest.mark.parametrize("net", [SMALL, WIDE, DEPTHWISE])
def test_a_processor_without_bf16_trains_every_net_in_fp32(net, monkeypatch):
    monkeypatch.setattr(build, "cpu_computes_bf16", lambda: False)
    assert build.choose_precision("cpu", net) == "fp32"


@pytest.mark.parametrize(("net", "found"), [(SMALL, "fp32"), (WIDE, "bf16"), (DEPTHWISE, "bf16")])
def test_a_gpu_from_capability_8_on_trains_all_but_small_nets_in_bf16(net, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert build.choose_precision("cuda:1", net) == found


def test_an_older_gpu_trains_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert build.choose_precision("cuda", WIDE) == "fp32"


@pytest.mark.parametrize(
    ("told", "computes"),
    [
        (X86.format("avx512_bf16"), True),
        (X86.format("amx_bf16 amx_tile"), True),
        (X86.format("avx512_vnni"), False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor\t: 0\nmodel name\t: bf16\n", False),
    ],
)
def test_whether_a_processor_computes_in_bf16_is_read_off_its_flags(told: str, computes: bool, tmp_path: Path):
    (tmp_path / "cpuinfo").write_text(told)
    assert build.cpu_computes_bf16(tmp_path / "cpuinfo") is computes


def test_a_processor_without_listed_flags_counts_as_one_without_bf16(tmp_path: Path):
    assert build.cpu_computes_bf16(tmp_path / "none") is False


PROGRAM = """
import resource, threading
import torch
from onecycle_sweeps.trial.build import keep_freed_memory
{call}
def rounds(count):
    for _ in range(count):
        torch.ones(10_000_000)
def count():
    rounds(16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    rounds(32)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


def faults(call: str) -> int:
    """How many pages a thread is given anew while it fills 40 MB 32 times, after 16 such rounds."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
def test_freed_memory_is_reused_without_new_page_faults():
    # Whatever else a thread needs may lie in the way, and 40 MB are taken elsewhere once.
    assert faults("keep_freed_memory()") < faults("") / 4
