"""The verb `compare`: what it takes, what it prints and writes, and its exit status."""

import argparse
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from onecycle_sweeps.other_runs import run_page
from onecycle_sweeps.other_runs.judging import Kind, RunClaim, judged, steps_worth
from onecycle_sweeps.other_runs.logs import Asked, Refused, read
from onecycle_sweeps.other_runs.showing import Compared, show
from onecycle_sweeps.terminal import complain, invocation, say

BETTER_OR_NOT_WORSE, WORSE, UNDECIDED = 0, 1, 3


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(f"compare: {message}; compare --help shows what it takes")


def parser() -> argparse.ArgumentParser:
    """The options of the verb."""
    made = _Parser(
        prog=f"{invocation()} compare",
        allow_abbrev=False,
        description="Compare groups of runs from elsewhere with a baseline: each run counts with its last row.",
        epilog="Exit status: 0 no group is worse (with --no-worse-than: each is shown to be no worse by more), 1 one "
        "is, 2 a mistake in what was typed, 3 undecided (only with --no-worse-than).",
    )
    made.add_argument("files", nargs="+", metavar="FILE", help="a CSV file, mlflow:EXPERIMENT or a trainer_state.json")
    made.add_argument("--group", metavar="COL", help="the column that says which runs belong together")
    made.add_argument("--run", metavar="COL[,COL]", help="the columns that together name a run")
    made.add_argument("--seed", metavar="COL", help="pair the runs of two groups by this column")
    made.add_argument("--step", metavar="COL", help="the column of steps, whose highest is a run's last row")
    made.add_argument("--measure", metavar="COL", help="the column that is compared, or a name in the column metric")
    made.add_argument("--goal", choices=("min", "max"), help="whether a lower or a higher value is better")
    made.add_argument(
        "--baseline", metavar="NAME", help="the group that others are compared with; by default the first"
    )
    made.add_argument(
        "--no-worse-than",
        type=float,
        metavar="X",
        help="test whether each group is worse by less than X, in the measure's units",
    )
    made.add_argument("--target", type=float, metavar="X", help="a value of the measure: at which step is it reached?")
    made.add_argument("--report", type=Path, metavar="FOLDER", help="write report.html, figures and CSV files there")
    made.add_argument("--json", action="store_true", help="print the claims as JSON, and nothing else")
    return made


def main(argv: Sequence[str]) -> int:
    """Compare runs from elsewhere: groups of a CSV file, an MLflow experiment or trainer states; see compare --help."""
    if "--help" in argv or "-h" in argv:
        print(parser().format_help(), end="")
        return 0
    typed = parser().parse_args(list(argv))
    if typed.no_worse_than is not None and not (math.isfinite(typed.no_worse_than) and typed.no_worse_than > 0):
        raise Refused(f"--no-worse-than must be a number above 0, got {typed.no_worse_than}")
    if typed.target is not None and not math.isfinite(typed.target):
        raise Refused(f"--target must be a finite number, got {typed.target}")
    if typed.report is not None and typed.report.exists() and not typed.report.is_dir():
        raise Refused(f"--report must name a folder, and {typed.report} is a file")
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        complain(line)

    columns = Asked(typed.group, typed.run, typed.seed, typed.step, typed.measure, typed.goal)
    tables = read(typed.files, columns, note)
    if typed.target is not None and len(tables) > 1:
        raise Refused(f"--target needs --measure, one of {', '.join(one.measure for one in tables)}")
    claims = judged(tables, typed.baseline, typed.no_worse_than, typed.target)
    of_each = [tuple(claim for claim in claims if claim.measure == one.measure) for one in tables]
    found = [
        Compared(one, own, len(claims), typed.no_worse_than, typed.target)
        for one, own in zip(tables, of_each, strict=True)
    ]
    if typed.json:
        say(json.dumps({"claims": [_as_json(claim, with_measure=len(tables) > 1) for claim in claims]}, indent=2))
    else:
        for one in found:
            show(one)
        if typed.report is None:
            say("--report FOLDER writes this as a page, with figures and CSV files.")
    if typed.report is not None:
        written = run_page.write(found, notes, f"{invocation()} compare {shlex.join(argv)}", typed.report)
        if not typed.json:
            say(f"Report: {written}")
    return _exit_status([claim.kind for claim in claims], typed.no_worse_than)


def _as_json(claim: RunClaim, *, with_measure: bool) -> dict[str, Any]:
    keys = ("name", "baseline", "difference", "low", "high", "p", "p_adjusted", "kind")
    found = {key: getattr(claim, key) for key in (*keys, *(["measure"] if with_measure else []))}
    if claim.worth is not None and claim.kind in ("better", "worse"):
        found["worth_steps"] = steps_worth(claim)
    if claim.speedup is not None:
        found["speedup"] = asdict(claim.speedup)
    return found


def _exit_status(kinds: Sequence[Kind], margin: float | None) -> int:
    if "worse" in kinds:
        return WORSE
    return UNDECIDED if margin is not None and "undecided" in kinds else BETTER_OR_NOT_WORSE
