"""Published results, reproduced."""

from pathlib import Path
from statistics import mean

import torch

from benchmarks.page import Requirement, Result, Table
from benchmarks.work import planned
from gpu_check import plain, sweeps
from gpu_check.figures import Options, taken
from gpu_check.plain import Recipe
from gpu_check.step import built, cifar10, images_of, made
from onecycle_sweeps.trial import build

SEEDS, PLAIN_SEEDS, PUBLISHED = 3, 2, 0.9408
CAPTION = """`experiment=cifar10_fast data=cifar10_jpeg seed={seeds} -m`: David Page's ResNet-9, 24 epochs, 94.08 % \
(median of 50 runs) on the lossless images. These are JPEGs of 0.9 kB with halved colours. Mean: {mean:.2%}; the \
plainest fast loop on the same images, {times} seeds: {plain:.2%}. Seconds are of a trial's training with its \
evaluations; the command took {seconds:.0f} s from Enter to exit, decoding and report included."""


def run(options: Options) -> Result:
    """The presets that fit into a few minutes."""
    return taken({"cifar10_fast": cifar10_fast}, options)


def cifar10_fast(options: Options) -> Result:
    """ResNet-9 to 94 % in 24 epochs."""
    seeds = ",".join(map(str, range(options.sized(SEEDS, 2))))
    epochs = ("epochs=2",) if options.quick else ()
    words = (*cifar10(options), *epochs, f"seed={seeds}", "-m", f"device={options.device}")
    ran = sweeps.run(options.scratch / "cifar10_fast", *words)
    metrics = [result["metrics"] for result in ran.results()]
    reached = [one["final/val_accuracy"] for one in metrics]
    rows = [(f"{one['final/val_accuracy']:.2%}", f"{one['best/val_accuracy']:.2%}", one["seconds"]) for one in metrics]
    peers = plain_accuracies(ran.folder / "runs", options)
    caption = CAPTION.format(seeds=seeds, seconds=ran.seconds, mean=mean(reached), plain=mean(peers), times=len(peers))
    table = Table("cifar10_fast", caption, ("final val accuracy", "best", "s"), rows)
    required = [
        Requirement("cifar10_fast: mean accuracy", mean(reached), PUBLISHED - 0.003, at_least=True),
        Requirement("cifar10_fast: its points below the plain loop's", 100 * (mean(peers) - mean(reached)), 0.3),
    ]
    return Result([table], required, (), {"accuracies": reached, "plain": peers})


def plain_accuracies(runs_dir: Path, options: Options) -> list[float]:
    """What the plainest fast loop reaches on the same images."""
    asked = planned(runs_dir, *cifar10(options), f"device={options.device}", "seed=0")
    data = images_of(built(made(runs_dir, asked)))
    recipe, found = Recipe(options.sized(24, 2), data.batch_size), []
    for seed in range(PLAIN_SEEDS):
        torch.manual_seed(seed)
        net = build.make_net(asked.config, data.offered)
        found.append([accuracy for _, accuracy in plain.epochs(net, data, recipe, benchmark=True)][-1])
    return found
