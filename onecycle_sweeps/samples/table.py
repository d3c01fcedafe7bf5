"""A table of numbers and words as one array of numbers, fitted to the training part (scikit-learn's transformers)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps.samples.sample_facts import few

if TYPE_CHECKING:
    from pandas import DataFrame

# A column of words has at most so many columns of its own; rarer words share one.
MOST_WORDS = 100


def encoded(parts: Mapping[str, DataFrame]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Each part as float32 (N, columns), and a doubt for each column that is left out.

    Numbers are standardised, with the median in their gaps and a column that says where these were. Words become one
    column each, gaps a word of their own; a word that the training part lacks is no column. All of it follows from the
    training part. Raises ValueError for numbers that are infinite, and if no column is left.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    train = parts["train"]
    kept, doubts = {}, []
    for name in train.columns:
        column: Any = train[name]
        if column.isna().all() or column.nunique(dropna=False) < 2:
            doubts.append(f"column {name} is left out: it is the same in all training rows")
        elif _is_number(column):
            _refuse_infinite(parts, name)
            kept[name] = "number"
        elif column.nunique() == len(column):
            doubts.append(
                f"column {name} is left out: it has a different word in each training row ({few(list(column))})"
            )
        else:
            kept[name] = "word"
    if not kept:
        raise ValueError("no column of the table is left to predict from")
    numbers = [name for name, kind in kept.items() if kind == "number"]
    words = [name for name, kind in kept.items() if kind == "word"]
    of_numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    of_words = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="(missing)"),
        OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MOST_WORDS, sparse_output=False),
    )
    transformer = ColumnTransformer([("numbers", of_numbers, numbers), ("words", of_words, words)])
    ready = {part: _prepared(frame, numbers, words) for part, frame in parts.items()}
    with warnings.catch_warnings():
        # A word that the training part lacks is told by no column being set.
        warnings.filterwarnings("ignore", "Found unknown categories", UserWarning)
        transformer.fit(ready["train"])
        return {part: np.asarray(transformer.transform(one), np.float32) for part, one in ready.items()}, doubts


def _prepared(frame: DataFrame, numbers: list[str], words: list[str]) -> DataFrame:
    """The kept columns as scikit-learn takes them: float64, and texts with NaN in the gaps."""
    from pandas import DataFrame

    columns: dict[str, Any] = {name: frame[name] for name in (*numbers, *words)}
    for name in numbers:
        column = columns[name]
        columns[name] = column.astype("int64") / 1e9 if column.dtype.kind in "mM" else column.astype("float64")
    for name in words:
        column = columns[name]
        columns[name] = column.astype(str).astype(object).where(column.notna(), np.nan)
    return DataFrame(columns)


def _is_number(column: Any) -> bool:
    from pandas.api import types

    return types.is_numeric_dtype(column) or types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column)


def _refuse_infinite(parts: Mapping[str, DataFrame], name: str) -> None:
    for part, frame in parts.items():
        column = frame[name]
        if column.dtype.kind != "f":
            continue
        bad = np.flatnonzero(np.isinf(column.to_numpy(float, na_value=np.nan)))
        if len(bad):
            raise ValueError(f"column {name} must have finite numbers or gaps: {len(bad)} {part} rows have infinity")
