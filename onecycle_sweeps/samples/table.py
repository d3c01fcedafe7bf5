"""A table of numbers and words as one array of numbers, fitted to the training part (scikit-learn's transformers)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps.samples.targets import are_digits_and_signs, is_squeezed, squeezed
from onecycle_sweeps.terminal import first_few

if TYPE_CHECKING:
    from pandas import DataFrame

# A column of words becomes at most this many columns of numbers; rarer words share one.
MOST_WORDS = 100
# A column with at least this many different numbers, and with words as at most this share of its values, has numbers.
FEWEST_NUMBERS, MOST_MARKS = 10, 0.1
# Numbers are clipped at this many standard deviations from the mean. A few rows at 45 of them made trainings diverge at
# a rate that suited all other rows, and short trainings did not meet those rows.
FURTHEST = 20.0
# A text is a date if it has the day, and after it perhaps the time and the zone; 2020, 2020-11 and 12-11 are words.
DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII)
DATES = ("date", "datetime", "datetime64")


def encoded(parts: Mapping[str, DataFrame]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Each part as float32 (N, columns), and a doubt for each column that is left out or has numbers that are clipped.

    Numbers are standardised and clipped at FURTHEST deviations, with the median in their gaps and a column of 0 and 1
    that says where these were. Words become one column each, gaps a word of their own; a word that the training part
    lacks has no column. A few words in a column of numbers, such as `?`, are gaps. Everything is fitted to the training
    part. Dates and durations are numbers of seconds, and a column of ISO 8601 texts has dates. Raises ValueError for
    numbers that are infinite, for values that are neither numbers nor words, and if no column is left.
    """
    from pandas.api.types import is_numeric_dtype
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    parts = dict(parts)
    doubts = _texts_as_dates(parts)
    parts = {part: _readable(frame) for part, frame in parts.items()}
    doubts += _marks_as_gaps(parts)
    train, kept = parts["train"], dict[str, str]()
    for name in train.columns:
        column: Any = train[name]
        if column.isna().all() or column.nunique(dropna=False) < 2:
            doubts.append(f"column {name} is left out: it is the same in all training rows")
        elif is_numeric_dtype(column):
            _refuse_infinite(parts, name)
            kept[name] = "number"
            if _numbers_rows(column):
                doubts.append(
                    f"column {name} numbers the rows, which gives away the target if they are sorted: "
                    f"data.drop=[{name}] leaves it out"
                )
        elif column.nunique() == len(column):
            doubts.append(
                f"column {name} is left out: it has a different word in each training row "
                f"({first_few(list(map(str, column)))})"
            )
        else:
            kept[name] = "word"
            if are_digits_and_signs(found := column.dropna().astype(str).unique().tolist()):
                doubts.append(
                    f"column {name} has {len(found)} different words of digits and signs ({first_few(found, 2)}), "
                    "which are taken for words: write numbers as 1234.5 and dates as 2021-09-12"
                )
    if not kept:
        raise ValueError("no column of the table is left to predict from")
    numbers = [name for name, kind in kept.items() if kind == "number"]
    words = [name for name, kind in kept.items() if kind == "word"]
    of_numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    gaps = MissingIndicator(error_on_new=False)
    of_words = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="(missing)"),
        OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MOST_WORDS, sparse_output=False),
    )
    transformer = ColumnTransformer(
        [("numbers", of_numbers, numbers), ("gaps", gaps, numbers), ("words", of_words, words)]
    )
    ready = {part: _prepared(frame, numbers, words) for part, frame in parts.items()}
    with warnings.catch_warnings():
        # A word that the training part lacks sets none of the columns.
        warnings.filterwarnings("ignore", "Found unknown categories", UserWarning)
        transformer.fit(ready["train"])
        found = {part: np.asarray(transformer.transform(one), np.float32) for part, one in ready.items()}
    return found, doubts + _clipped(found, ready, numbers)


def _clipped(found: Mapping[str, np.ndarray], frames: Mapping[str, DataFrame], numbers: Sequence[str]) -> list[str]:
    """Clip the first columns of each part, which are those of numbers; a doubt for each that has some far out."""
    doubts = []
    for at, name in enumerate(numbers):
        far = {part: np.abs(array[:, at]) > FURTHEST for part, array in found.items()}
        values = np.concatenate([frames[part][name].to_numpy()[where] for part, where in far.items()])
        if len(values):
            shown = first_few([f"{value:g}" for value in values])
            doubts.append(
                f"column {name} has {len(values)} value{'s' * (len(values) > 1)} more than {FURTHEST:g} standard "
                f"deviations from the mean ({shown}), clipped there: correct or drop those that are errors"
            )
        train = frames["train"][name].dropna().to_numpy()
        if not len(values) and is_squeezed(train):
            doubts.append(f"column {name} has {squeezed(train)}: mend what is an error, or take the logarithm")
        for array in found.values():
            np.clip(array[:, at], -FURTHEST, FURTHEST, out=array[:, at])
    return doubts


def _prepared(frame: DataFrame, numbers: list[str], words: list[str]) -> DataFrame:
    """The kept columns as scikit-learn takes them: float64, and texts with NaN in the gaps."""
    from pandas import DataFrame

    columns: dict[str, Any] = {name: frame[name] for name in (*numbers, *words)}
    for name in numbers:
        columns[name] = columns[name].astype("float64")
    for name in words:
        column = columns[name]
        columns[name] = column.astype(str).astype(object).where(column.notna(), np.nan)
    return DataFrame(columns)


def _texts_as_dates(parts: dict[str, DataFrame]) -> list[str]:
    """Make dates of columns that have nothing but dates as texts in all parts, in place; returns a doubt for each.

    A time without a zone is in UTC, as that of a date which is no text.
    """
    import pandas

    doubts = []
    for name in parts["train"].columns:
        columns: dict[str, Any] = {part: frame[name] for part, frame in parts.items() if name in frame.columns}
        columns = {part: column for part, column in columns.items() if column.notna().any()}
        kinds = {part: pandas.api.types.infer_dtype(column, skipna=True) for part, column in columns.items()}
        texts = [part for part, kind in kinds.items() if kind == "string"]
        if not texts or not {*kinds.values()} <= {"string", *DATES}:
            continue
        if not all(DATE.fullmatch(text) for part in texts for text in columns[part].dropna()):
            continue
        found = {part: pandas.to_datetime(columns[part], utc=True, format="ISO8601", errors="coerce") for part in texts}
        # The 30th of February is no date.
        if any((dates.isna() & columns[part].notna()).any() for part, dates in found.items()):
            continue
        for part, dates in found.items():
            parts[part] = _with_column(parts[part], name, dates)
        shown = first_few(list(dict.fromkeys(columns[texts[0]].dropna())), 2)
        doubts.append(f"column {name} has dates ({shown}), which count as numbers")
    return doubts


def _readable(frame: DataFrame) -> DataFrame:
    """The columns with decimals and numbers beyond 64 bits as floats, dates and durations as seconds; gaps are NaN."""
    import pandas

    # In microseconds, because nanoseconds end in 2262, and an open end may be 9999-12-31.
    epoch, columns = pandas.Timestamp(0).as_unit("us"), {}
    for name in frame.columns:
        column: Any = frame[name]
        kind = pandas.api.types.infer_dtype(column, skipna=True)
        if kind == "decimal" or (kind == "integer" and column.dtype == object):
            column = column.astype("float64")
        elif kind in DATES:
            dates = pandas.to_datetime(column, utc=True).dt.as_unit("us").dt.tz_localize(None)
            column = (dates - epoch).dt.total_seconds()
        elif kind in ("timedelta", "timedelta64"):
            column = pandas.to_timedelta(column).dt.total_seconds()
        elif kind == "complex" or not column.map(pandas.api.types.is_scalar).all():
            other = next(one for one in column if not isinstance(one, str | int | float))
            raise ValueError(
                f"column {name} must have numbers, words or dates, got {type(other).__name__}: data.drop=[{name}] "
                "leaves it out"
            )
        columns[name] = column
    return pandas.DataFrame(columns, index=frame.index)


def _marks_as_gaps(parts: dict[str, DataFrame]) -> list[str]:
    """Make numbers of columns whose only words mark gaps, such as `?`, in place; returns a doubt for each of them.

    Otherwise each different number would become a column of its own.
    """
    import pandas

    doubts = []
    for name in parts["train"].columns:
        columns: dict[str, Any] = {part: frame[name] for part, frame in parts.items()}
        if all(map(pandas.api.types.is_numeric_dtype, columns.values())):
            continue
        # A mark may be in another part alone, and makes texts of the column's numbers in all parts.
        numbers: dict[str, Any] = {part: pandas.to_numeric(one, errors="coerce") for part, one in columns.items()}
        words = [word for part, one in columns.items() for word in one[numbers[part].isna() & one.notna()]]
        known = sum(int(one.notna().sum()) for one in columns.values())
        if numbers["train"].nunique() < FEWEST_NUMBERS or not 0 < len(words) <= MOST_MARKS * known:
            continue
        for part, frame in parts.items():
            parts[part] = _with_column(frame, name, numbers[part])
        shown, rows = first_few(list(dict.fromkeys(words))), sum(map(len, columns.values()))
        doubts.append(
            f"column {name} has numbers, but words in {len(words)} of {rows} rows ({shown}), which count as gaps"
        )
    return doubts


def _with_column(frame: DataFrame, name: Any, column: Any) -> DataFrame:
    """The table with another column of that name, which need not be a text, as `assign` wants it."""
    made = frame.copy(deep=False)
    made[name] = column
    return made


def _numbers_rows(column: Any) -> bool:
    """Whether a column counts the rows of its file, as one that pandas writes unless told not to."""
    from pandas.api.types import is_integer_dtype

    if not is_integer_dtype(column.dtype) or not is_integer_dtype(column.index.dtype) or column.isna().any():
        return False
    return len(np.unique(column.to_numpy(np.int64) - column.index.to_numpy(np.int64))) == 1


def _refuse_infinite(parts: Mapping[str, DataFrame], name: str) -> None:
    for part, frame in parts.items():
        column = frame[name]
        if column.dtype.kind != "f":
            continue
        bad = np.flatnonzero(np.isinf(column.to_numpy(float, na_value=np.nan)))
        if len(bad):
            raise ValueError(f"column {name} must have finite numbers or gaps: {len(bad)} {part} rows have infinity")
