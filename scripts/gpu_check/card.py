"""The card, its driver and the code that is measured on it."""

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

import torch

from benchmarks import page

ROOT = Path(__file__).resolve().parents[2]
CODE = ("onecycle_sweeps", "hydra_plugins", "conf", "scripts/gpu_check", "scripts/benchmarks", "tests")
# What makes two measurements comparable.
IDENTITY = ("card", "code")


def facts() -> dict[str, str]:
    """The card first, then the machine around it and the versions."""
    properties = torch.cuda.get_device_properties(0)
    around = page.facts()
    if around["git commit"].endswith("-dirty"):
        # It says less than the digest of the code.
        del around["git commit"]
    return {
        "card": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB",
        "driver": _asked("driver_version") or "unknown",
        "CUDA, cuDNN": f"{torch.version.cuda}, {torch.backends.cudnn.version()}",
        "code": _digest(),
    } | around


def _digest() -> str:
    """The first digits of a SHA-256 over the program's files, which a checkout without .git has as well."""
    digest = hashlib.sha256()
    files = [path for part in CODE for path in (ROOT / part).rglob("*") if path.suffix in (".py", ".yaml")]
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Usage:
    """How busy a card was meanwhile: nvidia-smi's percentage, asked four times a second."""

    def __init__(self) -> None:
        self.percents: list[int] = []

    def __str__(self) -> str:
        return f"{mean(self.percents):.0f} %" if self.percents else "unknown"


@contextmanager
def watched() -> Iterator[Usage]:
    """Watch the card within it."""
    usage = Usage()
    if not shutil.which("nvidia-smi"):
        yield usage
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0", "-lms", "250"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        lines = process.stdout

        def listen() -> None:
            usage.percents += [int(line) for line in lines if line.strip().isdigit()]

        listening = threading.Thread(target=listen, daemon=True)
        listening.start()
        try:
            yield usage
        finally:
            process.terminate()
            listening.join()


def _asked(field: str) -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "-i", "0"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
