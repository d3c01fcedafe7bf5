"""The page's facts: what was asked, how the trials ended, and all that repeating them takes."""

import re
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from onecycle_sweeps.report.comparison import Comparison, by_group
from onecycle_sweeps.report.markup import command, facts, listed, paragraph, table, text
from onecycle_sweeps.report.outcomes import Outcome
from onecycle_sweeps.state import FINISHED
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Sweep

SHOWN = 12
# A name and password within an address stay out of a page that is made to be passed on.
SECRET = re.compile(r"://[^/@\s]+@")
# Where data lie is of no use elsewhere, and what says nothing needs no place.
OF_THIS_PLACE = ("root", "path", "files", "download", "max_cached_gb", "weights_file", "_target_")


def typed(sweep: Sweep) -> str:
    """The sweep's command, as it is typed in a shell."""
    return SECRET.sub("://", f"python -m onecycle_sweeps {shlex.join(sweep.command)}".strip())


def asked(sweep: Sweep, outcomes: Sequence[Outcome], configs: Sequence[dict[str, Any]]) -> str:
    """What the sweep was to compare, on what, and how its trials stand."""
    kinds = Counter(outcome.entry.kind for outcome in outcomes)
    counted = {TRAIN: "training", RANGE_TEST: "range test"}
    trials = " and ".join(f"{kinds[k]} {word}{'s' * (kinds[k] != 1)}" for k, word in counted.items() if kinds[k])
    stand = Counter(outcome.status for outcome in outcomes)
    stands = ", ".join(f"{count} {status}" for status, count in stand.most_common())
    parts = [(name, _common(configs, name)) for name in ("data", "model", "optimizer")]
    numbers = [(name.replace("_", " "), _common(configs, name)) for name in ("epochs", "batch_size", "max_lr")]
    return command(typed(sweep)) + facts(
        [*parts, *numbers, ("varies", _varies(outcomes)), ("trials", text(f"{trials}: {stands}" if trials else "none"))]
    )


def troubles(outcomes: Iterable[Outcome]) -> str:
    """The trials that diverged, failed or were lost, with the cause of each."""
    rows = [[o.name, o.entry.signature, o.status, o.cause or "no cause recorded"] for o in outcomes if _is_trouble(o)]
    return (
        table(["trial", "signature", "status", "cause"], [list(map(text, row)) for row in rows], "words")
        if rows
        else ""
    )


def doubts(comparison: Comparison) -> str:
    """Warnings, of which those that several trials have are said once, and notes."""
    names: dict[str, list[str]] = {}
    for name, warning in comparison.warnings:
        names.setdefault(warning, []).append(name)
    warned = [
        f"<b>{text(having[0] if len(having) == 1 else f'{len(having)} trials')}</b>: {text(warning)}"
        for warning, having in names.items()
    ]
    return listed([*warned, *map(text, comparison.notes)]) if warned or comparison.notes else ""


def repeating(sweep: Sweep, outcomes: Sequence[Outcome], configs: Sequence[dict[str, Any]]) -> str:
    """The command, its place, and the versions and data behind the results."""
    resolved = [outcome.resolved for outcome in outcomes]
    packages = dict.fromkeys(name for one in resolved for name in one.get("versions", {}))
    versions = ", ".join(
        f"{name} {_distinct(one.get('versions', {}).get(name) for one in resolved)}" for name in packages
    )
    code = dict.fromkeys((name, value) for one in resolved for name, value in one.get("code", {}).items())
    return command(typed(sweep)) + facts(
        [
            ("working folder", f'<span class="code">{text(sweep.cwd)}</span>'),
            ("git commit", f'<span class="code">{text(sweep.git_commit or "none: not in a checkout")}</span>'),
            ("sweep", f'<span class="code">{text(sweep.id)}</span>, begun {_moment(sweep.created)}'),
            ("versions", text(versions)),
            ("ran on", text(", ".join(_ran_on(resolved)))),
            (
                "data",
                f'<span class="code">{text(_distinct(c.get("needs", {}).get("data") for c in configs))}</span> (fingerprint)',
            ),
            (
                "code",
                "<br>".join(f'<span class="code">{text(f"{name} {value}")}</span>' for name, value in sorted(code)),
            ),
        ]
    )


def trials(outcomes: Sequence[Outcome]) -> str:
    """Each trial with its signature."""
    rows = [
        [
            text(o.name),
            f'<span class="code">{text(o.entry.signature)}</span>',
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


def _is_trouble(outcome: Outcome) -> bool:
    return outcome.status in ("diverged", "failed", "lost")


def _final(outcome: Outcome) -> str:
    value = outcome.metrics.get("final/val_accuracy") if outcome.status == FINISHED else None
    return "-" if value is None else f"{100 * value:.2f}"


def _varies(outcomes: Iterable[Outcome]) -> str:
    """Each key whose values differ among the trainings, with its values."""
    values: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.entry.kind == TRAIN:
            for key, value in outcome.entry.varies.items():
                values.setdefault(key, []).append(value)
    distinct = {key: list(dict.fromkeys(found)) for key, found in values.items()}
    return "<br>".join(f"{text(key)}: {text(_few(found))}" for key, found in distinct.items())


def _few(values: Sequence[str]) -> str:
    more = f", … ({len(values)} in all)" if len(values) > SHOWN else ""
    return ", ".join(values[:SHOWN]) + more


def _common(configs: Iterable[dict[str, Any]], key: str) -> str:
    """What the configs have under a key, in words; several where they differ."""
    return text(_few(list(dict.fromkeys(_words(config[key]) for config in configs if config.get(key) is not None))))


def _words(value: Any) -> str:
    """A value as it is typed; a node as the call that it stands for, without what is empty."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in OF_THIS_PLACE and v not in (None, [], "", {})}
        inner = ", ".join(f"{key}={_words(one)}" for key, one in kept.items())
        return f"{_short(value['_target_'])}({inner})" if "_target_" in value else inner
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    return str(value)


def _short(target: str) -> str:
    """A class by its name, a function with its module's."""
    *path, last = target.split(".")
    return last if last[:1].isupper() or not path else f"{path[-1]}.{last}"


def _ran_on(resolved: Iterable[dict[str, Any]]) -> Iterable[str]:
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


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def configs_of(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """A config of each group that has begun."""
    firsts = [members[0].folder for members in by_group(outcomes).values()] or [o.folder for o in outcomes]
    return [folder.config() for folder in firsts if (folder.path / "config.yaml").exists()]
