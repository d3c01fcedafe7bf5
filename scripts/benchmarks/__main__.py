"""Measures the parts that are named, or all, and writes benchmark.md and benchmark.json after each of them."""

import argparse
import importlib
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine
from benchmarks.tables import Result, markdown
from benchmarks.work import Options

PARTS = (
    *("step", "precision", "input", "range_test", "start", "layout", "sweep"),
    *("ingestion", "load", "size", "accuracy"),
)


def main() -> None:
    """Run the parts in turn; what one leaves out is said in the page, what goes wrong ends the benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side of a comparison has its turn (5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works: no figure means much")
    parser.add_argument("--trials", type=int, default=24, help="of the part sweep, up to 4 or a multiple of 4 (24)")
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="folder for the page and its figures")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if asked.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {asked.rounds}")
    asked.out.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Result] = {}
    facts = machine.facts()
    for name in asked.parts or PARTS:
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"benchmark-{name}-"))
        try:
            options = Options(scratch, asked.rounds, asked.quick, asked.trials)
            measured[name] = importlib.import_module(f"benchmarks.{name}").run(options)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        write(asked.out, facts, asked.quick, measured)
    print(asked.out.joinpath("benchmark.md").read_text())


def write(folder: Path, facts: dict[str, str], quick: bool, measured: dict[str, Result]) -> None:
    """Write what is measured by now as a page for people and as JSON with each round's values."""
    folder.joinpath("benchmark.md").write_text(markdown(facts, quick, measured))
    content = {"facts": facts, "quick": quick, "parts": {name: asdict(result) for name, result in measured.items()}}
    folder.joinpath("benchmark.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
