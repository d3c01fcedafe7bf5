"""report.html: one page that needs no other file, with its sections in the order of a reader's questions.

`templates/report.html` has the page, of the parts in `pieces.html`; this file has what the page says as plain data. The
templates escape all text.
"""

import base64
import hashlib
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from onecycle_sweeps import files
from onecycle_sweeps.measures import recorded
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas, range_tests, stability, standings, tables
from onecycle_sweeps.report import groups as groups_of
from onecycle_sweeps.report.canvas import Panel, Plot
from onecycle_sweeps.report.comparison import Comparison
from onecycle_sweeps.report.figures import ShownGroups
from onecycle_sweeps.report.groups import by_group, few
from onecycle_sweeps.report.stability import Quantity, StabilityMap
from onecycle_sweeps.report.standings import Standing
from onecycle_sweeps.sweep import PROBE, RANGE_TEST, TRAIN
from onecycle_sweeps.trial_folder import DIVERGED, FAILED, LOST

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
TEMPLATES = Path(__file__).with_name("templates")
SCRIPT = TEMPLATES / "page.js"
# How many values of a key are listed.
VALUES_SHOWN = 12
# How many trials without a plan are named.
UNKNOWN_SHOWN = 3
# Keys of a config that are useless elsewhere, because they say where data lie.
OF_THIS_MACHINE = ("root", "path", "files", "download", "max_cached_gb", "weights_file", "_target_")


@dataclass(frozen=True)
class ResultPart:
    """The rows of one setting, each with its cells."""

    setting: str
    rows: tuple[tuple[Standing, list[str]], ...]


@dataclass(frozen=True)
class ResultTable:
    """The table of results, with its caption and notes; `values` columns after the first have typed text."""

    headers: list[str]
    values: int
    parts: list[ResultPart]
    caption: str
    notes: list[str]


def write_page(
    comparison: Comparison, groups: ShownGroups, figures: Mapping[str, Plot], written: Sequence[Path]
) -> Path:
    """Write the page into the sweep's report folder; `figures` are by name, `written` are the files beside the page."""
    sweep, outcomes = comparison.sweep, comparison.outcomes
    configs = _configs(outcomes)
    headline = comparison.headline
    courses = [figures[name] for measure in recorded(comparison.measures) if (name := f"val_{measure.name}") in figures]
    tests = [test for test in comparison.range_tests if test.curves]
    many_tests = len(comparison.range_tests) > range_tests.FEW
    every = tables.contents(comparison)
    troubles = [outcome for outcome in outcomes if outcome.status in (DIVERGED, FAILED, LOST)]
    warnings = list(tables.warnings(comparison))
    text = (
        environment()
        .get_template(PAGE)
        .render(
            comparison=comparison,
            groups=groups,
            outcomes=outcomes,
            sweep=sweep,
            headline=headline,
            title=title(outcomes),
            under=_under(comparison),
            command=sweep.command_line,
            settings=_settings(outcomes, configs),
            varies=_varies(outcomes),
            trials=_counted(outcomes),
            rate_lines=list(rate_lines(comparison)),
            result=_result(comparison, groups),
            every_group=every,
            every_caption=tables.caption(comparison),
            figures=figures,
            difference_about=f"Differences in {comparison.claims.measure.removeprefix('final/').replace('_', ' ')}.",
            courses=courses,
            course_panels=_course_panels(courses),
            course_words=few([course.name.removeprefix("val_") for course in courses], VALUES_SHOWN),
            course_files=[f"{course.name}.{form}" for course in courses for form in ("png", "svg")],
            as_planned=_as_planned(groups),
            range_summary=range_tests.summary(comparison.range_tests) if many_tests else None,
            probe_lines=list(range_tests.probe_lines(comparison.probes, comparison.trainings)),
            range_panels=[(test, range_tests.panels_of(test, f"range-{i}")) for i, test in enumerate(tests)],
            troubles=troubles,
            warnings=warnings,
            doubts=", ".join(_doubts(troubles, [*comparison.claims.flags, *warnings])),
            repeating=_repeating(outcomes, configs),
            files=by_figure(written),
            quantities=stability.QUANTITIES,
        )
    )
    path = sweep.report / PAGE
    files.write(path, text)
    return path


def _course_panels(courses: Sequence[Plot]) -> list[Panel]:
    """Each measure against steps, and the headline measure against seconds if it has been drawn."""
    curves = [course.panels[:-1] for course in courses]
    return [*(panels[0] for panels in curves if panels), *(panel for panels in curves[:1] for panel in panels[1:])]


def _doubts(troubles: Sequence[Outcome], warnings: Sequence[object]) -> Iterator[str]:
    """How many trials failed, diverged or were lost, and how many warnings there are."""
    counts = Counter(outcome.status for outcome in troubles)
    yield from (f"{count} trial{'s' * (count > 1)} {status}" for status, count in counts.items())
    if warnings:
        yield f"{len(warnings)} warning{'s' * (len(warnings) > 1)}"


def _result(comparison: Comparison, groups: ShownGroups) -> ResultTable | None:
    """The table of results; None before a training."""
    if not comparison.rows:
        return None
    parts = standings.parts_of(comparison, groups)
    columns = standings.columns(comparison, parts)
    return ResultTable(
        headers=[header for header, _ in columns],
        values=len(standings.own_keys([one for part in parts for one in part.standings])),
        parts=[
            ResultPart(part.setting, tuple((one, [show(one) for _, show in columns]) for one in part.standings))
            for part in parts
        ],
        caption=standings.caption(comparison),
        notes=standings.notes(comparison),
    )


def _under(comparison: Comparison) -> str:
    """The line below the heading: which sweep, when, and how its trials stand."""
    sweep = comparison.sweep
    return f"onecycle_sweeps, sweep {sweep.id}, begun {_moment(sweep.created)}; {_counted(comparison.outcomes)}"


def pick_sentence(one: StabilityMap) -> str:
    """What Smith's recipe picks on a map, as a sentence."""
    line = stability.pick_line(one)
    return f"{line[:1].upper()}{line[1:]}."


def rate_lines(comparison: Comparison) -> Iterator[str]:
    """At which rate the policies were trained, and where it is from; of a stability map, what it picks."""
    if not comparison.rows:
        yield from map(pick_sentence, comparison.maps)
    found = groups_of.ranked(groups_of.families(comparison.outcomes))
    if not found:
        return
    rates = {rate for family in found for o in family.members if (rate := o.max_lr) is not None}
    sources, words, verb = comparison.range_tests, "the range test", "suggests"
    if comparison.probes:
        sources, words, verb = comparison.probes, "short trainings", "suggest"
    tested = [text for one in sources if (text := range_tests.verdict(one))]
    suggests = f" {words.capitalize()} {verb} {tested[0]}." if len(tested) == 1 else ""
    tried = max(family.tried for family in found)
    if tried > 1:
        setting = found[0].setting
        named = [
            f"{family.name} {tables.rate_range([o.max_lr for o in family.members if o.max_lr is not None])}"
            for family in found
            if family.setting == setting
        ]
        where = f" (at {groups_of.group_name(setting)})" if setting else ""
        up_to = "" if all(family.tried == tried for family in found) else "up to "
        yield f"max_lr: each policy at the best of {up_to}{tried} rates{where}: {few(named, VALUES_SHOWN)}.{suggests}"
    elif len(rates) == 1:
        rate = f"{rates.pop():.3g}"
        is_tested = all(family.members[0].entry.needs for family in found) and len(tested) == 1
        if is_tested and tested[0].partition(",")[0] != f"max_lr={rate}":
            yield f"{'All were trained' if len(found) > 1 else 'Trained'} at max_lr={rate}.{suggests}"
            return
        how_sure = tested[0].partition(", from ")[2] if is_tested else ""
        source = f", the verdict of {words}{f' ({how_sure})' if how_sure else ''}" if is_tested else ""
        yield f"{'All were trained' if len(found) > 1 else 'Trained'} at max_lr={rate}{source}."
    elif rates:
        each = "short trainings" if comparison.probes else "a range test"
        unsure = sum(text.endswith("ambiguous") for text in tested)
        note = f" ({unsure} of {len(tested)} ambiguous)" if unsure else ""
        source = f", each from {each}{note}" if all(family.members[0].entry.needs for family in found) else ""
        best = tables.rate_range([o.max_lr for o in found[0].members if o.max_lr is not None])
        yield f"The best at max_lr={best}; all from {min(rates):.3g} to {max(rates):.3g}{source}."


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
    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals |= {"script": Markup(script), "script_hash": f"sha256-{digest}"}
    made.globals |= {"inline": canvas.inline, "captions": canvas.caption}
    made.globals |= {"map_headers": _map_headers, "map_rows": _map_rows, "rates_of": range_tests.rates_of}
    made.globals |= {"rates_caption": range_tests.caption_of}
    made.globals |= {"pick_sentence": pick_sentence}
    made.globals |= {"next_command": stability.next_command, "curves_panel": stability.curves_panel}
    made.globals |= {"curves_legend": stability.curves_legend}
    made.filters |= {"slug": _slug, "unbroken": _unbroken}
    made.filters |= {"moment": _moment, "final_value": _final_value}
    return made


def title(outcomes: Iterable[Outcome]) -> str:
    """What the sweep is about: its policies, or its range tests."""
    policies = list(dict.fromkeys(o.entry.varies["policy"] for o in outcomes if o.entry.kind == TRAIN))
    if not policies:
        return "Learning-rate range tests"
    return f"Learning-rate polic{'ies' if len(policies) > 1 else 'y'}: {few(policies, VALUES_SHOWN)}"


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


def _configs(outcomes: Iterable[Outcome]) -> list[Mapping[str, Any]]:
    """One config of each group that has begun."""
    groups = [*by_group(outcomes).values()] or [[outcome] for outcome in outcomes]
    firsts = (next((config for o in members if (config := o.config)), None) for members in groups)
    return [config for config in firsts if config]


def _settings(outcomes: Iterable[Outcome], configs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What the configs have in common, in words."""
    varying = {key for outcome in outcomes for key in outcome.entry.varies}
    for name in ("loop", "data", "model", "objective", "optimizer", "epochs", "batch_size", "max_lr"):
        values = [config[name] for config in configs if config.get(name) is not None]
        if name not in varying:
            yield name.replace("_", " "), few(list(dict.fromkeys(map(_words, _in_common(values)))), VALUES_SHOWN)


def _in_common(values: Sequence[Any]) -> Sequence[Any]:
    """Nodes of one class without the keys in which they differ; other values as they are."""
    nodes = [value for value in values if isinstance(value, dict)]
    if len(nodes) < len(values) or len({node.get("_target_") for node in nodes}) > 1:
        return values
    return [{key: one for key, one in node.items() if all(key in x and x[key] == one for x in nodes)} for node in nodes]


def _varies(outcomes: Sequence[Outcome]) -> list[str]:
    """Each key that varies among the trainings, or if there are none among the range tests, with its values."""
    values: dict[str, list[str]] = {}
    kind = TRAIN if any(outcome.entry.kind == TRAIN for outcome in outcomes) else RANGE_TEST
    for outcome in outcomes:
        if outcome.entry.kind == kind:
            for key, value in outcome.entry.varies.items():
                values.setdefault(key, []).append(value)
    return [f"{key}: {few(list(dict.fromkeys(found)), VALUES_SHOWN)}" for key, found in values.items()]


def _counted(outcomes: Sequence[Outcome]) -> str:
    """How many trials there are of each kind, and of each status."""
    kinds = Counter(outcome.entry.kind for outcome in outcomes)
    words = {TRAIN: "training", PROBE: "probe", RANGE_TEST: "range test"}
    listed = [f"{kinds[k]} {word}{'s' * (kinds[k] != 1)}" for k, word in words.items() if kinds[k]]
    trials = " and ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)
    statuses = Counter(outcome.status for outcome in outcomes).most_common()
    return f"{trials}: {', '.join(f'{count} {status}' for status, count in statuses)}" if trials else "none"


def _words(value: Any) -> str:
    """A value as it is typed; a node as the call that it describes, without empty arguments."""
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
        sentences.append(f"The rate or momentum that was used is not the planned one: {'; '.join(off)}.")
    elif examples:
        are_shown = all(groups.styles[group].highlighted for group in groups.examples)
        trials = f"the {len(examples)} trials shown" if len(examples) > 1 else "the trial shown"
        whose = trials if are_shown else f"one trial of each of {len(examples)} groups"
        sentences.append(f"Rate and momentum were as planned, bit for bit, at each of the {steps} steps of {whose}.")
    if unknown:
        sentences.append(f"What was planned is unknown: {few(unknown, UNKNOWN_SHOWN)}.")
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
    """The names of files, grouped by figure."""
    forms: dict[str, list[str]] = {}
    for path in written:
        forms.setdefault(path.stem, []).append(path.name)
    return list(forms.values())


def _slug(heading: str) -> str:
    """A heading as the id of its section."""
    return re.sub(r"\W+", "-", heading.lower()).strip("-") or "section"


def _unbroken(text: str) -> Markup:
    """A text whose numbers, such as 1e-3, do not break at their minus sign."""
    return Markup(re.sub(r"[0-9.]+e-[0-9]+", r'<span class="number">\g<0></span>', str(escape(text))))


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _final_value(outcome: Outcome) -> str:
    value = outcome.final if outcome.finished else None
    return "-" if value is None else outcome.headline.number(value)
