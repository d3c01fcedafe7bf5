"""How a sweep's trials ended, and all that repeating them takes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import page_asked
from onecycle_sweeps.report.comparison import Comparison
from onecycle_sweeps.report.markup import command, facts, listed, paragraph, table, text
from onecycle_sweeps.report.table import warned
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import FINISHED


def troubles(outcomes: Iterable[Outcome]) -> str:
    """The trials that diverged, failed or were lost, with the cause of each."""
    rows = [[o.name, o.entry.signature, o.status, o.cause or "no cause recorded"] for o in outcomes if _is_trouble(o)]
    return (
        table(["trial", "signature", "status", "cause"], [list(map(text, row)) for row in rows], "words")
        if rows
        else ""
    )


def published(comparison: Comparison) -> str:
    """What the preset's source published beside what came of it here, and the verdict."""
    rows = [
        f"<b>{text(row.verdict)}</b>: {text(row.name)}, {text(row.what)}. Published: {text(row.published)}; "
        f"here: {text(row.ours)}." + (f" Why: {text('; '.join(row.reasons))}." if row.reasons else "")
        for row in comparison.published
    ]
    return listed(rows) if rows else ""


def doubts(comparison: Comparison) -> str:
    """Warnings, of which those that several trials have are said once, and notes."""
    said = [f"<b>{text(who)}</b>: {text(warning)}" for who, warning in warned(comparison.warnings)]
    return listed([*said, *map(text, comparison.notes)]) if said or comparison.notes else ""


def repeating(sweep: Sweep, outcomes: Sequence[Outcome], configs: Sequence[Mapping[str, Any]]) -> str:
    """The command, its place, and the versions and data behind the results."""
    resolved = [outcome.resolved for outcome in outcomes]
    packages = dict.fromkeys(name for one in resolved for name in one.get("versions", {}))
    versions = ", ".join(
        f"{name} {_distinct(one.get('versions', {}).get(name) for one in resolved)}" for name in packages
    )
    data = _distinct(config.get("needs", {}).get("data") for config in configs)
    code = dict.fromkeys((name, value) for one in resolved for name, value in one.get("code", {}).items())
    return command(page_asked.typed(sweep)) + facts(
        [
            ("working folder", _code(sweep.cwd)),
            ("git commit", _code(sweep.git_commit) if sweep.git_commit else "none: the folder is no checkout"),
            ("sweep", f"{_code(sweep.id)}, begun {page_asked.moment(sweep.created)}"),
            ("versions", text(versions)),
            ("ran on", text(", ".join(_ran_on(resolved)))),
            ("data", f"{_code(data)} (fingerprint)" if data else ""),
            ("code", "<br>".join(_code(f"{name} {value}") for name, value in sorted(code))),
        ]
    )


def trials(outcomes: Sequence[Outcome]) -> str:
    """Each trial with its signature."""
    rows = [
        [
            text(o.name),
            _code(o.entry.signature),
            text(o.status),
            text(_final(o)),
            text(o.attempts),
        ]
        for o in outcomes
    ]
    return table(["trial", "signature", "status", "final val\nacc. %", "attempts"], rows)


def files(written: Iterable[Path]) -> str:
    """The files beside the page, those of one figure together."""
    forms: dict[str, list[str]] = {}
    for path in written:
        forms.setdefault(path.stem, []).append(path.name)
    listing = [", ".join(f'<a href="{text(name)}">{text(name)}</a>' for name in names) for names in forms.values()]
    return paragraph("Beside this page in the sweep's report folder, and in MLflow beside it:") + listed(listing)


def _code(value: object) -> str:
    return f'<span class="code">{text(value)}</span>'


def _is_trouble(outcome: Outcome) -> bool:
    return outcome.status in ("diverged", "failed", "lost")


def _final(outcome: Outcome) -> str:
    value = outcome.metrics.get("final/val_accuracy") if outcome.status == FINISHED else None
    return "-" if value is None else f"{100 * value:.2f}"


def _ran_on(resolved: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    keys = [one for one in resolved if one]
    for key in ("device", "precision"):
        if values := [one[key] for one in keys if key in one]:
            yield _distinct(values)
    if threads := [one["threads"] for one in keys if "threads" in one]:
        yield f"threads: {_distinct(threads)}"


def _distinct(values: Iterable[object]) -> str:
    """The distinct values, with how many trials have each where there are several."""
    counts = Counter(str(value) for value in values if value is not None)
    return (
        next(iter(counts))
        if len(counts) == 1
        else ", ".join(f"{value} ({count} trials)" for value, count in counts.items())
    )
