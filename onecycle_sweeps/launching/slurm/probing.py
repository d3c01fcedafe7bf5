"""What the doctor's job runs on its node: it tries what a trial will need there."""

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from socket import gethostname
from typing import Any

from onecycle_sweeps import provenance, tracking
from onecycle_sweeps.files import read_json, write_json
from onecycle_sweeps.launching import places
from onecycle_sweeps.launching.finding import Finding, fails, ok, skipped

HOST = os.environ.get("SLURMD_NODENAME", gethostname())


def main(path: Path) -> None:
    """Answer the question at `path`, in a file beside it."""
    asked = read_json(path)
    if asked is None:
        raise FileNotFoundError(f"{path}, which tells what to look at, is not to be seen from {HOST}")
    findings = [asdict(finding) for finding in _findings(asked)]
    write_json(path.with_name("answer.json"), {"host": HOST, "findings": findings})


def _findings(asked: dict[str, Any]) -> Iterator[Finding]:
    yield _versions(asked["versions"])
    yield _devices(asked["gpus"])
    if tracking.is_server(asked["tracking_uri"]):
        yield replace(places.tracker(asked["tracking_uri"]), about="tracking there")
    else:
        yield skipped("tracking there", "jobs write journals alone, MLflow is filled from them here")


def _versions(there: dict[str, str]) -> Finding:
    """Whether this Python has what the submitting one has."""
    here = provenance.versions()
    try:
        import torch
    except ImportError as error:
        return fails("node", f"{HOST} cannot import torch: {error}")
    if others := [name for name in there if there[name] != here.get(name)]:
        told = ", ".join(f"{name} {here.get(name)} in place of {there[name]}" for name in others)
        return fails("node", f"{HOST} has {told}: let it use the environment that submits")
    return ok("node", f"{HOST} runs {sys.executable} with torch {torch.__version__} and the packages of this machine")


def _devices(gpus: int | str | None) -> Finding:
    """Whether torch sees the GPUs that were asked for."""
    import torch

    if not gpus:
        return skipped("cuda", "hydra.launcher.gpus_per_node asks for none")
    if count := torch.cuda.device_count():
        return ok("cuda", f"torch sees {count}, the first is {torch.cuda.get_device_name(0)}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return fails("cuda", f"torch {torch.__version__}, {built}, sees no device (CUDA_VISIBLE_DEVICES is {visible})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
