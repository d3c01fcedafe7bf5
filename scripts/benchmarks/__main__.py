"""Measures the parts that are named, or all, and writes benchmark.md and benchmark.json after each of them."""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import commands, journals, page, sizes, tasks, throughput, training, verdict
from benchmarks.page import Result
from benchmarks.work import Options

FUNCTIONS = (
    *(training.step, tasks.tasks, throughput.precision, throughput.input, training.range_test),
    *(commands.start, commands.sweep, journals.ingestion, journals.load, sizes.size, verdict.verdict),
)
PARTS = {part.__name__: part for part in FUNCTIONS}


def main() -> None:
    """Run the parts in turn; the page lists what a part leaves out, and an error ends the benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison (5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that only show that everything runs")
    parser.add_argument("--trials", type=int, help="of sweep, up to 4 or a multiple of 4 (24); of size (1000)")
    parser.add_argument("--pairs", nargs="+", default=(), metavar="NAME", help="of the part verdict, by parts of names")
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="folder for the page and its figures")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.trials is not None and (options.trials < 1 or (options.trials > 4 and options.trials % 4)):
        parser.error(f"--trials must be 1 to 4 or a multiple of 4, got {options.trials}")
    options.out.mkdir(parents=True, exist_ok=True)
    facts, results = page.facts(), dict[str, Result]()
    # The verdict takes hours, so it has to be named.
    for part in options.parts or [name for name in PARTS if name != "verdict"]:
        print(f"{time.strftime('%H:%M:%S')} {part}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=f"benchmark-{part}-", ignore_cleanup_errors=True) as scratch:
            asked = Options(Path(scratch), options.rounds, options.quick, options.trials, options.out, options.pairs)
            results[part] = PARTS[part](asked)
        options.out.joinpath("benchmark.md").write_text(page.markdown(facts, options.quick, results))
        parts = {name: asdict(result) for name, result in results.items()}
        content = {"facts": facts, "quick": options.quick, "parts": parts}
        options.out.joinpath("benchmark.json").write_text(json.dumps(content, indent=1) + "\n")
    print(options.out.joinpath("benchmark.md").read_text())


if __name__ == "__main__":
    main()
