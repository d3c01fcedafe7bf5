"""Images a second: of training steps in each precision, and of augmented input."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.page import Requirement, Result, Table
from benchmarks.timing import Cost, interleaved, timed
from benchmarks.work import Options
from onecycle_sweeps.images import Facts, ImageBatches, Split
from onecycle_sweeps.images.augmentation import Flip, PadCrop
from onecycle_sweeps.models.lenet import LeNet
from onecycle_sweeps.models.resnet import ResNet
from onecycle_sweeps.models.resnet9 import ResNet9
from onecycle_sweeps.models.simple_cnn import SimpleCNN

# A net, and the channels and the side of its images: Fashion-MNIST's or CIFAR's.
NETS: dict[str, tuple[Callable[..., nn.Module], int, int]] = {
    "simple_cnn": (SimpleCNN, 1, 28),
    "lenet": (LeNet, 1, 28),
    "resnet20": (partial(ResNet, depth=20), 3, 32),
    "resnet9": (ResNet9, 3, 32),
}
PLAIN, FP32, BF16 = "fp32, contiguous", "fp32, channels_last", "bf16, channels_last"
WAYS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}
OPTIMIZERS: dict[str, Any] = {"SGD": {"momentum": 0.9, "nesterov": True}, "AdamW": {}}
HALVES = (0.5,) * 3
OURS, V1 = "this program, a batch at a time", "torchvision v1, PIL images"


def stepper(net: str, batch: int, numbers: str, optimizer: str = "SGD", way: str = "foreach") -> Callable[[], None]:
    """A training step, always on the same random images."""
    make_net, channels, side = NETS[net]
    layout = torch.contiguous_format if numbers == PLAIN else torch.channels_last
    torch.manual_seed(0)
    model = make_net(in_channels=channels, num_classes=10).to(memory_format=layout)
    updated = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3, **OPTIMIZERS[optimizer], **WAYS[way])
    images = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=numbers == BF16):
            scores = model(images)
        loss = cross_entropy(scores.float(), labels)
        updated.zero_grad()
        loss.backward()
        updated.step()

    return step


def precision(options: Options) -> Result:
    """Number formats, memory formats and optimizers for each net."""
    torch.set_num_threads(1)
    names, batch, seconds = (["simple_cnn"], 16, 0.0) if options.quick else (list(NETS), 128, 1.0)
    caption = f"""Training steps at batch {batch} on one thread, beside "fp32, contiguous" with the same optimizer and \
implementation. {options.turns}"""
    tables, rounds = [], {}
    for net in names:
        sides, plain = {}, {}
        for numbers, optimizer, way in product((PLAIN, FP32, BF16), OPTIMIZERS, WAYS):
            name = f"{numbers}, {optimizer}, {way}"
            sides[name] = partial(timed, stepper(net, batch, numbers, optimizer, way), seconds)
            plain[name] = f"{PLAIN}, {optimizer}, {way}"
        rounds[net] = interleaved(sides, options.rounds, options.warm)
        tables.append(rounds[net].speeds(f"Steps of {net}", caption, "setting", batch, plain))
    return Result(tables, (), (), rounds)


def input(options: Options) -> Result:
    """How fast augmented batches are made, beside torchvision's transforms, and what share of a step that takes."""
    torch.set_num_threads(1)
    samples, batch = (2000, 16) if options.quick else (50_000, 128)
    pixels, places = torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8), torch.arange(samples)
    split = Split(pixels, places, places)
    moments = tuple(255 * value for value in HALVES)
    facts = Facts(samples, samples, 0, 10, 3, 32, 32, moments, moments, 0.0, 0, None)
    own = ImageBatches(split, split, None, facts, batch, (PadCrop(), Flip())).train_batches(seed=0)
    make_own = partial(timed, lambda: next(own), 0.0 if options.quick else 0.1)
    made = interleaved({**torchvision_sides(list(pixels[:batch])), OURS: make_own}, options.rounds, options.warm)
    caption = f"""Batches of {batch} images of 32x32, cropped, flipped and normalised on one thread, from a set of \
{samples:,}. {options.turns}"""
    speeds = made.speeds("Augmented batches", caption, "made by", batch)
    what = "images/s on one core beside torchvision v1"
    required = [Requirement(what, 1 / made.ratio(OURS, V1), 20, at_least=True)]
    rows, rounds = [], {"makers": made}
    for numbers in (FP32, BF16):
        rest = stepper("resnet20", batch, numbers, way="for-loop")
        rounds[numbers] = taken = interleaved(
            {"input": make_own, "rest": partial(timed, rest)}, options.rounds, options.warm
        )
        share = 1 / (1 + taken.ratio("rest", "input"))
        rows.append((numbers, 1000 * taken.wall("input"), 1000 * taken.wall("rest"), 100 * share))
        required.append(Requirement(f"input's share of a ResNet-20 step, {numbers}", share, 0.03))
    columns = ("precision", "input ms", "rest ms", "input's share, %")
    caption = f"A step at batch {batch} on one thread: augmented input, and all of the rest. {options.turns}"
    return Result([speeds, Table("Input within a step of ResNet-20", caption, columns, rows)], required, (), rounds)


def torchvision_sides(pixels: list[Tensor]) -> dict[str, Callable[[], Cost]]:
    """torchvision's ways to make a batch, an image at a time."""
    from torchvision import transforms
    from torchvision.transforms import functional, v2

    photographs = [functional.to_pil_image(image) for image in pixels]
    crop = {"size": 32, "padding": 4, "padding_mode": "reflect"}
    first = [transforms.RandomCrop(**crop), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    second = [v2.RandomCrop(**crop), v2.RandomHorizontalFlip()]
    ending = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(HALVES, HALVES)]

    def side(transform: Callable[..., Tensor], images: list[Any]) -> Callable[[], Cost]:
        return lambda: timed(lambda: torch.stack([transform(image) for image in images]))

    return {
        V1: side(transforms.Compose([*first, transforms.Normalize(HALVES, HALVES)]), photographs),
        "torchvision v2, PIL images": side(v2.Compose([*second, v2.PILToTensor(), *ending]), photographs),
        "torchvision v2, uint8 tensors": side(v2.Compose([*second, *ending]), pixels),
    }
