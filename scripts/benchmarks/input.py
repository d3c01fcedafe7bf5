"""How fast augmented CIFAR batches are made, beside torchvision's transforms, and what share of a step that is."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision import transforms
from torchvision.transforms import functional, v2

from benchmarks import costs
from benchmarks.costs import Cost, Rounds
from benchmarks.nets import net
from benchmarks.tables import Requirement, Result, Table
from benchmarks.work import Options
from onecycle_sweeps.images import Dataset, Facts, Split, batches
from onecycle_sweeps.images.augmentation import Flip, PadCrop

BATCH, HALVES = 128, (0.5,) * 3
OURS, V1 = "this program, a batch at a time", "torchvision v1, PIL images"
INPUT, STEP = "input", "step"
CAPTION = """Batches of {batch} photographs of 32x32, cropped at random out of a reflecting border of 4, flipped at \
random and normalised, on one thread. A row is one way to make them, in turn with the others, {rounds} rounds after \
one that is not counted. torchvision's start from images in memory (v1 and v2 from PIL images, v2 also from uint8 \
tensors), one image at a time, and end with a batch of tensors; this program's starts from the stored set of \
{samples:,} and includes the gather. Counted are images a second of one core (medians) and the speed beside v1's in \
the same round (median of ratios)."""
SHARE = """A step of ResNet-20 at batch {batch} on augmented 32x32 photographs, one thread, SGD with Nesterov: input \
is what makes the normalised batch, the rest forward, backward and update. A row is a precision; milliseconds are \
medians of {rounds} rounds in which both were timed, the share is input / (input + rest) within a round (median)."""


def run(options: Options) -> Result:
    """Both tables."""
    torch.set_num_threads(1)
    samples = 2000 if options.quick else 50_000
    data = stored(torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8))
    measured = costs.interleaved(makers(data, 1 if options.quick else 10), options.rounds, warm=1)
    shares = {precision: share(data, precision, options.rounds) for precision in ("fp32", "bf16")}
    speed = 1 / costs.ratio(measured, OURS, V1)
    required = [
        Requirement("images/s on one core beside torchvision v1", speed, 20, at_least=True),
        *(Requirement(f"input's share of a ResNet-20 step, {p}", part(rounds), 0.03) for p, rounds in shares.items()),
    ]
    rounds = {"makers": measured, **{f"share {precision}": taken for precision, taken in shares.items()}}
    raw = {name: {s: [asdict(c) for c in taken] for s, taken in some.items()} for name, some in rounds.items()}
    return Result([speeds(measured, samples), share_table(shares)], required, (), raw)


def stored(images: Tensor) -> Dataset:
    """A set of photographs as the program holds it in memory."""
    count = len(images)
    split = Split(images, torch.randint(0, 10, (count,)), torch.arange(count))
    moments = tuple(255 * value for value in HALVES)
    return Dataset(split, split, None, Facts(count, count, 0, 10, 3, 32, 32, moments, moments, 0.0, 0, None))


def stream(data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented, normalised batches as the program's loop has them."""
    for images, labels in batches(data.train, BATCH, 0, 0, (PadCrop(), Flip())):
        yield data.normalise(images), labels


def makers(data: Dataset, repeat: int) -> dict[str, Callable[[], Cost]]:
    """The ways to make a batch."""
    pixels = list(data.train.images[:BATCH])
    photographs = [functional.to_pil_image(image) for image in pixels]
    crop = {"size": 32, "padding": 4, "padding_mode": "reflect"}
    v1 = transforms.Compose(
        [
            *(transforms.RandomCrop(**crop), transforms.RandomHorizontalFlip()),
            *(transforms.ToTensor(), transforms.Normalize(HALVES, HALVES)),
        ]
    )
    drawn = [v2.RandomCrop(**crop), v2.RandomHorizontalFlip()]
    ending = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(HALVES, HALVES)]
    ways = {
        V1: (v1, photographs),
        "torchvision v2, PIL images": (v2.Compose([*drawn, v2.PILToTensor(), *ending]), photographs),
        "torchvision v2, uint8 tensors": (v2.Compose([*drawn, *ending]), pixels),
    }
    own = stream(data)
    one_by_one = {
        name: lambda transform=transform, images=images: costs.timed(
            lambda: torch.stack([transform(image) for image in images])
        )
        for name, (transform, images) in ways.items()
    }
    return {**one_by_one, OURS: lambda: costs.timed(lambda: next(own), repeat)}


def speeds(measured: Rounds, samples: int) -> Table:
    """Images a second of each way."""
    rows = [(name, BATCH / costs.wall(measured, name), 1 / costs.ratio(measured, name, V1)) for name in measured]
    sizes = {"batch": BATCH, "rounds": len(measured[V1]), "samples": samples}
    return Table("Augmented batches", CAPTION.format(**sizes), ("made by", "images/s", "beside v1"), rows)


def share(data: Dataset, precision: str, rounds: int) -> Rounds:
    """What input and the rest of a step cost in turn."""
    own, model = stream(data), net("resnet20", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images, labels = next(own)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            scores = model(images)
        loss = cross_entropy(scores.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return costs.interleaved(
        {INPUT: lambda: costs.timed(lambda: next(own), 5), STEP: lambda: costs.timed(step)}, rounds, warm=1
    )


def part(measured: Rounds) -> float:
    """Input's share of a whole step."""
    pairs = zip(measured[INPUT], measured[STEP], strict=True)
    return statistics.median(own.wall / (own.wall + rest.wall) for own, rest in pairs)


def share_table(shares: dict[str, Rounds]) -> Table:
    """Input beside the rest of a step."""
    rows = [
        (precision, *(1000 * costs.wall(measured, name) for name in (INPUT, STEP)), 100 * part(measured))
        for precision, measured in shares.items()
    ]
    rounds = len(next(iter(shares.values()))[STEP])
    columns = ("precision", "input ms", "rest ms", "input's share, %")
    return Table("Input within a step of ResNet-20", SHARE.format(batch=BATCH, rounds=rounds), columns, rows)
