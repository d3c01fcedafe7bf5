"""Each transform equals a plain reference; its draws follow from (seed, epoch, sample, place in the list) alone."""

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import RandomResizedCrop as Torchvisions
from torchvision.transforms import functional

from onecycle_sweeps.images import Split, batches
from onecycle_sweeps.images.augmentation import (
    CenterCrop,
    Cutout,
    Draws,
    EpochWords,
    Flip,
    PadCrop,
    RandomResizedCrop,
    Transform,
    below,
    fractions,
)
from plain_augmentation import Words, box, cutout, cutout_inside, flip, pad_crop, resized

SEED, EPOCH, PLACE = 3, 5, 2
SAMPLES = torch.tensor([0, 7, 6, 59_999, 7, 59_998, *range(100, 160)])
Plain = Callable[[np.ndarray, Words], np.ndarray]


def drawn(channels: int, height: int, width: int, count: int = len(SAMPLES)) -> Tensor:
    images = np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(images)


def draws(samples: Tensor = SAMPLES) -> Draws:
    return Draws(EpochWords(SEED, EPOCH, PLACE, 60_000), samples)


def plain_words() -> list[Words]:
    """The words of each of SAMPLES."""
    return [Words(tuple(column)) for column in draws().words(22).T.tolist()]


def plainly(plain: Plain, images: Tensor) -> Tensor:
    """The reference on each image with the words of its sample."""
    one_by_one = [plain(image, words) for image, words in zip(images.numpy(), plain_words(), strict=True)]
    return torch.from_numpy(np.stack(one_by_one))


EXACT: list[tuple[Transform, Plain]] = [
    (Flip(), flip),
    (PadCrop(), lambda image, words: pad_crop(image, words, 4, "reflect")),
    (PadCrop(1), lambda image, words: pad_crop(image, words, 1, "reflect")),
    (PadCrop(3, "zero"), lambda image, words: pad_crop(image, words, 3, "zero")),
    (PadCrop(20, "zero"), lambda image, words: pad_crop(image, words, 20, "zero")),
    (Cutout(4, (17.4,)), lambda image, words: cutout(image, words, 4, (17,))),
    (Cutout(5), lambda image, words: cutout(image, words, 5, (0,))),
    (Cutout(4, (17.4,), inside=True), lambda image, words: cutout_inside(image, words, 4, (17,))),
    (Cutout(6, inside=True), lambda image, words: cutout_inside(image, words, 6, (0,))),
]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6), (3, 6, 11)], ids=str)
@pytest.mark.parametrize(("transform", "plain"), EXACT, ids=lambda one: repr(one) if isinstance(one, Transform) else "")
def test_a_transform_equals_the_plain_reference(transform: Transform, plain: Plain, shape: tuple[int, int, int]):
    images = drawn(*shape)
    before = images.clone()
    expected = plainly(plain, images)
    assert torch.equal(transform(images, draws()), expected)
    assert torch.equal(transform(images.to(memory_format=torch.channels_last), draws()), expected)
    assert torch.equal(images, before)


def test_a_cutout_inside_lies_at_each_place_as_often_as_pages() -> None:
    """cifar10-fast's Cutout(h, w) chooses `x0` from range(W + 1 - w) and `y0` from range(H + 1 - h) at random."""
    height, width, size, count = 6, 8, 3, 24_000
    images = torch.full((count, 1, height, width), 255, dtype=torch.uint8)
    holes = Cutout(size, inside=True)(images, draws(torch.arange(count)))[:, 0].numpy() == 0
    assert (holes.sum(axis=(1, 2)) == size * size).all()
    tops, lefts = holes.any(axis=2).argmax(axis=1), holes.any(axis=1).argmax(axis=1)
    found = np.zeros((height + 1 - size, width + 1 - size))
    np.add.at(found, (tops, lefts), 1)
    drawn = np.random.default_rng(0)
    pages = np.zeros_like(found)
    options = drawn.choice(range(height + 1 - size), count), drawn.choice(range(width + 1 - size), count)
    np.add.at(pages, options, 1)
    assert stats.chisquare(found.ravel()).pvalue > 0.001
    _, p, *_ = stats.chi2_contingency(np.stack([found.ravel(), pages.ravel()]))
    assert p > 0.001  # pyright: ignore[reportOperatorIssue]


def test_cutout_refuses_an_inside_that_is_not_a_bool() -> None:
    with pytest.raises(ValueError, match="inside must be true or false, got 'yes'"):
        Cutout(3, inside="yes")  # pyright: ignore[reportArgumentType]


def test_cutout_paints_each_channel_in_its_own_mean():
    images = drawn(3, 9, 6)
    expected = plainly(lambda image, words: cutout(image, words, 3, (10, 20, 255)), images)
    assert torch.equal(Cutout(3, (10.4, 19.6, 255.0))(images, draws()), expected)


@pytest.mark.parametrize(
    ("shape", "size", "scale", "ratio"),
    [
        ((1, 8, 8), 8, (0.08, 1.0), (3 / 4, 4 / 3)),
        ((3, 9, 6), 7, (0.08, 1.0), (3 / 4, 4 / 3)),
        ((1, 32, 32), 12, (0.2, 0.6), (0.5, 2.0)),
        ((1, 7, 33), 9, (0.9, 1.0), (3 / 4, 4 / 3)),
        ((1, 33, 7), 9, (0.9, 1.0), (3 / 4, 4 / 3)),
        ((1, 5, 5), 3, (0.001, 0.001), (1, 1)),
    ],
    ids=str,
)
def test_random_resized_crop_equals_the_plain_reference(
    shape: tuple[int, int, int], size: int, scale: tuple[float, float], ratio: tuple[float, float]
):
    images, transform = drawn(*shape), RandomResizedCrop(size, scale, ratio)
    _, height, width = shape
    boxes = [box(words, height, width, scale, ratio) for words in plain_words()]
    assert torch.stack(transform.boxes(draws(), height, width), 1).tolist() == [list(one) for one in boxes]
    expected = np.stack([resized(image, *one, size) for image, one in zip(images.numpy(), boxes, strict=True)])
    assert torch.equal(transform(images, draws()), torch.from_numpy(expected))


def test_random_resized_crop_is_within_two_grey_levels_of_torchs_resize():
    images, transform = drawn(3, 250, 200, 6), RandomResizedCrop(224)
    made = transform(images, draws(SAMPLES[:6])).float()
    boxes = torch.stack(transform.boxes(draws(SAMPLES[:6]), 250, 200), 1).tolist()
    for image, one, (top, left, height, width) in zip(images, made, boxes, strict=True):
        part = image[None, :, top : top + height, left : left + width].float()
        assert (interpolate(part, (224, 224), mode="bilinear")[0] - one).abs().max() < 2


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6), (3, 33, 35)], ids=str)
@pytest.mark.parametrize("size", [1, 4, 5, 6])
def test_center_crop_equals_torchvisions(shape: tuple[int, int, int], size: int):
    images = drawn(*shape)
    assert torch.equal(CenterCrop(size)(images), functional.center_crop(images, [size, size]))


ALL: list[Transform] = [
    Flip(),
    PadCrop(2),
    PadCrop(2, "zero"),
    Cutout(3),
    RandomResizedCrop(6),
    RandomResizedCrop(40),
    CenterCrop(5),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_a_transform_returns_uint8_images_of_its_output_size(transform: Transform, channels: int):
    made = transform(drawn(channels, 12, 9), draws())
    assert made.dtype == torch.uint8
    assert made.shape == (len(SAMPLES), channels, *transform.output(12, 9))


def test_transforms_go_into_each_other_in_the_order_of_the_list():
    split = Split(drawn(3, 12, 12, 20), torch.arange(20), torch.arange(20))
    chain = (RandomResizedCrop(9), PadCrop(2, "zero"), Flip(), Cutout(4))
    images, labels = next(batches(split, 20, SEED, 3, chain))
    by_hand = split.images[labels]
    for place, transform in enumerate(chain):
        by_hand = transform(by_hand, Draws(EpochWords(SEED, 3, place, 20), labels))
    assert torch.equal(images, by_hand)


CHAIN = (RandomResizedCrop(10, (0.3, 1.0)), PadCrop(2), Flip(), Cutout(3))
SIZE, STREAM_SEED = 60, 11


def split() -> Split:
    """Noise whose labels are the positions in the stored set, of which every third is another part's."""
    images = np.random.default_rng(0).integers(0, 256, (SIZE * 3 // 2, 3, 12, 12), dtype=np.uint8)
    kept = torch.tensor([position for position in range(len(images)) if position % 3])
    return Split(torch.from_numpy(images), torch.arange(len(images)), kept)


def epochs(
    count: int, batch_size: int, seed: int = STREAM_SEED, chain: Sequence[Transform] = CHAIN
) -> list[dict[int, list]]:
    """For each epoch what each sample was made into."""
    stream, found = batches(split(), batch_size, seed, 0, chain), []
    for _ in range(count):
        seen = list(islice(stream, SIZE // batch_size))
        found.append(
            {int(k): image.tolist() for images, labels in seen for k, image in zip(labels, images, strict=True)}
        )
    return found


def draws_of_all(count: int, seed: int = 0, epoch: int = 0, place: int = 0) -> Draws:
    """The draws of a batch that holds every one of `count` stored samples in order."""
    return Draws(EpochWords(seed, epoch, place, count), torch.arange(count))


def test_no_two_words_of_a_set_are_the_same():
    all_draws = [draws_of_all(500, seed, epoch, place) for seed in (0, 1) for epoch in (0, 1) for place in (0, 1)]
    words = torch.cat([one.words(64).flatten() for one in all_draws])
    assert len(words.unique()) == len(words)


def test_a_samples_words_do_not_depend_on_how_many_are_drawn_first():
    once, again = draws_of_all(500), draws_of_all(500)
    few = again.words(2).clone()
    assert torch.equal(once.words(5), again.words(5))
    assert torch.equal(few, again.words(5)[:2])


def test_a_transform_that_draws_no_word_is_refused():
    with pytest.raises(ValueError, match=r"\b1 word.*got 0$"):
        draws_of_all(3).words(0)


@pytest.mark.parametrize("batch_size", [1, 7, 20, SIZE])
def test_an_image_does_not_depend_on_the_batch_it_comes_in(batch_size: int):
    for one, other in zip(epochs(2, batch_size), epochs(2, 12), strict=True):
        both = one.keys() & other.keys()
        assert len(both) >= SIZE - batch_size
        assert all(one[sample] == other[sample] for sample in both)


@pytest.mark.parametrize("start", [1, 4, 5, 13])
def test_a_stream_resumed_at_any_step_gives_the_same_images(start: int):
    whole = list(islice(batches(split(), 12, STREAM_SEED, 0, CHAIN), start, start + 7))
    resumed = list(islice(batches(split(), 12, STREAM_SEED, start, CHAIN), 7))
    for (images, labels), (again, same) in zip(whole, resumed, strict=True):
        assert torch.equal(labels, same)
        assert torch.equal(images, again)


def test_images_do_not_depend_on_the_generators_of_torch_numpy_and_python():
    first = epochs(1, 12)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert epochs(1, 12) == first


def test_every_sample_differs_between_epochs_and_between_seeds():
    one, two = epochs(2, 12)
    (other,) = epochs(1, 12, STREAM_SEED + 1)
    for sample in one:
        assert one[sample] != two[sample]
        assert one[sample] != other[sample]


def test_the_same_transform_draws_anew_at_each_place_of_the_list():
    (once,), (twice,) = epochs(1, SIZE, chain=[Flip()]), epochs(1, SIZE, chain=[Flip(), Flip()])
    plain = split().images
    moved = [sample for sample in twice if twice[sample] != plain[sample].tolist()]
    assert 0.2 * SIZE < len(moved) < 0.8 * SIZE
    assert any(once[sample] != twice[sample] for sample in once)


def test_without_transforms_nothing_is_drawn_and_batches_are_those_of_the_stored_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(EpochWords, "first", None)
    monkeypatch.setitem(vars(sys.modules[batches.__module__]), "Draws", None)
    for images, labels in islice(batches(split(), 12, STREAM_SEED), 11):
        assert torch.equal(images, split().images[labels])


WORDS = draws_of_all(40_000, 1, 2, 3).words(4)


def test_half_of_the_images_are_mirrored_in_each_epoch_and_each_sample_in_half_of_the_epochs():
    images = torch.tensor([0, 1], dtype=torch.uint8).expand(4000, 1, 1, 2)
    mirrored = torch.stack([Flip()(images, draws_of_all(4000, epoch=e))[:, 0, 0, 0] for e in range(100)]).double()
    assert stats.binomtest(int(mirrored.sum()), mirrored.numel()).pvalue > 0.01
    assert mirrored.mean(1).std() == pytest.approx(0.5 / 4000**0.5, rel=0.3)
    assert mirrored.mean(0).std() == pytest.approx(0.5 / 100**0.5, rel=0.1)


@pytest.mark.parametrize("bound", [2, 9, 17, 1000])
def test_whole_numbers_are_equally_likely_and_independent_of_each_other(bound: int):
    found = below(WORDS, bound)
    assert found.min() == 0 and found.max() == bound - 1
    for row in found:
        assert stats.chisquare(torch.bincount(row, minlength=bound)).pvalue > 0.01
    # Each word of a sample beside its other words, and beside those of the next sample.
    correlations = np.corrcoef([*found[:, 1:].numpy(), *found[:, :-1].numpy()])
    assert np.abs(correlations - np.eye(8)).max() < 0.02


def test_a_bound_may_be_each_words_own():
    bounds = torch.randint(1, 50, WORDS.shape, generator=torch.Generator().manual_seed(0))
    expected = [below(word, int(bound)) for word, bound in zip(WORDS[0, :99], bounds[0, :99], strict=True)]
    assert below(WORDS, bounds)[0, :99].tolist() == [int(one) for one in expected]
    assert below(torch.tensor([-1, 0]), torch.tensor([2**31, 5])).tolist() == [2**31 - 1, 0]


def test_fractions_are_uniform_between_0_and_1():
    assert stats.kstest(fractions(WORDS).flatten().numpy(), "uniform").pvalue > 0.01
    assert fractions(torch.tensor([0, -1])).tolist() == [0.0, 1 - 2**-53]


def test_every_place_of_a_padded_image_is_as_likely():
    images = torch.zeros(40_000, 1, 5, 5, dtype=torch.uint8)
    images[:, 0, 2, 2] = 1
    seen = PadCrop(2, "zero")(images, draws_of_all(40_000)).flatten(1)
    assert stats.chisquare(seen.sum(0)).pvalue > 0.01


def test_the_parts_of_random_resized_crop_are_distributed_as_torchvisions():
    top, left, height, width = (side.numpy() for side in RandomResizedCrop(8).boxes(draws_of_all(4000), 200, 130))
    torch.manual_seed(0)
    image = torch.zeros(1, 200, 130)
    theirs = [Torchvisions.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    for ours, other in zip((top, left, height, width), zip(*theirs, strict=True), strict=True):
        assert stats.mannwhitneyu(ours, other).pvalue > 0.01
        assert stats.ansari(ours, other).pvalue > 0.01
    assert stats.mannwhitneyu(width / height, [one[3] / one[2] for one in theirs]).pvalue > 0.01


def test_transforms_are_described_without_torch():
    code = (
        "import sys, onecycle_sweeps.images.augmentation as a; a.PadCrop().output(8, 8); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
