"""What is random follows from (seed, epoch, sample, place in the list) alone, and is as random as it should be."""

import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop as Torchvisions

from onecycle_sweeps.images import Split, batches
from onecycle_sweeps.images.augmentation import (
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

CHAIN = (RandomResizedCrop(10, (0.3, 1.0)), PadCrop(2), Flip(), Cutout(3))
SIZE, SEED = 60, 11


def split() -> Split:
    """Noise whose labels are the positions in the stored set, of which every third is another part's."""
    images = np.random.default_rng(0).integers(0, 256, (SIZE * 3 // 2, 3, 12, 12), dtype=np.uint8)
    kept = torch.tensor([position for position in range(len(images)) if position % 3])
    return Split(torch.from_numpy(images), torch.arange(len(images)), kept)


def epochs(count: int, batch_size: int, seed: int = SEED, chain: Sequence[Transform] = CHAIN) -> list[dict[int, list]]:
    """For each epoch what each sample was made into."""
    stream, found = batches(split(), batch_size, seed, 0, chain), []
    for _ in range(count):
        seen = list(islice(stream, SIZE // batch_size))
        found.append(
            {int(k): image.tolist() for images, labels in seen for k, image in zip(labels, images, strict=True)}
        )
    return found


def draws(count: int, seed: int = 0, epoch: int = 0, place: int = 0) -> Draws:
    """The draws of a batch that holds every one of `count` stored samples in order."""
    return Draws(EpochWords(seed, epoch, place, count), torch.arange(count))


def test_no_two_words_of_a_set_are_the_same():
    all_draws = [draws(500, seed, epoch, place) for seed in (0, 1) for epoch in (0, 1) for place in (0, 1)]
    words = torch.cat([one.words(64).flatten() for one in all_draws])
    assert len(words.unique()) == len(words)


def test_a_samples_words_do_not_depend_on_how_many_are_drawn_first():
    once, again = draws(500), draws(500)
    few = again.words(2).clone()
    assert torch.equal(once.words(5), again.words(5))
    assert torch.equal(few, again.words(5)[:2])


def test_a_transform_that_draws_no_word_is_refused():
    with pytest.raises(ValueError, match="at least 1 word for a sample, got 0"):
        draws(3).words(0)


@pytest.mark.parametrize("batch_size", [1, 7, 20, SIZE])
def test_an_image_does_not_depend_on_the_batch_it_comes_in(batch_size: int):
    for one, other in zip(epochs(2, batch_size), epochs(2, 12), strict=True):
        both = one.keys() & other.keys()
        assert len(both) >= SIZE - batch_size
        assert all(one[sample] == other[sample] for sample in both)


@pytest.mark.parametrize("start", [1, 4, 5, 13])
def test_a_stream_resumed_at_any_step_gives_the_same_images(start: int):
    whole = list(islice(batches(split(), 12, SEED, 0, CHAIN), start, start + 7))
    resumed = list(islice(batches(split(), 12, SEED, start, CHAIN), 7))
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
    (other,) = epochs(1, 12, SEED + 1)
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
    for images, labels in islice(batches(split(), 12, SEED), 11):
        assert torch.equal(images, split().images[labels])


WORDS = draws(40_000, 1, 2, 3).words(4)


def test_half_of_the_images_are_mirrored_in_each_epoch_and_each_sample_in_half_of_the_epochs():
    images = torch.tensor([0, 1], dtype=torch.uint8).expand(4000, 1, 1, 2)
    mirrored = torch.stack([Flip()(images, draws(4000, epoch=e))[:, 0, 0, 0] for e in range(100)]).double()
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
    seen = PadCrop(2, "zero")(images, draws(40_000)).flatten(1)
    assert stats.chisquare(seen.sum(0)).pvalue > 0.01


def test_the_parts_of_random_resized_crop_are_distributed_as_torchvisions():
    top, left, height, width = (side.numpy() for side in RandomResizedCrop(8).boxes(draws(4000), 200, 130))
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
