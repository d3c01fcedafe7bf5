"""Each transform equals a plain reference pixel by pixel, and does all samples of a batch at once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import interpolate
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


def test_cutout_refuses_an_inside_that_is_no_switch() -> None:
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
def test_what_comes_out_is_uint8_of_the_size_that_was_said(transform: Transform, channels: int):
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
