"""Rows, texts and items of datasets: what is read, split, refused and drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch.utils.data import Dataset

from onecycle_sweeps.samples import Items, Part, Rows, Text, items, rows, windows
from onecycle_sweeps.samples.sample_facts import SplitRule
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
        ([0.5, 1.5, 2.0, 2.0] * 5, "regression"),
        (np.eye(4, dtype=int)[[0, 1, 2, 3] * 5], "multilabel"),
        (np.arange(20 * 9).reshape(20, 3, 3) % 4, "segmentation"),
    ],
)
def test_the_targets_suggest_an_objective(targets: Any, usual: str):
    assert rows.describe(made(targets), HOLD_OUT).usual == usual


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (made([1.0, float("nan"), 3.0, float("nan")]), "2 of 4 are not"),
        (made(["a", None, "b", "a"]), "1 of 4 have none, first row 1"),
        (made([3, 3, 3, 3]), "one value only, 3"),
        (made(["a", "b", "c", "d"]), "4 different words"),
        (made([1, 2, 1, 2], np.array([[1.0], [np.inf], [2.0], [3.0]])), "1 of"),
        (made([1, 2, 1, 2], np.ones((3, 2))), "must be as many"),
    ],
)
def test_targets_and_inputs_that_cannot_be_learned_are_refused(source: Rows, said: str):
    with pytest.raises(ValueError, match=said):
        rows.describe(source, HOLD_OUT)


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


def test_rows_that_two_parts_share_and_classes_that_a_part_lacks_are_doubts():
    inputs = np.array([[1.0], [2.0], [3.0], [4.0]])
    source = Rows(Part(inputs, np.array([0, 1, 0, 1])), val=Part(inputs[:2], np.array([0, 0])))
    doubts = rows.describe(source, SplitRule(0, 0, None)).doubts
    assert any("2 of 2 val rows are among the training rows" in doubt for doubt in doubts)
    assert any("the val part has no sample of class 1" in doubt for doubt in doubts)


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


def test_a_text_that_is_shorter_than_its_windows_is_refused():
    with pytest.raises(ValueError, match=r"has 30 tokens, of which val_fraction=0\.3 holds out 9"):
        windows.describe(text_of(30, 12), SplitRule(0.3, 0, None))


def test_a_token_beyond_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="must be below the vocabulary's size 3, got 3"):
        windows.describe(Text(np.arange(4), np.ones(4), 3, 2), SplitRule(0.5, 0, None))


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


def test_a_column_that_a_table_lacks_is_named(tmp_path: Path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.label=price must be a column of .* which has x, y"):
        tabular.csv(str(tmp_path / "a.csv"), "price")
