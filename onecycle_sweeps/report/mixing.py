"""Trials of one sweep that different code has made."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onecycle_sweeps import provenance
from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report.groups import by_group, group_name
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN


def mixed(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line on trainings that the code of the newest one has not made, one on versions, and one on range tests."""
    trained = sorted(
        (o for o in outcomes if o.entry.kind == TRAIN and o.ended), key=lambda o: o.result.get("finished", 0)
    )
    if changed := provenance.differing([o.resolved for o in trained]):
        newest: dict[str, str] = {}
        for outcome in trained:
            newest |= _made_by(outcome.resolved)
        older = [o for o in trained if any(newest[key] != value for key, value in _made_by(o.resolved).items())]
        yield (
            f"{', '.join(changed)} changed after {_named(older)} had been trained, so that the trials come from "
            "different code: the same command with rerun=true trains all of them again."
        )
    known = [o.resolved["versions"] for o in trained if "versions" in o.resolved]
    for package in dict.fromkeys(name for versions in known for name in versions):
        if len(found := dict.fromkeys(versions[package] for versions in known if package in versions)) > 1:
            yield f"The trials were trained with {package} {' and '.join(found)}."
    tests = {o.entry.signature: o for o in outcomes if o.entry.kind == RANGE_TEST}
    tuned = [(o, tests[o.entry.needs]) for o in trained if o.entry.needs in tests]
    since = [(o, provenance.differing([o.resolved, test.resolved])) for o, test in tuned]
    if files := dict.fromkeys(name for _, changed in since for name in changed):
        yield (
            f"{', '.join(files)} changed between the range test and {_named([o for o, changed in since if changed])}: "
            "their rate is that of other code, and rerun=true finds it again."
        )


def _made_by(resolved: Mapping[str, Any]) -> dict[str, str]:
    """The files and the libraries that a result was made by, without torch."""
    libraries = {target: value for target, value in resolved.get("code", {}).items() if not value.startswith("torch ")}
    return libraries | resolved.get("files", {})


def _named(outcomes: Sequence[Outcome]) -> str:
    """Trainings by their groups and seeds: `onecycle (seeds 0, 1)`."""
    found: list[str] = []
    for group, members in by_group(outcomes).items():
        seeds = sorted((o.entry.varies["seed"] for o in members), key=int)
        found.append(f"{group_name(group)} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})")
    return " and ".join(found)
