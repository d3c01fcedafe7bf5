"""The words for what numbers show, and no word more."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onecycle_sweeps.report.statistics import LEVEL, ROUNDING, Difference, Speedup

Kind = Literal[
    "better",
    "better where it did not diverge",
    "worse",
    "no difference shown",
    "not comparable",
    "nothing can be claimed",
    "no seed finished in both",
]
FROM_ONE_SEED = "From one seed nothing can be claimed"


@dataclass(frozen=True)
class Case:
    """A comparison in numbers: `tested` is how many p-values were adjusted together, `unlike` what forbids a verdict.

    `diverged` counts the seeds that have no part in it; `aside` are texts that its sentence ends with.
    """

    name: str
    baseline: str
    setting: str | None
    difference: Difference | None
    p_adjusted: float | None
    tested: int
    speedup: Speedup | None
    target: float | None
    unlike: Mapping[str, tuple[str, str]]
    aside: Sequence[str]
    diverged: int = 0

    @property
    def kind(self) -> Kind:
        if self.difference is None:
            return "no seed finished in both"
        if self.unlike:
            return "not comparable"
        if self.p_adjusted is None:
            return "nothing can be claimed"
        if self.p_adjusted >= LEVEL:
            return "no difference shown"
        if self.difference.mean < 0:
            return "worse"
        return "better where it did not diverge" if self.diverged else "better"


def sentence(case: Case) -> str:
    """What one comparison shows, in a sentence; differences are in points, hundredths of accuracy."""
    parts = [_verdict(case), *([_speedup(case, case.speedup)] if case.speedup else []), *case.aside]
    return (f"{case.setting}: " if case.setting else "") + "; ".join(parts) + "."


def summary(cases: Sequence[Case], measure: str) -> str:
    """What all comparisons show together; empty where there is none."""
    if not cases:
        return ""
    by_kind: dict[Kind, list[tuple[str, str | None]]] = {}
    for case in cases:
        by_kind.setdefault(case.kind, []).append((case.name, case.setting))
    baselines = " and ".join(dict.fromkeys(case.baseline for case in cases))
    found = "; ".join(f"{kind}: {', '.join(in_settings(names))}" for kind, names in by_kind.items())
    return f"Against {baselines} by {measure}, {found}."


def in_settings(named: Iterable[tuple[str, str | None]]) -> list[str]:
    """Each name once, with the settings that it is named for: `onecycle (epochs=5, epochs=10)`."""
    settings: dict[str, list[str]] = {}
    for name, setting in named:
        settings.setdefault(name, []).extend([setting] if setting else [])
    return [f"{name} ({', '.join(within)})" if within else name for name, within in settings.items()]


def flags(case: Case) -> Iterator[str]:
    """A line for each thing that forbids a verdict."""
    where = f" at {case.setting}" if case.setting else ""
    for key, (ours, theirs) in case.unlike.items():
        yield f"{case.name} and {case.baseline}{where} differ in {key}: {ours} and {theirs}"


def _verdict(case: Case) -> str:
    if (found := case.difference) is None:
        return f"{case.name} against {case.baseline}: no seed has finished in both"
    both = f"{case.name} and {case.baseline}"
    if case.kind == "not comparable":
        return f"not comparable: {both} differ in {' and '.join(case.unlike)}; {_signed(found)}{_how_sure(case, found)}"
    if found.pairs == 1:
        return f"{FROM_ONE_SEED}: {case.name} against {case.baseline} {_signed(found)}"
    if found.p is None:
        differ = "do not differ in any" if abs(found.mean) < ROUNDING else f"differ by {_signed(found)} in each"
        return f"{both} {differ} of {found.pairs} seeds, so that nothing can be estimated or claimed"
    if case.kind == "no difference shown":
        text = f"no difference shown between {both}: {_signed(found)}{_how_sure(case, found)}"
        return f"{text}; {_detectable(case, found)}"
    better = found.mean > 0
    how_sure = _how_sure(case, found, flipped=not better)
    word, by = "better" if better else "worse", _points(abs(found.mean))
    return f"{case.name} is {word} than {case.baseline} by {by} points{how_sure}"


def _how_sure(case: Case, found: Difference, flipped: bool = False) -> str:
    seeds = f"{found.pairs} seeds" if found.pairs > 1 else "1 seed"
    if found.low is None or found.high is None:
        return f" ({seeds})"
    low, high = (-found.high, -found.low) if flipped else (found.low, found.high)
    if case.p_adjusted is None:
        return f" (95 % interval {_points(low)} to {_points(high)}, {seeds})"
    p = "p<0.001" if case.p_adjusted < 0.001 else f"p={case.p_adjusted:.2g}"
    holm = " after Holm" if case.tested > 1 else ""
    return f" (95 % interval {_points(low)} to {_points(high)}, {p}{holm}, {seeds})"


def _detectable(case: Case, found: Difference) -> str:
    """Holm asks more of a difference among several, so that the number holds for one taken alone."""
    alone = " if tested alone" if case.tested > 1 else ""
    assert found.detectable is not None
    return f"{found.pairs} seeds could have shown {_points(found.detectable)} points or more{alone}"


def _speedup(case: Case, found: Speedup) -> str:
    target = f"{100 * (case.target or 0):g} %"
    missed = [(case.baseline, found.missed_baseline), (case.name, found.missed)]
    never = " and ".join(f"{count} seed{'s' * (count > 1)} of {name}" for name, count in missed if count)
    if found.ratio is None:
        return f"no speed-up to {target}: never reached by {never}"
    never = f"; never reached by {never}" if never else ""
    seeds = f"{found.pairs} seeds" if found.pairs > 1 else "1 seed"
    interval = "" if found.low is None else f"95 % interval {found.low:.2f} to {found.high:.2f}, "
    return f"speed-up to {target}: {found.ratio:.2f} in steps ({interval}{seeds}{never})"


def _signed(found: Difference) -> str:
    return f"{100 * found.mean:+z.2f} points"


def _points(fraction: float) -> str:
    return f"{100 * fraction:z.2f}"
