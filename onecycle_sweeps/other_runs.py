"""The verb `compare`: a verdict on runs from elsewhere, from CSV files, an MLflow experiment or trainer states."""

import argparse
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecycle_sweeps import tracking
from onecycle_sweeps.measures import four_digits
from onecycle_sweeps.report.claims import p_value
from onecycle_sweeps.report.statistics import (
    LEVEL,
    Difference,
    holm,
    holm_levels,
    independent_difference,
    paired_difference,
    spread,
)
from onecycle_sweeps.terminal import complain, invocation, say

if TYPE_CHECKING:
    import pandas

Goal = Literal["min", "max"]
Kind = Literal["better", "worse", "no worse", "undecided"]
BETTER_OR_NOT_WORSE, WORSE, UNDECIDED = 0, 1, 3
MLFLOW = "mlflow:"
# Columns that are taken where no option names another; of those for runs all, since together they name a run.
GROUPS = ("group", "algorithm", "policy", "optimizer", "method", "variant", "Group")
RUNS = ("run", "run_id", "run_name", "study", "trial", "replicate", "seed", "Name")
STEPS = ("step", "_step", "global_step", "Step", "iteration", "epoch")
MEASURES = ("val_loss", "eval_loss", "final/test_accuracy", "final/val_accuracy", "val_accuracy", "eval_accuracy")
# A table with a row for each value names the measure in one column and has its value in another.
NAME_OF_MEASURE, VALUE = "metric", "value"
# In fewer columns the names of groups have no room.
LEAST_WIDTH = 100
# Columns that are added: what a file is called as a group, and where a row is from.
FILE, SOURCE = "_file", "_source"
GOALS: dict[Goal, str] = {
    "min": r"loss|error|err\b|\bwer\b|\bcer\b|perplexity|\bppl\b|rmse|\bmse\b|\bmae\b|nll|bpc|seconds|time",
    "max": r"acc|precision|recall|\bmap\b|bleu|rouge|ssim|psnr|\bf1\b|auc|iou|dice|\br2\b|score|reward|top.?[15]",
}
# What ends the name of a run and tells it from others of its group: `adamw-seed3`, `adamw_3`.
OF_A_SEED = re.compile(r"[\s_-]*(?:(?:seed|run|trial)[\s_=-]*)?\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class LoggedRun:
    """One run: its group, its name, its seed if runs are paired, its last step if there are steps, its last value."""

    group: str
    name: str
    seed: str | None
    last_step: float | None
    value: float


@dataclass(frozen=True)
class RunClaim:
    """A group against the baseline: `difference` is group minus baseline in the measure's units, whatever the goal.

    `low`, `high` and `p_adjusted` are Holm's over all claims; they are None where too few runs tell nothing.
    `detectable` is the minimum detectable difference, with 80 % power.
    """

    name: str
    baseline: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    kind: Kind
    measure: str
    detectable: float | None


@dataclass(frozen=True)
class RunsOfMeasure:
    """The runs that have values of one measure, and which values are better."""

    measure: str
    goal: Goal
    runs: tuple[LoggedRun, ...]

    @property
    def groups(self) -> dict[str, list[LoggedRun]]:
        """The runs of each group, in order of first appearance."""
        found: dict[str, list[LoggedRun]] = {}
        for run in self.runs:
            found.setdefault(run.group, []).append(run)
        return found


class Refused(ValueError):
    """A mistake in what was typed, or a table that cannot be compared."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(f"compare: {message}; compare --help shows what it takes")


def parser() -> argparse.ArgumentParser:
    """The options of the verb."""
    made = _Parser(
        prog=f"{invocation()} compare",
        allow_abbrev=False,
        description="Compare groups of runs from elsewhere with a baseline: each run counts with its last row.",
        epilog="Exit status: 0 no group is worse (with --no-worse-than: each is shown to be no worse by more), 1 one "
        "is, 2 a mistake in what was typed, 3 undecided (only with --no-worse-than).",
    )
    made.add_argument("files", nargs="+", metavar="FILE", help="a CSV file, mlflow:EXPERIMENT or a trainer_state.json")
    made.add_argument("--group", metavar="COL", help="the column that says which runs belong together")
    made.add_argument("--run", metavar="COL[,COL]", help="the columns that together name a run")
    made.add_argument("--seed", metavar="COL", help="pair the runs of two groups by this column")
    made.add_argument("--step", metavar="COL", help="the column of steps, whose highest is a run's last row")
    made.add_argument("--measure", metavar="COL", help="the column that is compared, or a name in the column metric")
    made.add_argument("--goal", choices=("min", "max"), help="whether a lower or a higher value is better")
    made.add_argument(
        "--baseline", metavar="NAME", help="the group that others are compared with; by default the first"
    )
    made.add_argument(
        "--no-worse-than", type=float, metavar="X", help="ask whether each group is worse by less than X, in units"
    )
    made.add_argument("--json", action="store_true", help="print the claims as JSON, and nothing else")
    return made


def main(argv: Sequence[str]) -> int:
    """Compare runs from elsewhere: groups of a CSV file, an MLflow experiment or trainer states; see compare --help."""
    if "--help" in argv or "-h" in argv:
        print(parser().format_help(), end="")
        return 0
    asked = parser().parse_args(list(argv))
    if asked.no_worse_than is not None and not (math.isfinite(asked.no_worse_than) and asked.no_worse_than > 0):
        raise Refused(f"--no-worse-than must be a number above 0, got {asked.no_worse_than}")
    tables = [
        RunsOfMeasure(name, _goal(name, asked.goal), runs) for name, runs in _measured(_table(asked.files), asked)
    ]
    claims = judged(tables, asked.baseline, asked.no_worse_than)
    if asked.json:
        say(json.dumps({"claims": [_as_json(claim, with_measure=len(tables) > 1) for claim in claims]}, indent=2))
    else:
        for one in tables:
            _show(one, [claim for claim in claims if claim.measure == one.measure])
        say(_how_compared(tables, claims, asked.no_worse_than))
    return _exit_status([claim.kind for claim in claims], asked.no_worse_than)


def _as_json(claim: RunClaim, *, with_measure: bool) -> dict[str, Any]:
    keys = ("name", "baseline", "difference", "low", "high", "p", "p_adjusted", "kind")
    return {key: getattr(claim, key) for key in (*keys, *(["measure"] if with_measure else []))}


def _exit_status(kinds: Sequence[Kind], margin: float | None) -> int:
    if "worse" in kinds:
        return WORSE
    return UNDECIDED if margin is not None and "undecided" in kinds else BETTER_OR_NOT_WORSE


def judged(tables: Sequence[RunsOfMeasure], baseline: str | None = None, margin: float | None = None) -> list[RunClaim]:
    """Compare each group with the baseline, by default the first, by each measure.

    Runs are paired if they have seeds, and otherwise compared by Welch's test, or by Yuen's where a run lies far out.
    Intervals and two-sided p-values are adjusted by Holm's method over all claims. With a margin, a group is no worse
    if a one-sided test, adjusted likewise, shows that it is worse by less than the margin.
    Raises Refused for fewer than two groups, and for a baseline that is none of them.
    """
    pairs = [(one, name, first) for one in tables for first in [_first(one, baseline)] for name in one.groups]
    pairs = [(one, name, first) for one, name, first in pairs if name != first]
    p_values = [_difference(one, name, first).p for one, name, first in pairs]
    known = [p for p in p_values if p is not None]
    adjusted = iter(zip(holm(known), holm_levels(known), strict=True))
    harms = [None if margin is None else _harm(one, name, first, margin) for one, name, first in pairs]
    no_worse = [None] * len(pairs) if margin is None else [p < LEVEL for p in holm([p or 0.0 for p in harms])]
    claims = []
    for (one, name, first), p, within in zip(pairs, p_values, no_worse, strict=True):
        p_adjusted, level = next(adjusted) if p is not None else (None, LEVEL)
        shown = _difference(one, name, first, level)
        kind = _kind(shown.mean, p_adjusted, one.goal, within)
        claims.append(
            RunClaim(name, first, shown.mean, shown.low, shown.high, p, p_adjusted, kind, one.measure, shown.detectable)
        )
    return claims


def _first(one: RunsOfMeasure, baseline: str | None) -> str:
    names = list(one.groups)
    if len(names) < 2:
        raise Refused(f"there must be at least 2 groups to compare, got {', '.join(names) or 'none'}: use --group")
    if baseline is not None and baseline not in names:
        raise Refused(f"--baseline {baseline} is not among the groups {', '.join(names)}")
    return baseline or names[0]


def _difference(one: RunsOfMeasure, name: str, first: str, level: float = LEVEL, moved: float = 0.0) -> Difference:
    """A group minus the baseline, after `moved` was added to its values."""
    ours, theirs = one.groups[name], one.groups[first]
    if any(run.seed is not None for run in one.runs):
        values, base = ({str(run.seed): run.value for run in side} for side in (ours, theirs))
        shared = [seed for seed in values if seed in base]
        if not shared:
            raise Refused(f"{name} and {first} have no seed in common: leave out --seed")
        return paired_difference({s: values[s] + moved for s in shared}, {s: base[s] for s in shared}, level)
    values, base = [run.value + moved for run in ours], [run.value for run in theirs]
    return independent_difference(values, base, level, trimmed=_lies_far_out(values) or _lies_far_out(base))


def _harm(one: RunsOfMeasure, name: str, first: str, margin: float) -> float:
    """The one-sided p-value of the hypothesis that a group is worse by the margin or more."""
    sign = 1 if one.goal == "max" else -1
    found = _difference(one, name, first, moved=sign * margin)
    two_sided = 1.0 if found.p is None else found.p
    return two_sided / 2 if sign * found.mean > 0 else 1 - two_sided / 2


def _kind(difference: float, p: float | None, goal: Goal, no_worse: bool | None) -> Kind:
    """What a difference shows; `no_worse` is whether it was shown to be within a margin, None without one."""
    is_shown, is_gain = p is not None and p < LEVEL, (difference > 0) == (goal == "max")
    if is_shown and is_gain:
        return "better"
    if no_worse:
        return "no worse"
    return "worse" if is_shown else "undecided"


def _lies_far_out(values: Sequence[float]) -> bool:
    """Whether one of at least 8 values is more than 6 robust standard deviations from their median."""
    import numpy as np

    if len(values) < 8:
        return False
    distances = np.abs(np.asarray(values) - np.median(values))
    return bool(distances.max() > 6 * np.median(distances) / 0.6745 > 0)


def _table(names: Sequence[str]) -> "pandas.DataFrame":
    """All files in one table; where none has a column for it, a group is a file or the start of a run's name."""
    import pandas

    tables = []
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise Refused(f"{twice[0]} is typed twice")
    for name in names:
        if name.startswith(MLFLOW):
            table = pandas.DataFrame(_of_mlflow(name.removeprefix(MLFLOW)))
        elif not Path(name).is_file():
            raise Refused(f"there is no file {name}; an MLflow experiment is typed as {MLFLOW}NAME")
        elif name.endswith(".json"):
            table = _of_trainer(Path(name))
        else:
            try:
                table = _long(pandas.read_csv(name))
            except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
                raise Refused(f"{name} is not a CSV file: {' '.join(str(error).split())}") from error
        label = Path(name).stem if len({Path(other).stem for other in names}) == len(names) else name
        # The states of trainers name their group by their folder, and all have one name.
        label = "trainer" if name.endswith(".json") else label
        tables.append(table.assign(**{FILE: label, SOURCE: name}))
    return pandas.concat(tables, ignore_index=True)


def _of_mlflow(experiment: str) -> list[dict[str, Any]]:
    """The finished runs of an experiment; others are counted on standard error."""
    runs = list(tracking.logged_runs(experiment))
    finished = [run for run in runs if run[tracking.RUN_STATUS] == "FINISHED"]
    if len(finished) < len(runs):
        complain(f"left out, because they have not finished: {len(runs) - len(finished)} of the runs of {experiment}")
    if not finished:
        raise Refused(f"the MLflow experiment {experiment} has no finished run")
    return finished


def _of_trainer(path: Path) -> "pandas.DataFrame":
    """The log of Hugging Face's Trainer as one run, named by the folder above its checkpoint."""
    import pandas

    try:
        rows = json.loads(path.read_text())["log_history"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is no trainer_state.json: it must have log_history") from error
    folder = path.resolve().parent
    name = folder.parent.name if folder.name.startswith("checkpoint-") else folder.name
    return pandas.DataFrame(rows).assign(run=name, group=OF_A_SEED.sub("", name) or name)


def _long(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """The table with a row for each run and step: a W&B export has a column `RUN - MEASURE` for each run instead."""
    import pandas

    columns = [one for one in table.columns if " - " in one and not one.endswith(("__MIN", "__MAX"))]
    steps = [one for one in table.columns if one in STEPS]
    if not columns or not steps:
        return table
    parts = []
    for column in columns:
        run, _, measure = column.rpartition(" - ")
        part = pandas.DataFrame({steps[0]: table[steps[0]], measure: table[column]}).dropna()
        parts.append(part.assign(run=run, group=OF_A_SEED.sub("", run) or run))
    return pandas.concat(parts, ignore_index=True)


def _measured(table: "pandas.DataFrame", asked: argparse.Namespace) -> Iterator[tuple[str, tuple[LoggedRun, ...]]]:
    """The runs of each measure that is compared. Raises Refused where a column is missing or must be named."""
    columns = [str(name) for name in table.columns if name not in (FILE, SOURCE)]
    for option in ("group", "seed", "step"):
        if (name := getattr(asked, option)) is not None and name not in columns:
            raise Refused(f"--{option} {name} is not among the columns {', '.join(columns)}")
    group = asked.group or _guessed_group(table)
    names = asked.run.split(",") if asked.run else [name for name in RUNS if name in columns]
    if missing := [name for name in names if name not in columns]:
        raise Refused(f"--run {missing[0]} is not among the columns {', '.join(columns)}")
    names = [name for name in names if name != group]
    if asked.seed and asked.seed not in names:
        names.append(asked.seed)
    step = asked.step or next((name for name in STEPS if name in columns and name not in names), None)
    # Runs of two files are two runs, whatever their names.
    if len(asked.files) > 1 and (names or step):
        names.append(SOURCE)
    if step is not None and not names:
        raise Refused(
            "--run must name the column that tells the runs of a group apart, since there is a column of steps"
        )
    guessed = {"group": group} if not asked.group else {}
    told_names = ["the file" if name == SOURCE else name for name in names]
    guessed |= {"run": ",".join(told_names) or "each row"} if not asked.run else {}
    guessed |= {"step": step or "none"} if not asked.step else {}
    if NAME_OF_MEASURE in columns and VALUE in columns and asked.measure not in columns:
        known = [str(name) for name in table[NAME_OF_MEASURE].unique()]
        if asked.measure is not None and asked.measure not in known:
            raise Refused(f"--measure {asked.measure} is neither a column nor one of {', '.join(known)}")
        of_each = {str(name): rows for name, rows in table.groupby(NAME_OF_MEASURE, sort=False)}
        chosen = [(name, VALUE, of_each[name]) for name in known if asked.measure in (None, name)]
    else:
        measure = asked.measure or _guessed_measure(table, {group, step, asked.seed, *names})
        if measure not in columns:
            raise Refused(f"--measure {measure} is not among the columns {', '.join(columns)}")
        guessed |= {"measure": measure} if not asked.measure else {}
        chosen = [(measure, measure, table)]
    if guessed:
        told = ", ".join(f"--{option} {'the file' if name == FILE else name}" for option, name in guessed.items())
        complain(f"compare takes {told}")
    for name, column, rows in chosen:
        yield name, tuple(_last_rows(rows, group, names, step, asked.seed, column))


def _guessed_group(table: "pandas.DataFrame") -> str:
    """The column of groups: the first of the usual names; the file, if there is none or CSV files share a group."""
    name = next((name for name in GROUPS if name in table.columns), None)
    if name is None:
        return FILE
    in_files = table.groupby(name)[FILE].nunique()
    return FILE if max(in_files.tolist(), default=0) > 1 else name


def _guessed_measure(table: "pandas.DataFrame", others: set[str | None]) -> str:
    for name in MEASURES:
        if name in table.columns:
            return name
    numbers = [str(name) for name in table.select_dtypes("number").columns if name not in others]
    if len(numbers) == 1:
        return numbers[0]
    raise Refused(f"--measure must name the column to compare, one of {', '.join(numbers) or 'none that has numbers'}")


def _last_rows(
    table: "pandas.DataFrame", group: str, names: Sequence[str], step: str | None, seed: str | None, column: str
) -> Iterator[LoggedRun]:
    """Each run with its last row that has a value. Lengths that differ and runs without a finite value are said."""
    import pandas

    if missing := len(table) - len(table.dropna(subset=[group])):
        complain(f"left out, because they have no {group}: {missing} of the rows")
    rows = table.dropna(subset=[group]).assign(_value=pandas.to_numeric(table[column], errors="coerce"))
    found: list[LoggedRun] = []
    lost: dict[str, int] = {}
    repeated = 0
    for key, rows_of_run in rows.groupby([group, *names] if names else [group, rows.index], sort=False, dropna=False):
        part = rows_of_run.sort_values(step, kind="stable") if step else rows_of_run
        known = part.loc[part["_value"].notna()]
        if step is None and len(known) > 1:
            raise Refused(
                f"a run of {part[group].iloc[0]} has {len(known)} rows, and there is no column of steps: name the "
                "columns that tell runs apart with --run, or groups with --group, or --step"
            )
        repeated += step is not None and len(set(known[step])) < len(known)
        own, value = str(part[group].iloc[0]), _last_value(part["_value"].tolist())
        if value is None:
            lost[own] = lost.get(own, 0) + 1
            continue
        last = known.iloc[-1]
        name = ", ".join(map(str, tuple(key)[1:]))  # type: ignore[arg-type]
        found.append(
            LoggedRun(own, name, str(last[seed]) if seed else None, float(last[step]) if step else None, value)
        )
    if repeated:
        complain(
            f"{repeated} runs have several rows of one step, of which the last counts: does --run tell them apart?"
        )
    for own, count in lost.items():
        complain(f"left out, because they end without a finite {column}: {count} of the runs of {own}")
    spans: dict[str, set[float]] = {}
    for run in found:
        spans.setdefault(run.group, set()).add(run.last_step or 0.0)
    if len(set().union(*spans.values())) > 1:
        told = (f"{own} {min(ends):g}" + (f" to {max(ends):g}" if len(ends) > 1 else "") for own, ends in spans.items())
        complain(f"runs of different lengths are compared, each by its last step: {'; '.join(told)}")
    if seed and len({(run.group, run.seed) for run in found}) < len(found):
        raise Refused(f"--seed {seed} must tell the runs of a group apart, but several have the same")
    yield from found


def _last_value(values: Sequence[float]) -> float | None:
    """The last value of a run; None for one that ends without a finite value.

    A log may lack the measure in many rows, but a run that lacks it in the last one alone has diverged.
    """
    known = [value for value in values if not math.isnan(value)]
    if not known or not math.isfinite(known[-1]):
        return None
    return None if math.isnan(values[-1]) and len(known) == len(values) - 1 else known[-1]


def _goal(measure: str, typed: Goal | None) -> Goal:
    if typed is not None:
        return typed
    words = re.sub(r"[_/.\s-]+", " ", measure.lower())
    fits: list[Goal] = [goal for goal, pattern in GOALS.items() if re.search(pattern, words)]
    if len(fits) != 1:
        raise Refused(f"--goal must be min or max, because the name {measure} does not tell which is better")
    complain(f"compare takes --goal {fits[0]} for {measure}")
    return fits[0]


def _show(one: RunsOfMeasure, claims: Sequence[RunClaim]) -> None:
    known = {claim.name: claim for claim in claims}
    table = Table(
        title=f"{one.measure}, {one.goal} is better", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in ("group", "runs", "mean ± std", "difference", "95 % interval", "p", "verdict"):
        justify = "left" if name in ("group", "verdict") else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "group")
    for name, runs in one.groups.items():
        about = spread([run.value for run in runs])
        assert about is not None
        std = "" if about.std is None else f" ± {about.std:.2g}"
        cells = [name, str(len(runs)), f"{four_digits(about.mean)}{std}"]
        if (claim := known.get(name)) is None:
            cells += ["", "", "", "baseline"]
        else:
            interval = "" if claim.low is None or claim.high is None else f"{claim.low:+.2g} to {claim.high:+.2g}"
            p = "" if claim.p_adjusted is None else p_value(claim.p_adjusted)
            cells += [f"{claim.difference:+.2g}", interval, p, claim.kind]
        table.add_row(*map(Text, cells))
    Console(highlight=False, width=max(Console().width, LEAST_WIDTH)).print(table)


def _how_compared(tables: Sequence[RunsOfMeasure], claims: Sequence[RunClaim], margin: float | None) -> str:
    """The tests, and what they could have shown."""
    paired = any(run.seed is not None for one in tables for run in one.runs)
    far = [
        f"{name} ({one.measure})"
        for one in tables
        for name, runs in one.groups.items()
        if _lies_far_out([run.value for run in runs])
    ]
    lines = ["Compared by " + ("the paired t-test" if paired else "Welch's test of independent runs")]
    if far and not paired:
        lines[0] += f"; by Yuen's of 20 % trimmed means with {', '.join(far)}, where a run lies far out"
    lines[0] += f"; intervals and p after Holm over {len(claims)} claims." if len(claims) > 1 else "."
    if margin is not None:
        lines.append(f"No worse: shown to be worse by less than {margin:g}, by one-sided tests at {LEVEL:.0%}.")
    open_claims = [claim for claim in claims if claim.kind == "undecided" and claim.detectable is not None]
    if open_claims:
        told = ", ".join(
            f"{claim.name} {f'({claim.measure}) ' if len(tables) > 1 else ''}{claim.detectable:.2g}"
            for claim in open_claims
        )
        lines.append(f"Minimum detectable difference (80 % power): {told}.")
    return "\n".join(lines)
