"""The words for what numbers show, and no word more."""

import math
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
    "no verdict",
    "nothing can be claimed",
    "no seed finished in both",
]
FROM_ONE_SEED = "From one seed nothing can be claimed"


@dataclass(frozen=True)
class Case:
    """A comparison in numbers: `tested` is how many p-values were adjusted together, `unlike` what forbids a verdict.

    `rates` says, where it forbids one, how many rates the family and the baseline were picked from. `diverged` counts
    the seeds that have no part in it; `aside` are texts that its sentence ends with.
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
    rates: tuple[int, int] | None = None

    @property
    def kind(self) -> Kind:
        if self.difference is None:
            return "no seed finished in both"
        if self.unlike:
            return "not comparable"
        if self.rates:
            return "no verdict"
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
    """What all comparisons show together, a sentence for each baseline; empty where there is none."""
    against: dict[str, dict[Kind, list[tuple[str, str | None]]]] = {}
    for case in cases:
        against.setdefault(case.baseline, {}).setdefault(case.kind, []).append((case.name, case.setting))
    return " ".join(
        f"Against {baseline} by {measure}, "
        + "; ".join(f"{kind}: {', '.join(in_settings(names))}" for kind, names in by_kind.items())
        + "."
        for baseline, by_kind in against.items()
    )


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
        each = f"each have {ours}" if ours == theirs else f"{ours} and {theirs}"
        yield f"{case.name} and {case.baseline}{where} differ in {key}: {each}"


def _verdict(case: Case) -> str:
    if (found := case.difference) is None:
        return f"{case.name} against {case.baseline}: no seed has finished in both"
    both = f"{case.name} and {case.baseline}"
    if case.kind == "not comparable":
        differ = f"differ in {' and '.join(case.unlike)}"
        return f"not comparable: {both} {differ}; {signed(found.mean)} points{_how_sure(case, found)}"
    if case.rates:
        ours, theirs = case.rates
        return (
            f"no verdict on {both}: {signed(found.mean)} points over {_seeds(found.pairs)}, but {case.name} is the "
            f"best of {ours} rate{'s' * (ours > 1)} and {case.baseline} of {theirs}, picked on the accuracy that is "
            "compared, which favours the one with more; a verdict needs as many rates for each, other seeds at the "
            "picked rates, or data.val_fraction=0.1, which leaves the test images to judge"
        )
    if found.pairs == 1:
        return f"{FROM_ONE_SEED}: {case.name} against {case.baseline} {signed(found.mean)} points"
    if found.p is None:
        differ = (
            "do not differ in any" if abs(found.mean) < ROUNDING else f"differ by {signed(found.mean)} points in each"
        )
        return f"{both} {differ} of {found.pairs} seeds, so that nothing can be estimated or claimed"
    if case.kind == "no difference shown":
        text = f"no difference shown between {both}: {signed(found.mean)} points{_how_sure(case, found)}"
        return f"{text}; {_detectable(case, found)}"
    better = found.mean > 0
    how_sure = _how_sure(case, found, flipped=not better)
    word, by = "better" if better else "worse", points(abs(found.mean))
    return f"{case.name} is {word} than {case.baseline} by {by} points{how_sure}"


def _how_sure(case: Case, found: Difference, flipped: bool = False) -> str:
    if found.low is None or found.high is None:
        return f" ({_seeds(found.pairs)})"
    low, high = (-found.high, -found.low) if flipped else (found.low, found.high)
    interval = f"95 % interval {points(low)} to {points(high)}"
    if case.p_adjusted is None:
        return f" ({interval}, {_seeds(found.pairs)})"
    p = p_value(case.p_adjusted)
    p = p if p.startswith("<") else f"={p}"
    holm = ", both after Holm" if case.tested > 1 else ""
    return f" ({interval}, p{p}{holm}, {_seeds(found.pairs)})"


def _detectable(case: Case, found: Difference) -> str:
    assert found.detectable is not None
    holm = " after Holm" if case.tested > 1 else ""
    return f"{_seeds(found.pairs)} would show {points(found.detectable)} points or more with 80 % power{holm}"


def _speedup(case: Case, found: Speedup) -> str:
    target = f"{100 * (case.target or 0):g} %"
    missed = [(case.baseline, found.missed_baseline), (case.name, found.missed)]
    never = " and ".join(f"{_seeds(count)} of {name}" for name, count in missed if count)
    if found.ratio is None:
        return f"no speed-up to {target}: never reached by {never}"
    said = f"speed-up to {target}: {speed(found)} in steps"
    if found.bound:
        return f"{said} ({_seeds(found.pairs)}; never reached by {never}, counted with all its steps)"
    holm = ", not adjusted" if case.tested > 1 else ""
    interval = "" if found.low is None else f"95 % interval {found.low:.2f} to {found.high:.2f}{holm}, "
    return f"{said} ({interval}{_seeds(found.pairs)})"


def speed(found: Speedup) -> str:
    """A speed-up as a number, or the bound that it is; a dash where there is none."""
    return "-" if found.ratio is None else f"{found.bound} {found.ratio:.2f}" if found.bound else f"{found.ratio:.2f}"


def p_value(p: float) -> str:
    """A p-value to two digits, or as many as it takes to show on which side of LEVEL it lies."""
    if p < 0.001:
        return "<0.001"
    return next(shown for digits in range(2, 18) if (float(shown := f"{p:.{digits}g}") < LEVEL) == (p < LEVEL))


def signed(fraction: float) -> str:
    """A difference in points with its sign."""
    return f"{'+' if fraction >= 0 else ''}{points(fraction)}"


def points(fraction: float) -> str:
    """A fraction in points, to two decimals, or as many as it takes to show that it is not 0."""
    value = 100 * fraction
    decimals = 2 if abs(value) >= 0.005 or abs(fraction) < ROUNDING else -math.floor(math.log10(abs(value)))
    return f"{value:z.{decimals}f}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
