"""What a part is given, and how its figures are taken: one that cannot be is said, and costs no other."""

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.page import Requirement, Result, Table
from onecycle_sweeps.terminal import in_one_line


@dataclass(frozen=True)
class Options:
    """A folder that goes when the part has ended; `device` and `quick` let all of it run, in tiny sizes, on a CPU."""

    scratch: Path
    device: str = "cuda"
    quick: bool = False

    def sized(self, full: int, quick: int) -> int:
        """A size, or the tiny one."""
        return quick if self.quick else full


Figure = Callable[[Options], Result]


def taken(figures: Mapping[str, Figure], options: Options) -> Result:
    """All figures as one result."""
    results = [_taken(name, figure, options) for name, figure in figures.items()]
    return Result(
        [table for result in results for table in result.tables],
        [one for result in results for one in result.requirements],
        [reason for result in results for reason in result.left_out],
        {name: result.rounds for name, result in zip(figures, results, strict=True)},
    )


def _taken(name: str, figure: Figure, options: Options) -> Result:
    print(f"  {name}", file=sys.stderr, flush=True)
    try:
        return figure(options)
    except Exception as error:
        traceback.print_exc()
        return Result([], (), [f"{name}: {in_one_line(error)}"])


def restored(content: Mapping[str, Any]) -> Result:
    """A result from its JSON."""
    tables = [Table(**table) for table in content["tables"]]
    return Result(
        tables, [Requirement(**one) for one in content["requirements"]], content["left_out"], content["rounds"]
    )
