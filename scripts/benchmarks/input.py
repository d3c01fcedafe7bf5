"""How fast augmented CIFAR batches are made, beside torchvision's transforms, and what share of a step that takes."""

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision import transforms
from torchvision.transforms import functional, v2

from benchmarks import costs, program
from benchmarks.costs import Cost, Rounds
from benchmarks.page import Requirement, Result, Table
from benchmarks.work import Options
from onecycle_sweeps import composing
from onecycle_sweeps.images import Facts, ImageBatches, Split, batches
from onecycle_sweeps.images.augmentation import Flip, PadCrop

BATCH, HALVES = 128, (0.5,) * 3
OURS, V1 = "this program, a batch at a time", "torchvision v1, PIL images"
CAPTION = """Batches of {batch} photographs of 32x32, cropped at random from a reflecting border of 4, flipped at \
random and normalised, on one thread. A row is one way to make them; all take turns for {rounds} rounds after one \
that is not counted. torchvision starts from images in memory (v1 and v2 from PIL images, v2 also from uint8 \
tensors), one image at a time, and ends with a batch of tensors; this program starts from the stored set of \
{samples:,}, gathering included. Counted are images a second on one core (medians) and the speed beside v1's in the \
same round (median of ratios)."""
SHARE = """A step of ResNet-20 at batch {batch} on augmented 32x32 photographs, one thread, SGD with Nesterov: input \
is what makes the normalised batch, the rest is forward, backward and update. A row is a precision; milliseconds are \
medians of {rounds} rounds in which both were timed, the share is input / (input + rest) within a round (median)."""


def run(options: Options) -> Result:
    """Both tables."""
    torch.set_num_threads(1)
    samples = 2000 if options.quick else 50_000
    data = stored(torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8))
    measured = costs.interleaved(makers(data, 1 if options.quick else 10), options.rounds)
    shares = {precision: step_parts(data, precision, options.rounds) for precision in ("fp32", "bf16")}
    speed = 1 / measured.ratio(OURS, V1)
    required = [
        Requirement("images/s on one core beside torchvision v1", speed, 20, at_least=True),
        *(Requirement(f"input's share of a ResNet-20 step, {p}", share(parts), 0.03) for p, parts in shares.items()),
    ]
    rows = [(name, BATCH / measured.wall(name), 1 / measured.ratio(name, V1)) for name in measured]
    caption = CAPTION.format(batch=BATCH, rounds=options.rounds, samples=samples)
    speeds = Table("Augmented batches", caption, ("made by", "images/s", "beside v1"), rows)
    rows = [
        (precision, 1000 * parts.wall("input"), 1000 * parts.wall("rest"), 100 * share(parts))
        for precision, parts in shares.items()
    ]
    caption = SHARE.format(batch=BATCH, rounds=options.rounds)
    columns = ("precision", "input ms", "rest ms", "input's share, %")
    within = Table("Input within a step of ResNet-20", caption, columns, rows)
    return Result([speeds, within], required, (), {"makers": measured, **shares})


def stored(images: Tensor) -> ImageBatches:
    """Photographs as the program holds them in memory."""
    count = len(images)
    split = Split(images, torch.randint(0, 10, (count,)), torch.arange(count))
    moments = tuple(255 * value for value in HALVES)
    return ImageBatches(split, split, None, Facts(count, count, 0, 10, 3, 32, 32, moments, moments, 0.0, 0, None))


def stream(data: ImageBatches) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented, normalised batches as the program makes them."""
    for images, labels in batches(data.train, BATCH, 0, 0, (PadCrop(), Flip())):
        yield data.normalise(images), labels


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


def step_parts(data: ImageBatches, precision: str, rounds: int) -> Rounds:
    """The costs of the input and of the rest of a step, in turn."""
    own = stream(data)
    model = program.net(composing.plain(program.composed("model=resnet20"))["model"], 3, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images, labels = next(own)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            scores = model(images)
        loss = cross_entropy(scores.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    sides = {"input": lambda: costs.timed(lambda: next(own), 5), "rest": lambda: costs.timed(step)}
    return costs.interleaved(sides, rounds)


def share(parts: Rounds) -> float:
    """The input's share of a whole step."""
    pairs = zip(parts["input"], parts["rest"], strict=True)
    return statistics.median(own.wall / (own.wall + rest.wall) for own, rest in pairs)
