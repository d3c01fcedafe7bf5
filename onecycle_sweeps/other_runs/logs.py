"""Runs from elsewhere, read from CSV files, an MLflow experiment or trainer states."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onecycle_sweeps import tracking
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.terminal import counting, first_few

if TYPE_CHECKING:
    import pandas

Goal = Literal["min", "max"]
# A function that takes a line on what was guessed or left out, or differs.
Note = Callable[[str], None]
# A run's values by step, in order of steps.
Values = tuple[tuple[float, float], ...]
MLFLOW = "mlflow:"
# The columns to use where no option names another. A run is named by all of RUNS that a table has.
GROUPS = ("group", "algorithm", "policy", "optimizer", "method", "variant", "Group")
RUNS = ("run", "run_id", "run_name", "study", "trial", "replicate", "seed", "Name")
STEPS = ("step", "_step", "global_step", "Step", "iteration", "epoch")
MEASURES = ("val_loss", "eval_loss", "final/test_accuracy", "final/val_accuracy", "val_accuracy", "eval_accuracy")
# How the run of a row ended, as W&B's table of runs has it, and what it says of runs that did not reach their end.
STATE, UNFINISHED = ("State", "state"), ("crashed", "failed", "killed", "running", "pending", "preempted", "preempting")
# A table with a row for each value names the measure in one column and has its value in another.
NAME_OF_MEASURE, VALUE = "metric", "value"
# Columns that are added: the name of a row's file as a group, where the row is from, its value as a number, and whether
# it has one, which need not be finite.
FILE, SOURCE, NUMBER, LOGGED = "_file", "_source", "_number", "_logged"
ADDED = (FILE, SOURCE, tracking.RUN_PARAMS)
# What a column of numbers has where a value is absent, and where it is not a number. Other columns have these as words.
ABSENT = ("", "na", "n/a", "#n/a", "#na", "<na>", "none", "null")
NOT_A_NUMBER = re.compile(r"[+-]?(?:nan|1\.#(?:ind|qnan))", re.IGNORECASE)
# What in a measure's name tells its goal; some have a number behind them: `fid50k`, `map50`.
GOALS: dict[Goal, str] = {
    "min": r"loss|error|\berr|err\b|perplexity|brier|distance|divergence|rmse|nll|bpc|seconds|time|"
    r"\b(?:wer|cer|eer|ece|fid|kid|fvd|lpips|ppl|n?mse|msle|s?mape|n?mae|bp[bd]|crps|kl)(?:\d+k?)?\b",
    "max": r"acc|precision|recall|\bmap\d*\b|bleu|rouge|ssim|psnr|\bf1\b|auc|iou|dice|\br2\b|reward",
}
# These tell it only where nothing else does: a `brier_score` and a `top1_error` are better if they are lower.
WEAK_WORDS_OF_MAX = r"score|top.?[15]"
# What ends the name of a run and tells it from others of its group: `adamw-seed3`, `adamw_3`. The number in `resnet18`,
# `lr-0.1` or `lr-1e-3` is part of a group's name.
OF_A_SEED = re.compile(
    r"(?:[\s_-]*(?<![^\W\d_])(?:seed|run|trial)[\s_=-]*|(?<!\de)(?<![\s_-])[\s_-]+)\d+$", re.IGNORECASE
)
SAYS_SEED = re.compile(r"(?:seed|run|trial)[\s_=-]*\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What was typed: the columns (None for those to be guessed), and which values are better."""

    group: str | None = None
    run: str | None = None
    seed: str | None = None
    step: str | None = None
    measure: str | None = None
    goal: Goal | None = None


@dataclass(frozen=True)
class LoggedRun:
    """One run: its group, its name, its seed if runs are paired, its last step if there are steps, its last value.

    `curve` has all its finite values by step; it is empty where the log has no steps.
    """

    group: str
    name: str
    seed: str | None
    last_step: float | None
    value: float
    curve: Values = ()


@dataclass(frozen=True)
class RunsOfMeasure:
    """The runs that have values of one measure, which values are better, and the column of steps."""

    measure: str
    goal: Goal
    runs: tuple[LoggedRun, ...]
    step: str | None = None

    @property
    def groups(self) -> dict[str, list[LoggedRun]]:
        """The runs of each group, in order of first appearance."""
        found: dict[str, list[LoggedRun]] = {}
        for run in self.runs:
            found.setdefault(run.group, []).append(run)
        return found

    @property
    def paired(self) -> bool:
        """Whether runs have seeds."""
        return any(run.seed is not None for run in self.runs)

    @property
    def has_curves(self) -> bool:
        """Whether a run has values at several steps."""
        return any(len(run.curve) > 1 for run in self.runs)

    @property
    def as_measure(self) -> Measure:
        """The measure by a name that files may have, in the unit of the log."""
        return Measure(re.sub(r"[^\w.-]+|^[.-]+", "_", self.measure) or "_", self.goal)


class Refused(ValueError):
    """A mistake in what was typed, or a table that cannot be compared."""


def read(files: Sequence[str], asked: Asked, note: Note) -> list[RunsOfMeasure]:
    """The runs of each measure that is compared. Raises Refused where a column is missing or must be named."""
    found = []
    for name, step, runs in _measured(_table(files, note), len(files), asked, note):
        found.append(RunsOfMeasure(name, _goal(name, asked.goal, note), runs, step))
    return found


def _table(names: Sequence[str], note: Note) -> "pandas.DataFrame":
    """All files in one table; where none has a column for it, a group is a file or the start of a run's name."""
    import pandas

    tables = []
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise Refused(f"{twice[0]} is typed twice")
    for name in names:
        if name.startswith(MLFLOW):
            table = pandas.DataFrame(_of_mlflow(name.removeprefix(MLFLOW), note))
        elif not Path(name).is_file():
            raise Refused(f"there is no file {name}; an MLflow experiment is typed as {MLFLOW}NAME")
        elif name.endswith(".json"):
            table = _of_trainer(Path(name))
        else:
            try:
                table = _of_csv(Path(name))
            except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
                raise Refused(f"{name} is not a CSV file: {' '.join(str(error).split())}") from error
        label = Path(name).stem if len({Path(other).stem for other in names}) == len(names) else name
        # Trainer states all have the same file name; their groups are named by their folders.
        label = "trainer" if name.endswith(".json") else label
        tables.append(table.assign(**{FILE: label, SOURCE: name}))
    return pandas.concat(tables, ignore_index=True)


def _of_csv(path: Path) -> "pandas.DataFrame":
    """A table of runs and steps whose columns are separated by commas, or else by semicolons or tabs."""
    import pandas

    # An empty cell alone is missing: `None` is the name of a group, and `nan` is a value that was logged.
    reading = partial(pandas.read_csv, path, keep_default_na=False, na_values=[""], low_memory=False)
    table = reading()
    first = str(table.columns[0])
    other = next((separator for separator in ";\t" if separator in first), None)
    if len(table.columns) == 1 and other:
        reading = partial(reading, sep=other)
        table = reading()
    # pandas renames columns of the same name.
    return _long(table, reading(header=None, nrows=1, dtype=str).iloc[0].fillna("").tolist())


def _of_mlflow(experiment: str, note: Note) -> list[dict[str, Any]]:
    """The finished runs of an experiment; others are counted."""
    runs: dict[Any, dict[str, Any]] = {}
    for number, run in enumerate(tracking.logged_runs(experiment)):
        # A trial that several sweeps share has a run in each, of which the latest counts.
        runs[run.get("signature", number)] = run | {"group": run["group"] or _group_of(run["run"])}
    finished = [run for run in runs.values() if run[tracking.RUN_STATUS] == "FINISHED"]
    if len(finished) < len(runs):
        note(f"left out, because they have not finished: {len(runs) - len(finished)} of the runs of {experiment}")
    if not finished:
        raise Refused(f"the MLflow experiment {experiment} has no finished run")
    return finished


def _of_trainer(path: Path) -> "pandas.DataFrame":
    """The log of Hugging Face's Trainer as one run, named by the folder above its checkpoint."""
    import pandas

    try:
        # Values that are not finite stay words, as in a CSV file, so that they differ from those that are absent.
        rows = json.loads(path.read_text(), parse_constant=str)["log_history"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is no trainer_state.json: it must have log_history") from error
    folder = path.resolve().parent
    name = folder.parent.name if folder.name.startswith("checkpoint-") else folder.name
    return pandas.DataFrame(rows).assign(run=name, group=_group_of(name))


def _long(table: "pandas.DataFrame", header: Sequence[str]) -> "pandas.DataFrame":
    """The table with a row for each run and step: a W&B export has a column `RUN - MEASURE` for each run instead.

    `header` has the names of the columns as they are in the file, where those of two runs of one name are the same.
    """
    import pandas

    steps = [one for one in table.columns if one in STEPS]
    parts = []
    for place, column in enumerate(header):
        run, _, measure = column.rpartition(" - ")
        if not steps or not run or measure in STEPS or measure.endswith(("__MIN", "__MAX")):
            continue
        rows = pandas.DataFrame({steps[0]: table[steps[0]], measure: table.iloc[:, place]})
        known = rows.dropna()
        earlier = header[:place].count(column)
        name = f"{run} ({earlier + 1})" if earlier else run
        # A run without any value keeps a row, so that it is counted among those that are left out.
        parts.append((rows.head(1) if known.empty else known).assign(run=name, group=_group_of(run)))
    return pandas.concat(parts, ignore_index=True) if parts else table


def _group_of(run: str) -> str:
    """The name of a run without its seed, unless it has no other name."""
    return OF_A_SEED.sub("", run) or run


def _measured(
    table: "pandas.DataFrame", files: int, asked: Asked, note: Note
) -> Iterator[tuple[str, str | None, tuple[LoggedRun, ...]]]:
    """Each measure that is compared, with the column of steps and the runs."""
    columns = [str(name) for name in table.columns if name not in ADDED]
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
    if files > 1 and (names or step):
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
        known = [str(name) for name in table[NAME_OF_MEASURE].dropna().unique()]
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
        note(f"compare assumes {told}")
    if not asked.group:
        _note_numbered(table, group, note)
    _note_mixed(table, group, note)
    for name, column, rows in chosen:
        about = note if len(chosen) == 1 else partial(_note_of, name, note)
        histories = _histories(rows, column) if step is None else {}
        runs = tuple(_runs(rows, group, names, step, asked.seed, column, histories, about))
        yield name, step or ("step" if any(histories.values()) else None), runs


def _note_numbered(table: "pandas.DataFrame", group: str, note: Note) -> None:
    """Say which groups are made of runs whose names differ in a bare number, which may not be that of a seed."""
    if "run" not in table.columns or group == "run":
        return
    for name, runs in table.groupby(group, sort=False)["run"]:
        numbered = [one for one in dict.fromkeys(map(str, runs)) if one != name and _group_of(one) == name]
        bare = [one for one in numbered if not SAYS_SEED.search(one)]
        if len(bare) > 1:
            note(f"{first_few(bare)} are taken for runs of one group, {name}: rename them if they are groups")


def _note_mixed(table: "pandas.DataFrame", group: str, note: Note) -> None:
    """Say which of MLflow's params differ within a group, apart from seeds: its runs are no repetitions of one run."""
    if tracking.RUN_PARAMS not in table.columns:
        return
    params = dict.fromkeys(name for names in table[tracking.RUN_PARAMS].dropna() for name in names)
    asked = [name for name in params if name != group and "seed" not in name.lower()]
    counts = table.groupby(group, sort=False)[asked].nunique() if asked else {}
    if differing := [name for name in asked if max(counts[name].tolist()) > 1]:
        note(
            f"runs of one group differ in {first_few(differing)}, and are compared as if they repeated one training: "
            "name another column with --group, or keep them in experiments of their own"
        )


def _note_of(measure: str, note: Note, line: str) -> None:
    note(f"{measure}: {line}")


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
    columns = [str(name) for name in table.columns if name not in others and name not in ADDED]
    numbers = [name for name in columns if _has_numbers(table, name)]
    if len(numbers) == 1:
        return numbers[0]
    raise Refused(f"--measure must name the column to compare, one of {', '.join(numbers) or 'none that has numbers'}")


def _has_numbers(table: "pandas.DataFrame", column: str) -> bool:
    """Whether all values of a column are numbers; one of words has numbers only if some are absent or not finite."""
    cells = table[column].dropna().tolist()
    if not any(isinstance(cell, str) for cell in cells):
        return column in table.select_dtypes("number").columns
    try:
        values = [_number(cell) for cell in cells]
    except (TypeError, ValueError):
        return False
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return 0 < len(finite) < len(values)


def _runs(
    table: "pandas.DataFrame",
    group: str,
    names: Sequence[str],
    step: str | None,
    seed: str | None,
    column: str,
    histories: Mapping[str, Values],
    note: Note,
) -> Iterator[LoggedRun]:
    """Each run with its values of a column, of which the last counts; notes what is left out and unequal lengths."""
    rows = _numbers(table, group, step, seed, column, note)
    found: list[LoggedRun] = []
    lost: dict[str, int] = {}
    unfinished: dict[str, int] = {}
    repeated = 0
    for key, of_run in rows.groupby([group, *names] if names else [group, rows.index], sort=False, dropna=False):
        part = of_run.sort_values(step, kind="stable") if step else of_run
        own, known = str(part[group].iloc[0]), part.loc[part[LOGGED]]
        if step is None and len(known) > 1:
            ids = f", such as --run {tracking.RUN_ID}" if tracking.RUN_ID in table.columns else ""
            raise Refused(
                f"a run of {own} has {len(known)} rows, and there is no column of steps: name the columns that tell "
                f"runs apart with --run{ids}, or groups with --group, or --step"
            )
        value = math.nan if known.empty or _stops_early(part) else float(known[NUMBER].iloc[-1])
        if not math.isfinite(value):
            lost[own] = lost.get(own, 0) + 1
            continue
        last, curve = known.iloc[-1], ()
        if any(str(last.get(name)).lower() in UNFINISHED for name in STATE):
            unfinished[own] = unfinished.get(own, 0) + 1
        if step is not None:
            by_step = dict(zip(known[step].tolist(), known[NUMBER].tolist(), strict=True))
            repeated += len(by_step) < len(known)
            curve = tuple((at, one) for at, one in by_step.items() if math.isfinite(one))
        elif histories:
            curve = histories.get(str(last[tracking.RUN_ID]), ())
        name = ", ".join(map(str, tuple(key)[1:]))  # type: ignore[arg-type]
        last_step = curve[-1][0] if curve else None
        found.append(LoggedRun(own, name, str(last[seed]) if seed else None, last_step, value, curve))
    if repeated:
        note(f"{repeated} runs have several rows of one step, of which the last counts: does --run tell them apart?")
    for own, count in lost.items():
        note(f"left out, because they end without a finite {column}: {count} of the runs of {own}")
    for own, count in unfinished.items():
        note(
            f"{count} of the runs of {own} did not finish, by the column of their state, and count with the last "
            f"{column} that they have: take them out of the file if they should not"
        )
    _tell_lengths(found, note)
    if seed and len({(run.group, run.seed) for run in found}) < len(found):
        raise Refused(f"--seed {seed} must tell the runs of a group apart, but several have the same")
    yield from found


def _numbers(
    table: "pandas.DataFrame", group: str, step: str | None, seed: str | None, column: str, note: Note
) -> "pandas.DataFrame":
    """The rows that have a group, a step and a seed, with the column's values as numbers."""
    if step is not None:
        table = table.assign(**{step: _as_numbers(table, "step", step)})
    for name in (group, step, seed):
        if name is not None and (missing := len(table) - len(table.dropna(subset=[name]))):
            note(f"left out, because they have no {name}: {missing} of the rows")
            table = table.dropna(subset=[name])
    values = _as_numbers(table, "measure", column)
    numbers = [math.nan if value is None else value for value in values]
    return table.assign(**{NUMBER: numbers, LOGGED: [value is not None for value in values]})


def _as_numbers(table: "pandas.DataFrame", option: str, column: str) -> list[float | None]:
    """The values of a column, None for one that is absent."""
    missing = table[column].isna().tolist()
    try:
        return [None if none else _number(cell) for cell, none in zip(table[column].tolist(), missing, strict=True)]
    except (TypeError, ValueError) as error:
        raise Refused(f"--{option} {column} must have numbers: {error}") from error


def _number(cell: Any) -> float | None:
    """A cell as a number, None if it is absent. Raises ValueError for another word."""
    word = str(cell).strip()
    if word.lower() in ABSENT:
        return None
    return math.nan if NOT_A_NUMBER.fullmatch(word) else float(cell)


def _histories(table: "pandas.DataFrame", metric: str) -> dict[str, Values]:
    """The values of a metric of each MLflow run in the table by its id."""
    if tracking.RUN_ID not in table.columns:
        return {}
    ids = [str(one) for one in table.loc[table[metric].notna(), tracking.RUN_ID].dropna()]
    with counting("reading MLflow", len(ids), "runs") as count:
        found = {}
        for one, history in zip(ids, tracking.histories(ids, metric), strict=True):
            found[one] = tuple((step, value) for step, value in history if math.isfinite(value))
            count(1)
    return found


def _tell_lengths(runs: Sequence[LoggedRun], note: Note) -> None:
    """Note which groups have runs with different last steps."""
    spans: dict[str, set[float]] = {}
    for run in runs:
        if run.last_step is not None:
            spans.setdefault(run.group, set()).add(run.last_step)
    if len(set().union(*spans.values())) > 1:
        told = (f"{own} {min(ends):g}" + (f" to {max(ends):g}" if len(ends) > 1 else "") for own, ends in spans.items())
        note(f"runs of different lengths are compared, each by its last step: {'; '.join(told)}")


def _stops_early(part: "pandas.DataFrame") -> bool:
    """Whether a run has its measure in each row up to some row and in none after it.

    Such a run has diverged, for many programs write an empty cell for what is not a number. A log may also have rows of
    other kinds, such as of the training between two tests, or of a last test: they have what the rows before lack.
    """
    known = part[LOGGED].tolist()
    count = sum(known)
    if not all(known[:count]) or count == len(known):
        return False
    before, after = part.iloc[:count], part.iloc[count:]
    return not (before.isna().all() & after.notna().any()).any()


def _goal(measure: str, typed: Goal | None, note: Note) -> Goal:
    if typed is not None:
        return typed
    # `valLoss` and `FIDScore` have two words each, and `mAP` has one.
    apart = re.sub(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", measure)
    words = re.sub(r"[_/.\s-]+", " ", f"{apart} {measure}".lower())
    fits: list[Goal] = [goal for goal, pattern in GOALS.items() if re.search(pattern, words)]
    if not fits and re.search(WEAK_WORDS_OF_MAX, words):
        fits = ["max"]
    if re.search(r"\bneg ", words):
        # scikit-learn's neg_log_loss and its like are errors with the sign changed.
        fits = ["max" if goal == "min" else "min" for goal in fits]
    if len(fits) != 1:
        raise Refused(f"--goal must be min or max, because the name {measure} does not tell which is better")
    note(f"compare assumes --goal {fits[0]} for {measure}")
    return fits[0]
