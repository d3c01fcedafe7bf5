"""A comparison of runs from elsewhere as people read it: its answer, its table, and how its tests were made."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from onecycle_sweeps.measures import Measure, four_digits, with_minus
from onecycle_sweeps.other_runs.judging import RunClaim, arrival, lies_far_out, mean_of, steps_worth
from onecycle_sweeps.other_runs.logs import LoggedRun, RunsOfMeasure
from onecycle_sweeps.report.claims import p_value, ratio_words
from onecycle_sweeps.report.statistics import LEVEL, POWER, spread
from onecycle_sweeps.terminal import say

# Names of groups that are longer than this are wrapped where the terminal has no room for them.
GROUP_WIDTH = 24


@dataclass(frozen=True)
class Compared:
    """What was compared by one measure, with its claims; `tested` is the number of claims of the whole command."""

    runs: RunsOfMeasure
    claims: tuple[RunClaim, ...]
    tested: int
    margin: float | None = None
    target: float | None = None

    @property
    def baseline(self) -> str:
        """The group that the others are compared with."""
        return self.claims[0].baseline

    @property
    def far_out(self) -> list[str]:
        """The groups with a run that lies far out, because of which means are trimmed."""
        if self.runs.paired:
            return []
        return [name for name, runs in self.runs.groups.items() if lies_far_out([run.value for run in runs])]

    @property
    def ranked(self) -> list[str]:
        """The groups by their differences from the baseline, the best first; the order is no claim."""
        differences = {claim.name: claim.difference for claim in self.claims}
        names = [self.baseline, *differences]
        return sorted(names, key=lambda name: differences.get(name, 0.0), reverse=self.runs.goal == "max")

    @property
    def unit(self) -> str:
        """What the log counts its steps in."""
        return "epochs" if "epoch" in (self.runs.step or "").lower() else "steps"

    def pairs(self, name: str) -> int:
        """How many runs of a group have the seed of a run of the baseline."""
        ours, theirs = ({run.seed for run in self.runs.groups[side]} for side in (name, self.baseline))
        return len(ours & theirs)

    def mean(self, name: str) -> float:
        """The mean of a group's last values, trimmed if a run lies far out."""
        return mean_of([run.value for run in self.runs.groups[name]], trimmed=bool(self.far_out))


def show(one: Compared) -> None:
    """Print the answer, the table and the remarks on it."""
    say(answer(one))
    headers, rows = contents(one)
    table = Table(title=title(one), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    longest = max(len(row[0]) for row in rows)
    for header in headers:
        is_text, is_name = header in ("group", "verdict"), header == "group"
        least = min(longest, GROUP_WIDTH) if is_name else None
        justify = "left" if is_text else "right"
        table.add_column(header, justify=justify, overflow="fold", no_wrap=not is_name, min_width=least)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    needed = Measurement.get(console, console.options.update(max_width=sys.maxsize), table)
    table.width = max(needed.minimum, min(needed.maximum, console.width)) if console.is_terminal else needed.maximum
    Console(highlight=False, width=table.width).print(table, crop=False)
    for line in remarks(one):
        say(line)


def title(one: Compared) -> str:
    """What the table is about."""
    return f"{one.runs.measure}: {'higher' if one.runs.goal == 'max' else 'lower'} is better"


def answer(one: Compared) -> str:
    """What the runs show by the measure, in a sentence or two."""
    about, best, base = f"By {one.runs.measure}, ", one.ranked[0], one.baseline
    claims = {claim.name: claim for claim in one.claims}
    reached, trimmed = four_digits(one.mean(best)), " trimmed" if one.far_out else ""
    if best == base:
        kinds = {kind: [c.name for c in one.claims if c.kind == kind] for kind in ("worse", "no worse", "undecided")}
        words = {"worse": "worse than it", "no worse": "no worse", "undecided": "cannot be told apart from it"}
        rest = "; ".join(f"{words[kind]}: {', '.join(names)}" for kind, names in kinds.items() if names)
        return f"{about}no group is better than the baseline {base}, which reached {reached}; {rest}."
    claim = claims[best]
    if claim.kind != "better":
        shown = f"is not shown to be better than {base}{_would(claim)}"
        return f"{about}{best} has the best{trimmed} mean, {reached}, but {shown}."
    also = [c.name for c in one.claims if c.kind == "better" and c.name != best]
    above = "above" if claim.difference > 0 else "below"
    gain = f"{_short(abs(claim.difference))} {above} {base} ({_interval(claim)}; {_counts(one, best)})"
    others = f" Also better than {base}: {', '.join(also)}." if also else ""
    return f"{about}{best} reached {reached}, {gain}.{others}"


def contents(one: Compared) -> tuple[list[str], list[list[str]]]:
    """The headers and a row for each group."""
    columns: dict[str, list[str]] = {}
    claims = {claim.name: claim for claim in one.claims}

    def add(header: str, cell: str) -> None:
        columns.setdefault(header, []).append(cell)

    for name, runs in one.runs.groups.items():
        claim = claims.get(name)
        add("group", name)
        add("runs", str(len(runs)))
        add("mean ± std", _mean(one, runs))
        add("difference", _signed(claim.difference) if claim else "")
        add("95 % interval", _between(claim.low, claim.high, _signed) if claim else "")
        add("p", "" if claim is None or claim.p_adjusted is None else p_value(claim.p_adjusted))
        add("verdict", claim.kind if claim else "baseline")
        if one.target is not None:
            add(f"{one.unit} to {one.target:g}", _arrivals(one, runs))
            add("speed-up", f"{ratio_words(claim.speedup)}x" if claim and claim.speedup and claim.speedup.ratio else "")
        if any(steps_worth(c) is not None for c in one.claims):
            steps = steps_worth(claim) if claim else None
            add(f"worth {one.unit}", "" if steps is None else with_minus(f"{_whole(steps):+g}"))
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def remarks(one: Compared) -> Iterator[str]:
    """How the groups were compared, what the tests could have shown, and what gains are worth."""
    test = "the paired t-test of the seeds on both sides" if one.runs.paired else "Welch's test of independent runs"
    line = f"Compared by {test}"
    if one.far_out:
        told = ", ".join(f"{name} ({one.runs.measure})" for name in one.far_out)
        line += f"; by Yuen's of 20 % trimmed means with {told}, where a run lies far out"
    yield line + (f"; intervals and p after Holm over {one.tested} claims." if one.tested > 1 else ".")
    yield from _unpaired(one)
    if one.margin is not None:
        yield f"No worse: shown to be worse by less than {one.margin:g}, by one-sided tests at {100 * LEVEL:.0f} %."
    unclear = [claim for claim in one.claims if claim.kind == "undecided" and claim.detectable is not None]
    if unclear:
        told = ", ".join(f"{claim.name} {_short(claim.detectable or 0.0)}" for claim in unclear)
        yield f"Minimum detectable difference ({100 * POWER:.0f} % power): {told}."
    if untold := [claim.name for claim in one.claims if claim.p is None]:
        yield f"There are too few runs, or runs that do not differ at all, to say anything about {', '.join(untold)}."
    yield from _speedups(one)
    yield from _worth(one)


def _unpaired(one: Compared) -> Iterator[str]:
    """A line on the groups with fewer pairs than runs: their means are not of the same runs as their differences."""
    if not one.runs.paired:
        return
    counts = {name: len(runs) for name, runs in one.runs.groups.items()}
    told = [
        f"{claim.name} {_counts(one, claim.name)} of its {counts[claim.name]} runs and the {counts[one.baseline]} of "
        f"{one.baseline}"
        for claim in one.claims
        if one.pairs(claim.name) < max(counts[claim.name], counts[one.baseline])
    ]
    if told:
        yield f"Not all runs have a pair: {'; '.join(told)}. Differences are of the pairs alone, and means of all runs."


def _would(claim: RunClaim) -> str:
    """How large a difference would be shown, as the end of a sentence on a claim that shows none."""
    if claim.detectable is None:
        return ""
    return f"; a difference of {_short(claim.detectable)} would show"


def _interval(claim: RunClaim) -> str:
    low, high = sorted(abs(bound) for bound in (claim.low, claim.high) if bound is not None)
    return f"95 % interval {_between(low, high)}"


def _between(low: float | None, high: float | None, shown: Callable[[float], str] | None = None) -> str:
    """An interval, empty if there is none."""
    if low is None or high is None:
        return ""
    return " to ".join(map(shown or _short, (low, high)))


def _short(value: float) -> str:
    """A difference in three significant digits."""
    return with_minus(f"{value:.3g}") if abs(value) < 1000 else four_digits(value)


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{_short(value)}"


def _counts(one: Compared, name: str) -> str:
    """How many pairs, or runs of a group and of the baseline, are compared."""
    ours, theirs = (one.runs.groups[side] for side in (name, one.baseline))
    if one.runs.paired:
        pairs = one.pairs(name)
        return f"{pairs} pair{'s' * (pairs != 1)}"
    return f"{len(ours)} runs" if len(ours) == len(theirs) else f"{len(ours)} and {len(theirs)} runs"


def _mean(one: Compared, runs: Sequence[LoggedRun]) -> str:
    about = spread([run.value for run in runs])
    assert about is not None
    if about.std is None:
        return four_digits(about.mean)
    return " ± ".join(one.runs.as_measure.with_deviation(about.mean, about.std))


def _arrivals(one: Compared, runs: Sequence[LoggedRun]) -> str:
    """The mean number of steps to the target over the runs that reached it, and how many did if not all."""
    assert one.target is not None
    found = [arrival(one.runs, run, one.target) for run in runs if run.curve]
    about = spread([each.steps for each in found if each.reached])
    if about is None:
        return f"none of {len(found)}"
    text = four_digits(about.mean)
    if about.std:
        text = " ± ".join(Measure("steps", "min").with_deviation(about.mean, about.std))
    return text if about.count == len(found) else f"{text} ({about.count} of {len(found)})"


def _whole(steps: float) -> float:
    """A number of steps as it is shown: whole from ten on."""
    return round(steps) if abs(steps) >= 10 else float(f"{steps:.2g}")


def _speedups(one: Compared) -> Iterator[str]:
    """A line with the speed-ups to the target."""
    if one.target is None:
        return
    told = []
    for claim in one.claims:
        found = claim.speedup
        if found is None:
            told.append(f"{claim.name} none, since a run reached it before its first step")
            continue
        missed = ((claim.name, found.missed), (claim.baseline, found.missed_baseline))
        never = " and ".join(
            f"{count} of {len(one.runs.groups[name])} runs of {name}" for name, count in missed if count
        )
        remark = f"never reached by {never}" if never else _between(found.low, found.high, "{:.2f}".format)
        ratio = "none" if found.ratio is None else ratio_words(found)
        told.append(f"{claim.name} {ratio}" + (f" ({remark})" if remark else ""))
    adjusted = ", not adjusted" if one.tested > 1 else ""
    yield f"Speed-up to {one.target:g} against {one.baseline} (95 % intervals{adjusted}): {'; '.join(told)}."
    if any(claim.speedup and claim.speedup.bound for claim in one.claims):
        yield "A run that never reached the target counts with its whole length, which makes the speed-up a bound."


def _worth(one: Compared) -> Iterator[str]:
    """What gains and losses are worth in steps of the baseline, or why that is not told."""
    shown = [claim for claim in one.claims if claim.kind in ("better", "worse") and claim.worth]
    if not shown or shown[0].worth is None:
        return
    slope, base = shown[0].worth.slope, one.baseline
    rate = f"{_short(slope.mean)} in {one.runs.measure} a step"
    rate += f", 95 % interval {_between(slope.low, slope.high)}" if slope.low is not None else ""
    where = f"at their end, the last {slope.span:g} {one.unit} ({rate})"
    if all(steps_worth(claim) is None for claim in shown):
        improves = "do not improve" if slope.p is None or slope.p < LEVEL else "show no significant slope"
        yield f"Gains cannot be given in {one.unit}: {base}'s own curves {improves} {where}."
        return
    told, far = [], False
    for claim in shown:
        assert claim.worth and claim.worth.steps is not None
        bounds = [abs(_whole(bound)) for bound in (claim.worth.low, claim.worth.high) if bound is not None]
        interval = f" ({min(bounds):g} to {max(bounds):g})" if bounds else ""
        word = "is worth" if claim.worth.steps > 0 else "loses"
        count = abs(_whole(claim.worth.steps))
        told.append(f"{claim.name} {word} {count:g} {one.unit.removesuffix('s') if count == 1 else one.unit}{interval}")
        far |= abs(claim.worth.steps) > slope.span
    beyond = " More steps than these are an extrapolation." if far else ""
    yield f"{'; '.join(told)} of {base}, by the slope of its own curves {where}.{beyond}"
