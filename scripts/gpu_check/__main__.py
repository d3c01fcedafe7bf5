"""Runs the parts that are named, by default all but presets, and writes gpu.md and a JSON file for each part."""

import argparse
import importlib
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.page import Result, markdown
from gpu_check import card
from gpu_check.figures import Options, restored

PARTS = ("tests", "step", "packed", "presets")
BY_DEFAULT = PARTS[:3]
NO_CUDA = 2


def main() -> int:
    """The exit status: 0, 1 where a test failed or a figure could not be taken, 2 without CUDA."""
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all but presets")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for the page and its figures")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        print(f"scripts/gpu-check needs a CUDA device, and torch {torch.__version__} finds none here", file=sys.stderr)
        return NO_CUDA
    asked.out.mkdir(parents=True, exist_ok=True)
    facts = card.facts()
    for name in asked.parts or BY_DEFAULT:
        if name in finished(asked.out, facts):
            print(f"{name} was measured with this code on this card: {asked.out / name}.json", file=sys.stderr)
            continue
        measure(name, asked.out, facts)
    page = asked.out / "gpu.md"
    done = finished(asked.out, facts)
    page.write_text(markdown(facts, False, done, "On a GPU"))
    print(page.read_text())
    return 1 if any(has_failed(result) for result in done.values()) else 0


def has_failed(result: Result) -> bool:
    """Whether a test failed or a figure could not be taken; a requirement that is not met is a figure like others."""
    return bool(result.left_out or result.rounds.get("failed"))


def measure(name: str, out: Path, facts: dict[str, str]) -> None:
    """Run one part, and write what it came to."""
    print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
    scratch, began = Path(tempfile.mkdtemp(prefix=f"gpu-check-{name}-")), time.monotonic()
    try:
        result = importlib.import_module(f"gpu_check.{name}").run(Options(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    content = {"facts": facts, "seconds": time.monotonic() - began, "result": asdict(result)}
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def finished(out: Path, facts: dict[str, str]) -> dict[str, Result]:
    """The parts in a folder that this code was measured in on such a card."""
    found = {name: json.loads(path.read_text()) for name in PARTS if (path := out / f"{name}.json").exists()}
    return {
        name: restored(content["result"])
        for name, content in found.items()
        if all(content["facts"].get(key) == facts[key] for key in card.IDENTITY)
    }


if __name__ == "__main__":
    sys.exit(main())
