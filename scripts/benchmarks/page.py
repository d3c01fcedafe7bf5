"""The results of a part of the benchmark, the machine that they were measured on, and the page that shows them."""

import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecycle_sweeps import provenance
from onecycle_sweeps.machine import cores

PACKAGES = ("onecycle-sweeps", "torch", "torchvision", "fastai", "lightning", "torch-lr-finder", "mlflow", "hydra-core")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
HOW_TO_INSTALL = "pip install -e '.[peers]' (or scripts/setup peers)"
Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of figures; the caption says what was run, on what, and what is counted."""

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Requirement:
    """A bound on a measured value: an upper one, or with `at_least` a lower one."""

    what: str
    measured: float
    bound: float
    at_least: bool = False


@dataclass(frozen=True)
class Result:
    """A part's tables and requirements, the reasons for what was not run, and every single measurement."""

    tables: Sequence[Table]
    requirements: Sequence[Requirement] = ()
    left_out: Sequence[str] = ()
    rounds: Mapping[str, Any] = field(default_factory=dict)


def not_installed(module: str, row: str) -> str:
    """Why a row is left out if a peer is not installed, and how to install it; otherwise nothing."""
    if not module or importlib.util.find_spec(module):
        return ""
    return f"{row}: {module} not installed; {HOW_TO_INSTALL}"


def facts() -> dict[str, str]:
    """The machine, its load before the measurement, and the versions of what is compared."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    cpu = {name.strip(): value.strip() for name, _, value in lines}
    versions = {found.name: found.version for found in importlib.metadata.distributions()}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "CPU": f"{cpu.get('model name', 'unknown')}, {platform.machine()}",
        "instructions": ", ".join(flag for flag in FLAGS if flag in cpu.get("flags", "").split()),
        "cores": f"{cores()} of {os.cpu_count()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "load average at the start": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **{package: versions.get(package, "not installed") for package in PACKAGES},
        "git commit": provenance.git_commit(Path(__file__).parent) or "no checkout",
    }


def markdown(facts: Mapping[str, str], quick: bool, results: Mapping[str, Result], title: str = "Benchmark") -> str:
    """The page: where it was measured, the requirements, then the tables of each part."""
    text = f"# {title}\n\n"
    if quick:
        text += "**Quick mode: tiny sizes that only show that everything runs. The figures mean little.**\n\n"
    text += _grid(("measured with", ""), facts.items())
    required = [_required(part, one) for part, result in results.items() for one in result.requirements]
    if required:
        text += "\n## Requirements\n\n" + _grid(("part", "what", "measured", "required", "met"), required)
    for part, result in results.items():
        text += f"\n## {part}\n"
        for table in result.tables:
            text += f"\n### {table.title}\n\n{table.caption}\n\n" + _grid(table.columns, table.rows)
        if result.left_out:
            text += "\nLeft out:\n\n" + "".join(f"- {reason}\n" for reason in result.left_out)
    return text


def _required(part: str, one: Requirement) -> list[Cell]:
    is_met = one.measured >= one.bound if one.at_least else one.measured <= one.bound
    bound = f"at {'least' if one.at_least else 'most'} {_text(one.bound)}"
    return [part, one.what, one.measured, bound, "yes" if is_met else "**no**"]


def _grid(columns: Sequence[str], rows: Iterable[Iterable[Cell]]) -> str:
    return "".join(f"| {' | '.join(map(_text, row))} |\n" for row in (columns, ["---"] * len(columns), *rows))


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    return f"{cell:,.0f}" if isinstance(cell, int) or abs(cell) >= 1000 else f"{cell:.3g}"
