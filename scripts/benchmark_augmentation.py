"""Interleaves on one thread: crop, flip and normalise 32x32 photographs by torchvision v1 transforms and by ours.

Theirs starts from PIL images in memory, one at a time; ours from the stored set, a batch at a time, and includes the
gather. Both end with a batch of normalised tensors, or, in the second row, of uint8 ones.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torchvision import transforms
from torchvision.transforms import functional

from onecycle_sweeps.dataset import Dataset, Facts, Split, batches
from onecycle_sweeps.dataset.augmentation import Flip, PadCrop

SAMPLES = 50_000
HALVES = (0.5,) * 3


def main() -> None:
    """Measure and print images/s for each pair, by the shortest and by the median round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (SAMPLES, 3, 32, 32), dtype=torch.uint8)
    rows = pairs(images, options.batch_size)
    for name, pair in rows.items():
        times = [[seconds(work) for work in pair] for _ in range(options.rounds)]
        for measure in (min, statistics.median):
            theirs, ours = (options.batch_size / measure(column) for column in zip(*times, strict=True))
            print(f"{name}, {measure.__name__}: {theirs:,.0f} and {ours:,.0f} images/s, {ours / theirs:.1f}x")


def pairs(images: torch.Tensor, batch_size: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """For each row what torchvision does with one batch, and what this package does."""
    photographs = [functional.to_pil_image(image) for image in images[:batch_size]]
    drawn = [transforms.RandomCrop(32, 4, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
    bytewise = transforms.Compose([*drawn, transforms.PILToTensor()])
    whole = transforms.Compose([*drawn, transforms.ToTensor(), transforms.Normalize(HALVES, HALVES)])
    split = Split(images, torch.zeros(SAMPLES, dtype=torch.int64), torch.arange(SAMPLES))
    moments = tuple(255 * value for value in HALVES)
    data = Dataset(split, split, None, Facts(SAMPLES, SAMPLES, 0, 10, 3, 32, 32, moments, moments, 0.0, 0, None))
    stream = batches(split, batch_size, 0, 0, (PadCrop(), Flip()))

    def theirs(transform: Callable) -> Callable[[], object]:
        return lambda: torch.stack([transform(photograph) for photograph in photographs])

    return {
        "crop, flip, normalise": (theirs(whole), lambda: data.normalise(next(stream)[0])),
        "crop, flip": (theirs(bytewise), lambda: next(stream)),
    }


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
