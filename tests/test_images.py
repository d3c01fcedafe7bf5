"""Any source is decoded once, split, described, mapped and drawn in batches."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onecycle_sweeps.images import Facts, ImageBatches, Source, Split, batches, evaluation_batches, load, prepare

WHOLE = {"val_fraction": 0, "split_seed": 0, "classes": None}


def made(train: int = 40, test: int = 12, channels: int = 1, num_classes: int = 4) -> Source:
    """Random images whose first pixel is their label, so that a batch can be checked by itself."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (train + test, channels, 5, 6), dtype=np.uint8)
    labels = np.arange(train + test) % num_classes
    images[:, 0, 0, 0] = labels
    names = tuple(f"class {number}" for number in range(num_classes))
    return Source(images[:train], labels[:train], images[train:], labels[train:], names)


def prepared(folder: Path, source: Source | None = None, **split) -> ImageBatches:
    facts = prepare(lambda: source or made(), folder / "cache", **(WHOLE | split))
    return load(folder / "cache", facts, 32, "cpu")


def rows(split: Split) -> np.ndarray:
    return split.images[split.index].numpy()


def counting(size: int) -> Split:
    return Split(torch.zeros(size, 1, 1, 1, dtype=torch.uint8), torch.arange(size), torch.arange(size))


def test_without_a_val_fraction_the_official_test_part_is_val(tmp_path):
    source, data = made(), prepared(tmp_path)
    np.testing.assert_array_equal(rows(data.train), source.train_images)
    np.testing.assert_array_equal(rows(data.val), source.test_images)
    assert data.test is None
    assert (data.facts.train, data.facts.val, data.facts.test) == (40, 12, 0)


def test_a_source_with_a_val_part_keeps_it_and_its_test_part(tmp_path):
    whole, other = made(), made(test=8)
    source = dataclasses.replace(whole, val_images=other.test_images, val_labels=other.test_labels)
    data = prepared(tmp_path, source)
    assert data.test is not None
    for split, images in ((data.train, whole.train_images), (data.val, other.test_images)):
        np.testing.assert_array_equal(rows(split), images)
    np.testing.assert_array_equal(rows(data.test), whole.test_images)
    assert (data.facts.train, data.facts.val, data.facts.test) == (40, 8, 12)
    kept = prepared(tmp_path, source, classes=[3, 1])
    assert kept.test is not None
    assert (len(kept.train), len(kept.val), len(kept.test)) == (20, 4, 6)
    with pytest.raises(ValueError, match=r"^val_fraction must be 0 .*\bval part\b.*\b0\.2\b"):
        prepared(tmp_path, source, val_fraction=0.2)


def test_a_source_with_a_val_part_needs_no_test_part(tmp_path):
    whole = made(test=12)
    none = made(test=0)
    source = dataclasses.replace(none, val_images=whole.test_images, val_labels=whole.test_labels)
    data = prepared(tmp_path, source)
    assert (len(data.val), data.test, data.facts.test) == (12, None, 0)


@pytest.mark.parametrize("name", ["val_images", "val_labels"])
def test_half_a_val_part_is_refused(tmp_path, name):
    source = dataclasses.replace(made(), **{name: getattr(made(), name.replace("val", "test"))})
    with pytest.raises(ValueError, match="val_images and val_labels"):
        prepared(tmp_path, source)


def test_a_val_fraction_is_held_out_of_train_and_the_official_part_is_test(tmp_path):
    source, data = made(), prepared(tmp_path, val_fraction=0.3)
    assert (len(data.train), len(data.val), data.facts.test) == (28, 12, 12)
    assert sorted(torch.cat([data.train.index, data.val.index]).tolist()) == list(range(40))
    assert data.test is not None
    np.testing.assert_array_equal(rows(data.test), source.test_images)


def test_the_held_out_samples_depend_only_on_split_seed(tmp_path):
    held_out = prepared(tmp_path / "a", val_fraction=0.3, split_seed=1).val.index.tolist()
    np.random.seed(5)
    torch.manual_seed(5)
    assert prepared(tmp_path / "b", val_fraction=0.3, split_seed=1).val.index.tolist() == held_out
    assert prepared(tmp_path / "b", val_fraction=0.3, split_seed=2).val.index.tolist() != held_out
    assert held_out == [2, 3, 17, 19, 21, 22, 26, 27, 29, 31, 32, 39]


def test_classes_keeps_only_those_and_numbers_them_in_the_order_given(tmp_path):
    data = prepared(tmp_path, classes=[3, 1], val_fraction=0.25)
    assert data.test is not None
    assert data.facts.num_classes == 2
    for part, size in ((data.train, 15), (data.val, 5), (data.test, 6)):
        assert len(part) == size
        marks, labels = rows(part)[:, 0, 0, 0], part.labels[part.index].numpy()
        np.testing.assert_array_equal(np.array([3, 1])[labels], marks)


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_are_those_of_the_training_part_only(tmp_path, channels):
    data = prepared(tmp_path, made(channels=channels), val_fraction=0.3, classes=[0, 2])
    images = rows(data.train).astype(np.float64)
    np.testing.assert_allclose(data.facts.mean, images.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.facts.std, images.std(axis=(0, 2, 3)), rtol=1e-12)
    assert (data.facts.in_channels, data.facts.height, data.facts.width) == (channels, 5, 6)


def test_images_of_few_values_are_a_doubt(tmp_path):
    """As those of 12 bits in files of 16 are, whose upper byte is below 16."""
    source = made(channels=3)
    dim = dataclasses.replace(source, train_images=np.asarray(source.train_images) // 16)
    assert not prepared(tmp_path / "bright", source).facts.doubts
    (doubt,) = prepared(tmp_path / "dim", dim).facts.doubts
    assert doubt.startswith("the training images are nearly black: their mean is 7.")


def test_normalised_training_images_have_mean_0_and_deviation_1_in_every_channel(tmp_path):
    data = prepared(tmp_path, made(channels=3))
    images = data.normalise(data.train.images)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_facts_survive_json(tmp_path):
    facts = prepared(tmp_path, made(channels=3), val_fraction=0.3, classes=[0, 2]).facts
    assert Facts.from_json(json.loads(json.dumps(dataclasses.asdict(facts)))) == facts


def test_a_source_may_hold_tensors_instead_of_arrays(tmp_path):
    source = made()
    names = ("train_images", "train_labels", "test_images", "test_labels")
    tensors = {name: torch.from_numpy(getattr(source, name)) for name in names}
    data = prepared(tmp_path, dataclasses.replace(source, **tensors))
    np.testing.assert_array_equal(rows(data.train), source.train_images)


def test_images_without_a_channel_axis_get_one(tmp_path):
    source = made()
    train, test = (np.asarray(images)[:, 0] for images in (source.train_images, source.test_images))
    flat = dataclasses.replace(source, train_images=train, test_images=test)
    np.testing.assert_array_equal(rows(prepared(tmp_path, flat).train), source.train_images)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"val_fraction": 1}, r"val_fraction must be a number in \[0, 1\), got 1"),
        ({"val_fraction": -0.1}, r"val_fraction must be .*got -0.1"),
        ({"val_fraction": float("nan")}, r"val_fraction must be .*got nan"),
        ({"val_fraction": "abc"}, r"val_fraction must be .*got 'abc'"),
        ({"val_fraction": 0.01}, r"\bval part .*\b40 training.*val_fraction=0.01"),
        ({"val_fraction": 0.99}, r"\btrain part .*val_fraction=0.99"),
        ({"split_seed": -1}, r"split_seed must be a whole number of at least 0, got -1"),
        ({"split_seed": 0.5}, r"split_seed must be .*got 0.5"),
        ({"classes": [1]}, r"at least two different classes, each once, got \[1\]"),
        ({"classes": [1, 1, 2]}, r"each once, got \[1, 1, 2\]"),
        ({"classes": [1, 4]}, r"classes must lie in 0..3, got 4"),
        ({"classes": [-1, 1]}, r"classes must be null or a list .*got \[-1, 1\]"),
        ({"split_seed": 2**32}, r"split_seed must be at most 4294967295, got 4294967296"),
        ({"classes": 37}, r"classes must be null or a list .*\[3,7\], got 37"),
        ({"classes": "3,7"}, r"classes must be null or a list .*got '3,7'"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(tmp_path, split, message):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, **split)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train_images", np.zeros((40, 5, 6), np.float32), "train_images must be uint8 .*got float32"),
        ("test_images", np.zeros((12, 5), np.uint8), r"test_images must be uint8 .*shape \(12, 5\)"),
        ("test_images", np.zeros((12, 1, 9, 9), np.uint8), r"\(C, H, W\), got \(1, 5, 6\) and \(1, 9, 9\)"),
        ("train_labels", np.zeros(39, int), "train_images and train_labels .*got 40 and 39"),
        ("train_labels", np.full(40, 4), "train_labels must lie in 0..3, got 4"),
        ("test_labels", np.zeros(12), "test_labels must be whole numbers .*got float64"),
        ("train_images", np.full((40, 1, 5, 6), 7, np.uint8), r"\b7 in channel 0\b"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(tmp_path, field, value, message):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, dataclasses.replace(made(), **{field: value}))


def test_a_refused_source_leaves_no_cache(tmp_path):
    with pytest.raises(ValueError, match="train_labels"):
        prepared(tmp_path, dataclasses.replace(made(), train_labels=np.full(40, 4)))
    assert not (tmp_path / "cache").exists()
    assert len(prepared(tmp_path).train) == 40


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\x00" * file.stat().st_size),
        lambda file: np.save(file, np.zeros((3, 1, 5, 6), np.uint8)),
        lambda file: file.unlink(),
    ],
    ids=["truncated", "empty", "zeroed", "another array", "missing"],
)
@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy"])
def test_a_damaged_cache_array_is_named_with_what_to_do(tmp_path, name, damage):
    facts, folder = prepared(tmp_path).facts, tmp_path / "cache"
    damage(folder / name)
    with pytest.raises(ValueError, match=f"^{folder / name} .*: delete {folder}\\b"):
        load(folder, facts, 32, "cpu")


def test_a_folder_left_by_a_killed_writer_is_not_taken_for_a_cache(tmp_path):
    (tmp_path / "cache.tmp").mkdir()
    (tmp_path / "cache.tmp" / "train_images.npy").write_bytes(b"half")
    assert len(prepared(tmp_path).train) == 40
    assert not (tmp_path / "cache.tmp").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full to stand for a full disk")
def test_a_full_disk_is_given_as_the_reason_and_leaves_no_cache(tmp_path, monkeypatch):
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *args: opened(Path("/dev/full") if path.name == "train_images.npy" else path, *args)
    )
    with pytest.raises(OSError, match="data cache: No space left on device"):
        prepared(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.lock"]


PREPARE_IN_A_PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from onecycle_sweeps.images import Source, prepare

folder = Path(sys.argv[1])

def load():
    with (folder / "decoded").open("a") as file:
        file.write("once\\n")
    time.sleep(0.5)
    images = np.arange(80, dtype=np.uint8).reshape(20, 2, 2)
    return Source(images, np.arange(20) % 2, images, np.arange(20) % 2, ("even", "odd"))

(folder / f"ready-{sys.argv[2]}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
facts = prepare(load, folder / "cache", val_fraction=0.2, split_seed=0, classes=None)
print(facts.train, [name for name in ("torch", "torchvision", "sklearn") if name in sys.modules])
"""


@pytest.mark.slow
def test_two_processes_that_prepare_one_source_decode_it_once(tmp_path):
    command = [sys.executable, "-c", PREPARE_IN_A_PROCESS, str(tmp_path)]
    both = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    assert [process.communicate(timeout=60)[0].split()[0] for process in both] == ["16", "16"]
    assert (tmp_path / "decoded").read_text() == "once\n"


@pytest.mark.slow
def test_describing_a_cached_set_imports_no_torch(tmp_path):
    (tmp_path / "ready-b").touch()
    command = [sys.executable, "-c", PREPARE_IN_A_PROCESS, str(tmp_path), "a"]
    for _ in range(2):
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "16 []\n"
    assert (tmp_path / "decoded").read_text() == "once\n"


def test_images_are_mapped_from_the_cache_and_train_and_val_share_them(tmp_path):
    data = prepared(tmp_path, val_fraction=0.3)
    assert data.test is not None
    assert data.train.images.data_ptr() == data.val.images.data_ptr()
    for name, split in (("train_images", data.train), ("test_images", data.test)):
        assert any(low <= split.images.data_ptr() < high for low, high in mappings(tmp_path / "cache" / f"{name}.npy"))


def mappings(path: Path) -> list[tuple[int, int]]:
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("needs /proc to see what is mapped")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [tuple(int(bound, 16) for bound in line[0].split("-")) for line in lines]  # type: ignore[misc]


def test_writing_to_a_mapped_image_does_not_reach_the_cache(tmp_path):
    first = prepared(tmp_path)
    first.train.images[0] = 99
    np.testing.assert_array_equal(rows(prepared(tmp_path).train), made().train_images)


@given(size=st.integers(1, 60), seed=st.integers(0, 2**40), data=st.data())
def test_a_stream_resumed_at_any_step_gives_the_same_batches(size, seed, data):
    batch_size = data.draw(st.integers(1, size))
    start = data.draw(st.integers(0, 3 * (size // batch_size)))
    whole, resumed = batches(counting(size), batch_size, seed), batches(counting(size), batch_size, seed, start)
    for _ in range(start):
        next(whole)
    for _ in range(size // batch_size + 2):
        assert next(whole)[1].tolist() == next(resumed)[1].tolist()


@given(size=st.integers(1, 60), data=st.data())
def test_every_sample_is_seen_at_most_once_per_epoch_and_only_the_short_batch_is_dropped(size, data):
    batch_size = data.draw(st.integers(1, size))
    stream = batches(counting(size), batch_size, seed=0)
    for _ in range(3):
        seen = [number for _ in range(size // batch_size) for number in next(stream)[1].tolist()]
        assert len(seen) == len(set(seen)) == size - size % batch_size


def test_batches_pair_images_with_their_labels(tmp_path):
    data = prepared(tmp_path, classes=[3, 1], val_fraction=0.25)
    stream = batches(data.train, 4, seed=0)
    for _ in range(10):
        images, labels = next(stream)
        assert images.dtype == torch.uint8 and images.shape == (4, 1, 5, 6)
        assert torch.tensor([3, 1])[labels].tolist() == images[:, 0, 0, 0].tolist()


def test_epochs_and_seeds_have_orders_of_their_own():
    def epoch(seed: int, number: int) -> tuple[int, ...]:
        return tuple(next(batches(counting(50), 50, seed, start=number))[1].tolist())

    orders = {epoch(seed, number) for seed in range(4) for number in range(4)}
    assert len(orders) == 16
    assert epoch(0, 0) == epoch(0, 0)


def test_the_order_does_not_depend_on_torchs_own_generator():
    torch.manual_seed(1)
    first = next(batches(counting(50), 50, seed=0))[1].tolist()
    torch.manual_seed(2)
    assert next(batches(counting(50), 50, seed=0))[1].tolist() == first


@given(size=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_evaluation_sees_every_sample_once_in_order(size, batch_size):
    split = dataclasses.replace(counting(size), index=torch.arange(0, size, 2))
    seen = [number for _, labels in evaluation_batches(split, batch_size) for number in labels.tolist()]
    assert seen == list(range(0, size, 2))


@pytest.mark.parametrize("batch_size", [0, 9])
def test_a_batch_size_outside_the_training_set_is_refused_at_once(batch_size):
    with pytest.raises(ValueError, match=rf"^batch_size .*1\.\.8\b.*got {batch_size}$"):
        batches(counting(8), batch_size, seed=0)


def test_a_negative_start_and_an_empty_evaluation_batch_are_refused_at_once():
    with pytest.raises(ValueError, match=r"^start .*0, got -1$"):
        batches(counting(8), 2, seed=0, start=-1)
    with pytest.raises(ValueError, match=r"^batch_size .*1, got 0$"):
        evaluation_batches(counting(8), 0)
