"""How fast augmented CIFAR batches are made, beside torchvision's transforms, and what share of a step that takes."""

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional, v2

from benchmarks import costs
from benchmarks.costs import Cost, Rounds
from benchmarks.page import Requirement, Result, Table
from benchmarks.precision import BF16, FP32, stepper
from benchmarks.work import Options
from onecycle_sweeps.images import Facts, ImageBatches, Split, batches
from onecycle_sweeps.images.augmentation import Flip, PadCrop

BATCH, HALVES = 128, (0.5,) * 3
OURS, V1 = "this program, a batch at a time", "torchvision v1, PIL images"
CAPTION = """Batches of {batch} photographs of 32x32, cropped at random from a reflecting border of 4, flipped at \
random and normalised, on one thread. All ways take turns for {rounds} rounds after one that is not counted. \
torchvision starts from images in memory, one at a time; this program from the stored set of {samples:,}, gathering \
included. Counted are images a second on one core (medians), and the median ratio to the first row in a round."""
SHARE = """A step of ResNet-20 at batch {batch}, one thread, SGD with Nesterov: input is what makes a normalised \
batch of augmented photographs, the rest is forward, backward and update; medians of {rounds} rounds of both."""


def run(options: Options) -> Result:
    """Both tables."""
    torch.set_num_threads(1)
    samples = 2000 if options.quick else 50_000
    data = stored(torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8))
    made = costs.interleaved(makers(data, 1 if options.quick else 10), options.rounds)
    caption = CAPTION.format(batch=BATCH, rounds=options.rounds, samples=samples)
    speeds = made.speeds("Augmented batches", caption, "made by", BATCH)
    steps = {numbers: step(data, numbers, options.rounds) for numbers in (FP32, BF16)}
    rows = [
        (precision, 1000 * parts.wall("input"), 1000 * parts.wall("rest"), 100 * share(parts))
        for precision, parts in steps.items()
    ]
    caption = SHARE.format(batch=BATCH, rounds=options.rounds)
    shares = Table(
        "Input within a step of ResNet-20", caption, ("precision", "input ms", "rest ms", "input's share, %"), rows
    )
    required = [
        Requirement("images/s on one core beside torchvision v1", 1 / made.ratio(OURS, V1), 20, at_least=True),
        *(
            Requirement(f"input's share of a ResNet-20 step, {name}", share(parts), 0.03)
            for name, parts in steps.items()
        ),
    ]
    return Result([speeds, shares], required, (), {"makers": made, **steps})


def stored(images: Tensor) -> ImageBatches:
    """Photographs as the program holds them in memory."""
    count = len(images)
    split = Split(images, torch.randint(0, 10, (count,)), torch.arange(count))
    moments = tuple(255 * value for value in HALVES)
    return ImageBatches(
        split, split, None, Facts(count, count, 0, 10, 3, 32, 32, moments, moments, 0.0, 0, None), BATCH
    )


def stream(data: ImageBatches) -> Iterator[Tensor]:
    """Augmented, normalised batches as the program makes them."""
    for images, _ in batches(data.train, BATCH, 0, 0, (PadCrop(), Flip())):
        yield data.normalise(images)


def makers(data: ImageBatches, repeat: int) -> dict[str, Callable[[], Cost]]:
    """The ways to make a batch."""
    pixels = list(data.train.images[:BATCH])
    photographs = [functional.to_pil_image(image) for image in pixels]
    crop = {"size": 32, "padding": 4, "padding_mode": "reflect"}
    first = [transforms.RandomCrop(**crop), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    second = [v2.RandomCrop(**crop), v2.RandomHorizontalFlip()]
    ending = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(HALVES, HALVES)]
    ways = {
        V1: (transforms.Compose([*first, transforms.Normalize(HALVES, HALVES)]), photographs),
        "torchvision v2, PIL images": (v2.Compose([*second, v2.PILToTensor(), *ending]), photographs),
        "torchvision v2, uint8 tensors": (v2.Compose([*second, *ending]), pixels),
    }

    def one_by_one(transform: Callable[..., Tensor], images: list) -> Cost:
        return costs.timed(lambda: torch.stack([transform(image) for image in images]))

    own = stream(data)
    peers = {name: lambda way=way: one_by_one(*way) for name, way in ways.items()}
    return {**peers, OURS: lambda: costs.timed(lambda: next(own), repeat)}


def step(data: ImageBatches, numbers: str, rounds: int) -> Rounds:
    """The costs of the input and of the rest of a step, in turn."""
    own, rest = stream(data), stepper("resnet20", BATCH, numbers, update="for-loop")
    sides = {"input": lambda: costs.timed(lambda: next(own), 5), "rest": lambda: costs.timed(rest)}
    return costs.interleaved(sides, rounds)


def share(parts: Rounds) -> float:
    """The input's share of a whole step."""
    pairs = zip(parts["input"], parts["rest"], strict=True)
    return statistics.median(own.wall / (own.wall + rest.wall) for own, rest in pairs)
