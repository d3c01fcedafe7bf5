"""Measures the parts that are named, or all, and writes benchmark.md and benchmark.json after each of them."""

import argparse
import importlib
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine
from benchmarks.page import Result, markdown
from benchmarks.work import Options

PARTS = (
    *("step", "tasks", "precision", "input", "range_test", "start", "layout", "sweep"),
    *("ingestion", "load", "size", "accuracy"),
)


def main() -> None:
    """Run the parts in turn; the page says what a part leaves out, and an error ends the benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison (5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that only show that everything runs")
    parser.add_argument("--trials", type=int, default=24, help="of the part sweep, up to 4 or a multiple of 4 (24)")
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="folder for the page and its figures")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    options.out.mkdir(parents=True, exist_ok=True)
    facts, results = machine.facts(), dict[str, Result]()
    for part in options.parts or PARTS:
        print(f"{time.strftime('%H:%M:%S')} {part}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=f"benchmark-{part}-", ignore_cleanup_errors=True) as scratch:
            sized = Options(Path(scratch), options.rounds, options.quick, options.trials)
            results[part] = importlib.import_module(f"benchmarks.{part}").run(sized)
        options.out.joinpath("benchmark.md").write_text(markdown(facts, options.quick, results))
        parts = {name: asdict(result) for name, result in results.items()}
        content = {"facts": facts, "quick": options.quick, "parts": parts}
        options.out.joinpath("benchmark.json").write_text(json.dumps(content, indent=1) + "\n")
    print(options.out.joinpath("benchmark.md").read_text())


if __name__ == "__main__":
    main()
