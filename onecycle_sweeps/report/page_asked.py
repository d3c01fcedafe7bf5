"""What a sweep was asked: its command, and what its configs have in common, in words."""

import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.groups import by_group
from onecycle_sweeps.report.markup import command, facts, text
from onecycle_sweeps.report.program import without_secrets
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Sweep

SHOWN = 12
# Where data lie is of no use elsewhere, and what says nothing needs no place.
OF_THIS_PLACE = ("root", "path", "files", "download", "max_cached_gb", "weights_file", "_target_")


def title(outcomes: Iterable[Outcome]) -> str:
    """What the sweep is about: its policies, or its range tests."""
    policies = list(dict.fromkeys(o.entry.varies["policy"] for o in outcomes if o.entry.kind == TRAIN))
    if not policies:
        return "Learning-rate range tests"
    return f"Learning-rate polic{'ies' if len(policies) > 1 else 'y'}: {_few(policies)}"


def origin(sweep: Sweep) -> str:
    """Where a page comes from, in a line."""
    return f"onecycle_sweeps, sweep {sweep.id}, begun {moment(sweep.created)}"


def typed(sweep: Sweep) -> str:
    """The sweep's command, as it is typed in a shell."""
    return without_secrets(f"python -m onecycle_sweeps {shlex.join(sweep.command)}".strip())


def configs_of(outcomes: Iterable[Outcome]) -> list[Mapping[str, Any]]:
    """A config of each group that has begun."""
    groups = [*by_group(outcomes).values()] or [[outcome] for outcome in outcomes]
    firsts = (next((config for o in members if (config := o.config)), None) for members in groups)
    return [config for config in firsts if config]


def asked(sweep: Sweep, outcomes: Sequence[Outcome], configs: Sequence[Mapping[str, Any]]) -> str:
    """What the sweep was to compare, on what, and how its trials stand."""
    kinds = Counter(outcome.entry.kind for outcome in outcomes)
    counted = {TRAIN: "training", RANGE_TEST: "range test"}
    trials = " and ".join(f"{kinds[k]} {word}{'s' * (kinds[k] != 1)}" for k, word in counted.items() if kinds[k])
    stand = Counter(outcome.status for outcome in outcomes)
    stands = ", ".join(f"{count} {status}" for status, count in stand.most_common())
    varying = {key for outcome in outcomes for key in outcome.entry.varies}
    same = [name for name in ("data", "model", "optimizer", "epochs", "batch_size", "max_lr") if name not in varying]
    parts = [(name.replace("_", " "), _common(configs, name)) for name in same]
    return command(typed(sweep)) + facts(
        [*parts, ("varies", _varies(outcomes)), ("trials", text(f"{trials}: {stands}" if trials else "none"))]
    )


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


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


def _common(configs: Iterable[Mapping[str, Any]], key: str) -> str:
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
