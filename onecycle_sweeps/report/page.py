"""report.html: one page that needs no other file, with its sections in the order of a reader's questions.

`templates/report.html` has the page, of the parts in `pieces.html`; this file has what the page says as plain data. The
templates escape all text.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onecycle_sweeps import files
from onecycle_sweeps.measures import Measure, recorded
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas, stability, tables
from onecycle_sweeps.report.canvas import Plot
from onecycle_sweeps.report.claims import Claim, p_value, ratio_words, signed, unsigned
from onecycle_sweeps.report.comparison import Comparison
from onecycle_sweeps.report.figures import ShownGroups
from onecycle_sweeps.report.groups import by_group, few
from onecycle_sweeps.report.stability import Quantity, StabilityMap
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN
from onecycle_sweeps.trial_folder import DIVERGED, FAILED, LOST

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
TEMPLATES = Path(__file__).with_name("templates")
# Of many values of a key, the first are listed.
VALUES_SHOWN = 12
# Keys of a config that are useless elsewhere, because they say where data lie.
OF_THIS_MACHINE = ("root", "path", "files", "download", "max_cached_gb", "weights_file", "_target_")


def write_page(
    comparison: Comparison, groups: ShownGroups, figures: Mapping[str, Plot], written: Sequence[Path]
) -> Path:
    """Write the page into the sweep's report folder; `figures` are by name, `written` are the files beside the page."""
    sweep, outcomes = comparison.sweep, comparison.outcomes
    configs = _configs(outcomes)
    headline = comparison.headline
    result_headers, result_rows = tables.contents(comparison)
    template = environment().get_template(PAGE)
    text = template.render(
        comparison=comparison,
        groups=groups,
        outcomes=outcomes,
        sweep=sweep,
        headline=headline,
        title=title(outcomes),
        command=sweep.command_line,
        settings=_settings(outcomes, configs),
        varies=_varies(outcomes),
        trials=_counted(outcomes),
        result_headers=result_headers,
        result_rows=result_rows,
        result_caption=tables.caption(comparison),
        claims=[claim_cells(claim) for claim in comparison.claims.claims],
        trajectories=figures.get("trajectories"),
        as_planned=_as_planned(groups),
        courses=[
            figures[name] for measure in recorded(comparison.measures) if (name := f"val_{measure.name}") in figures
        ],
        budgets=figures.get(f"{headline.name}_by_budget"),
        range_tests=figures.get("range_tests"),
        troubles=[o for o in outcomes if o.status in (DIVERGED, FAILED, LOST)],
        warnings=list(tables.warnings(comparison)),
        repeating=_repeating(outcomes, configs),
        files=by_figure(written),
        quantities=stability.QUANTITIES,
    )
    path = sweep.report / PAGE
    files.write(path, text)
    return path


@cache
def environment() -> "Environment":
    """Jinja2's, with the templates of all pages and what they call."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        extensions=["jinja2.ext.do"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"inline": canvas.inline, "captions": canvas.caption}
    made.globals |= {"map_headers": _map_headers, "map_rows": _map_rows, "pick_line": stability.pick_line}
    made.globals |= {"next_command": stability.next_command, "curves_panel": stability.curves_panel}
    made.filters |= {"moment": _moment, "final_value": _final_value}
    return made


def title(outcomes: Iterable[Outcome]) -> str:
    """What the sweep is about: its policies, or its range tests."""
    policies = list(dict.fromkeys(o.entry.varies["policy"] for o in outcomes if o.entry.kind == TRAIN))
    if not policies:
        return "Learning-rate range tests"
    return f"Learning-rate polic{'ies' if len(policies) > 1 else 'y'}: {few(policies, VALUES_SHOWN)}"


def claim_cells(claim: Claim) -> list[str]:
    """A claim as a row of the page's table."""
    name = f"{claim.name} ({claim.budget})" if claim.budget else claim.name
    one, speedup, headline = claim.difference, claim.speedup, claim.headline
    interval = "-"
    if one and one.low is not None and one.high is not None:
        interval = f"{_signed(headline, one.low)} to {_signed(headline, one.high)}"
    return [
        name,
        claim.baseline,
        _signed(headline, one.mean) if one else "-",
        interval,
        str(one.pairs) if one else "0",
        "-" if claim.p_adjusted is None else p_value(claim.p_adjusted),
        unsigned(headline, one.detectable) if one and one.detectable is not None else "-",
        f"{ratio_words(speedup)}x" if speedup and speedup.ratio is not None else "-",
    ]


@dataclass(frozen=True)
class _MapCell:
    """A cell of a stability map's table; `depth` is its shade in per cent."""

    text: str
    depth: int
    is_pick: bool


def _map_headers(one: StabilityMap) -> list[str]:
    return ["weight decay", *("momentum " + ("-" if m is None else f"{m:g}") for m in one.momenta)]


def _map_rows(one: StabilityMap, quantity: Quantity) -> Iterator[tuple[str, list[_MapCell | None]]]:
    """A row per weight decay of a stability map, with a cell per momentum."""
    shaded = zip(one.cells, quantity.shades(one.cells), strict=True)
    cells = {
        (cell.weight_decay, cell.momentum): _MapCell(
            quantity.words(cell), 0 if math.isnan(depth) else round(100 * depth), cell is one.pick
        )
        for cell, depth in shaded
    }
    for decay in one.weight_decays:
        yield "-" if decay is None else f"{decay:g}", [cells.get((decay, momentum)) for momentum in one.momenta]


def _signed(headline: Measure, difference: float) -> str:
    return signed(headline, difference).replace("-", "\N{MINUS SIGN}")


def _configs(outcomes: Iterable[Outcome]) -> list[Mapping[str, Any]]:
    """A config of each group that has begun."""
    groups = [*by_group(outcomes).values()] or [[outcome] for outcome in outcomes]
    firsts = (next((config for o in members if (config := o.config)), None) for members in groups)
    return [config for config in firsts if config]


def _settings(outcomes: Iterable[Outcome], configs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What the configs have in common, in words."""
    varying = {key for outcome in outcomes for key in outcome.entry.varies}
    for name in ("loop", "data", "model", "objective", "optimizer", "epochs", "batch_size", "max_lr"):
        values = list(dict.fromkeys(_words(config[name]) for config in configs if config.get(name) is not None))
        if name not in varying:
            yield name.replace("_", " "), few(values, VALUES_SHOWN)


def _varies(outcomes: Iterable[Outcome]) -> list[str]:
    """Each key that varies among the trainings, with its values."""
    values: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.entry.kind == TRAIN:
            for key, value in outcome.entry.varies.items():
                values.setdefault(key, []).append(value)
    return [f"{key}: {few(list(dict.fromkeys(found)), VALUES_SHOWN)}" for key, found in values.items()]


def _counted(outcomes: Sequence[Outcome]) -> str:
    """How many trials there are of each kind, and of each status."""
    kinds = Counter(outcome.entry.kind for outcome in outcomes)
    words = {TRAIN: "training", RANGE_TEST: "range test"}
    trials = " and ".join(f"{kinds[k]} {word}{'s' * (kinds[k] != 1)}" for k, word in words.items() if kinds[k])
    statuses = Counter(outcome.status for outcome in outcomes).most_common()
    return f"{trials}: {', '.join(f'{count} {status}' for status, count in statuses)}" if trials else "none"


def _words(value: Any) -> str:
    """A value as it is typed; a node as the call that it stands for, without what is empty."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in OF_THIS_MACHINE and v not in (None, [], "", {})}
        inner = ", ".join(f"{key}={_words(one)}" for key, one in kept.items())
        return f"{_short(value['_target_'])}({inner})" if "_target_" in value else inner
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    return str(value)


def _short(target: str) -> str:
    """A class by its name, a function with the name of its module."""
    *path, last = target.split(".")
    return last if last[:1].isupper() or not path else f"{path[-1]}.{last}"


def _as_planned(groups: ShownGroups) -> str:
    """Whether the used trajectories equal the planned ones."""
    examples = [example for example in groups.examples.values() if not example.unknown]
    off = [f"{example.outcome.name}: {example.off}" for example in examples if example.off]
    unknown = [f"{e.outcome.name}: {e.unknown}" for e in groups.examples.values() if e.unknown]
    steps = sum(len(example.outcome.used.lr.steps) for example in examples)
    sentences: list[str] = []
    if off:
        sentences.append(f"Used and planned differ: {'; '.join(off)}.")
    elif examples:
        sentences.append(
            f"Used equals planned, bit for bit, at every one of the {steps} steps taken by the {len(examples)} "
            f"trial{'s' * (len(examples) > 1)} shown."
        )
    if unknown:
        sentences.append(f"No plan to compare with: {'; '.join(unknown)}.")
    return " ".join(sentences)


def _repeating(outcomes: Sequence[Outcome], configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The versions, hardware, data and code behind the results."""
    resolved = [outcome.resolved for outcome in outcomes]
    packages = dict.fromkeys(name for one in resolved for name in one.get("versions", {}))
    code = {(name, value) for one in resolved for name, value in one.get("code", {}).items()}
    return {
        "versions": ", ".join(
            f"{name} {_distinct(one.get('versions', {}).get(name) for one in resolved)}" for name in packages
        ),
        "hardware": ", ".join(_hardware(resolved)),
        "data": _distinct(config.get("needs", {}).get("data") for config in configs),
        "code": [f"{name} {value}" for name, value in sorted(code)],
    }


def _hardware(resolved: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    known = [one for one in resolved if one]
    for key in ("device", "precision"):
        if values := [one[key] for one in known if key in one]:
            yield _distinct(values)
    if threads := [one["threads"] for one in known if "threads" in one]:
        yield f"threads: {_distinct(threads)}"


def _distinct(values: Iterable[object]) -> str:
    """The distinct values; if there are several, with the number of trials that have each."""
    counts = Counter(str(value) for value in values if value is not None)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count} trials)" for value, count in counts.items())


def by_figure(written: Iterable[Path]) -> list[list[str]]:
    """The names of files, those of one figure together."""
    forms: dict[str, list[str]] = {}
    for path in written:
        forms.setdefault(path.stem, []).append(path.name)
    return list(forms.values())


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _final_value(outcome: Outcome) -> str:
    value = outcome.final if outcome.finished else None
    return "-" if value is None else outcome.headline.number(value)
