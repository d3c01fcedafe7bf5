"""Images a second: of training steps in each precision and process layout, and of augmented input."""

import multiprocessing
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import processes
from benchmarks.page import Cell, Requirement, Result, Table
from benchmarks.timing import Cost, Rounds, interleaved, timed
from benchmarks.work import Options
from onecycle_sweeps.images import Facts, ImageBatches, Split
from onecycle_sweeps.images.augmentation import Flip, PadCrop
from onecycle_sweeps.machine import cores
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
COMPILE_TIMEOUT = 900
COMPILED_COLUMNS = ("net and numbers", "cold s", "warm s", "eager img/s", "compiled img/s", "pays (cold)", "(warm)")
BATCH, HALVES = 128, (0.5,) * 3
OURS, V1 = "this program, a batch at a time", "torchvision v1, PIL images"


def stepper(
    net: str, batch: int, numbers: str, optimizer: str = "SGD", way: str = "foreach", compiled: bool = False
) -> Callable[[], None]:
    """A training step, always on the same random images."""
    make_net, channels, side = NETS[net]
    layout = torch.contiguous_format if numbers == PLAIN else torch.channels_last
    torch.manual_seed(0)
    model = make_net(in_channels=channels, num_classes=10).to(memory_format=layout)
    updated = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3, **OPTIMIZERS[optimizer], **WAYS[way])
    images = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
    labels, forward = torch.randint(0, 10, (batch,)), torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=numbers == BF16):
            scores = forward(images)
        loss = cross_entropy(scores.float(), labels)
        updated.zero_grad()
        loss.backward()
        updated.step()

    return step


def precision(options: Options) -> Result:
    """Number formats, memory formats and optimizers for each net, and torch.compile where there is a compiler."""
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
    if not (shutil.which("g++") or shutil.which("clang++")):
        return Result(tables, (), ["torch.compile: it needs a C++ compiler, g++ or clang++"], rounds)
    caption = """Eager and compiled steps with SGD in turn. "Cold" is the first compiled step with an empty compiler \
cache, "warm" with a full one; the last columns are the steps after which compiling has paid."""
    rows = [compile_row(net, batch, numbers, options, seconds) for net in names for numbers in (FP32, BF16)]
    return Result([*tables, Table("torch.compile", caption, COMPILED_COLUMNS, rows)], (), (), rounds)


def compile_row(net: str, batch: int, numbers: str, options: Options, seconds: float) -> list[Cell]:
    cache = str(options.scratch / f"{net}-{numbers[:4]}")
    arguments = (compile_and_train, net, batch, numbers, options.rounds, seconds, cache)
    try:
        (cold, _), (warm, taken) = (processes.apart(*arguments, timeout=COMPILE_TIMEOUT) for _ in ("cold", "warm"))
    except multiprocessing.TimeoutError:
        return [f"{net}, {numbers}", f"not within {COMPILE_TIMEOUT} s", *[None] * 5]
    eager, compiled = taken.wall("eager"), taken.wall("compiled")
    pays = [first / (eager - compiled) if eager > compiled else "never" for first in (cold, warm)]
    return [f"{net}, {numbers}", cold, warm, batch / eager, batch / compiled, *pays]


def compile_and_train(
    net: str, batch: int, numbers: str, rounds: int, seconds: float, cache: str
) -> tuple[float, Rounds]:
    """The seconds of the first compiled step, and the costs of eager and compiled steps."""
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
    torch.set_num_threads(1)
    eager, compiled = (stepper(net, batch, numbers, way="fused", compiled=value) for value in (False, True))
    first = timed(compiled).wall
    sides = {"eager": partial(timed, eager, seconds / 2), "compiled": partial(timed, compiled, seconds / 2)}
    return first, interleaved(sides, rounds)


def input(options: Options) -> Result:
    """How fast augmented batches are made, beside torchvision's transforms, and what share of a step that takes."""
    torch.set_num_threads(1)
    samples = 2000 if options.quick else 50_000
    pixels, places = torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8), torch.arange(samples)
    split = Split(pixels, places, places)
    moments = tuple(255 * value for value in HALVES)
    facts = Facts(samples, samples, 0, 10, 3, 32, 32, moments, moments, 0.0, 0, None)
    own = ImageBatches(split, split, None, facts, BATCH, (PadCrop(), Flip())).train_batches(seed=0)
    make_own = partial(timed, lambda: next(own), 0.0 if options.quick else 0.1)
    made = interleaved({**torchvision_sides(list(pixels[:BATCH])), OURS: make_own}, options.rounds, options.warm)
    caption = f"""Batches of {BATCH} images of 32x32, cropped, flipped and normalised on one thread, from a set of \
{samples:,}. {options.turns}"""
    speeds = made.speeds("Augmented batches", caption, "made by", BATCH)
    what = "images/s on one core beside torchvision v1"
    required = [Requirement(what, 1 / made.ratio(OURS, V1), 20, at_least=True)]
    rows, rounds = [], {"makers": made}
    for numbers in (FP32, BF16):
        rest = stepper("resnet20", BATCH, numbers, way="for-loop")
        rounds[numbers] = taken = interleaved(
            {"input": make_own, "rest": partial(timed, rest)}, options.rounds, options.warm
        )
        share = 1 / (1 + taken.ratio("rest", "input"))
        rows.append((numbers, 1000 * taken.wall("input"), 1000 * taken.wall("rest"), 100 * share))
        required.append(Requirement(f"input's share of a ResNet-20 step, {numbers}", share, 0.03))
    columns = ("precision", "input ms", "rest ms", "input's share, %")
    caption = f"A step at batch {BATCH} on one thread: augmented input, and all of the rest. {options.turns}"
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


def layout(options: Options) -> Result:
    """One process on all cores, or one process a core: a table for each net and number format."""
    count = cores()
    layouts = {f"1 process x {count} threads": (1, count), f"{count} processes x 1 thread": (count, 1)}
    layouts |= {"1 process x 1 thread": (1, 1)}
    nets, seconds, batch = (["simple_cnn"], 0.5, 16) if options.quick else (["simple_cnn", "resnet20"], 2.0, 128)
    caption = f"Steps at batch {batch} of all processes together for {seconds:g} s on {count} cores. {options.turns}"
    spawn, rounds = multiprocessing.get_context("spawn"), {}
    for net, numbers in product(nets, (FP32, BF16)):
        with ExitStack() as stack:
            sides = {}
            for name, (workers, threads) in layouts.items():
                arguments = (spawn.Barrier(workers), threads, net, batch, numbers)
                pool = stack.enter_context(spawn.Pool(workers, prepare_worker, arguments))
                sides[name] = partial(train_together, pool, workers, seconds)
            rounds[f"{net}, {numbers}"] = interleaved(sides, options.rounds, options.warm)
    tables = [taken.speeds(name, caption, "layout", batch) for name, taken in rounds.items()]
    return Result(tables, (), (), rounds)


def prepare_worker(barrier: Any, threads: int, net: str, batch: int, numbers: str) -> None:
    torch.set_num_threads(threads)
    _worker.update(barrier=barrier, step=stepper(net, batch, numbers))
    _worker["step"]()


def train_together(pool: Any, workers: int, seconds: float) -> Cost:
    """The wall time of a step of all processes in sum, which train at once."""
    return Cost(1 / sum(1 / wall for wall in pool.map(train_from_barrier, [seconds] * workers, chunksize=1)))


def train_from_barrier(seconds: float) -> float:
    """The wall seconds of a step of this process, from the moment when all processes have come here."""
    _worker["barrier"].wait()
    return timed(_worker["step"], seconds).wall


_worker: dict[str, Any] = {}
