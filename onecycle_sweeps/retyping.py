"""In what the jobs that a recorded command has today differ from the sweep that it made."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onecycle_sweeps.config import schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.planning import Request
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Sweep

# As many keys are named.
SHOWN = 3
ABSENT = "nothing"


def difference(recorded: Sweep, requests: Sequence[Request]) -> str | None:
    """In what the jobs differ from the trials of a sweep, as the rest of a sentence; None if they are the same."""
    kind = TRAIN if any(entry.kind == TRAIN for entry in recorded.trials) else RANGE_TEST
    trials = [recorded.trial(entry.signature).config() for entry in recorded.trials if entry.kind == kind]
    now, then = [_asked(request.config) for request in requests], [_asked(config) for config in trials]
    distinct = [config for number, config in enumerate(now) if config not in now[:number]]
    others, left = [c for c in distinct if c not in then], [c for c in then if c not in distinct]
    if not others and not left:
        return None
    found: dict[str, tuple[Any, Any]] = {}
    for one, other in zip(others, left, strict=False):
        values, before = dict(_leaves(one)), dict(_leaves(other))
        for key in [*before, *values]:
            if values.get(key, ABSENT) != before.get(key, ABSENT):
                found.setdefault(key, (values.get(key, ABSENT), before.get(key, ABSENT)))
    told = [f"{key}={value} where the sweep has {before}" for key, (value, before) in found.items()]
    if len(others) != len(left):
        told.append(f"{len(distinct)} trials where the sweep has {len(then)}")
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return f"would give {', '.join(told[:SHOWN])}{more}"


def _asked(config: Config) -> Config:
    """The part of a trial's config that decides what it computes."""
    config = schema.range_test(config) if config["task"] == RANGE_TEST else config
    return {key: value for key, value in schema.what_counts(config).items() if key != "needs"}


def _leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
