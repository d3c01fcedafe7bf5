"""Loops that people write for a GPU, for the same net and the same number of steps as the program's."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from benchmarks import timing
from benchmarks.peers import SGD_SETTINGS
from benchmarks.peers.torch_loop import accuracy
from benchmarks.timing import WARM_STEPS, Cost
from benchmarks.work import Points, Work
from onecycle_sweeps.images import ImageBatches
from onecycle_sweeps.policies import OneCycle

PADDING, HOLE = 4, 8


def graphed(work: Work) -> tuple[Cost, Points]:
    """The bare loop with its batch, forward and backward pass in one CUDA graph; the fused update stays outside it."""
    max_lr, device = work.config["max_lr"], work.config["device"]
    model, policy = work.net().train(), OneCycle(max_lr, work.steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=max_lr, **SGD_SETTINGS, fused=True)
    index, losses = work.order[0].clone(), torch.zeros(work.steps, device=device)

    def passes() -> Tensor:
        images, labels = work[index]
        loss = cross_entropy(model(images), labels)
        loss.backward()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.zero_grad()
            passes()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = passes()
    start = timing.now()
    for step in range(work.steps):
        if step == WARM_STEPS:
            torch.cuda.synchronize()
            start = timing.now()
        index.copy_(work.order[step])
        optimizer.zero_grad(set_to_none=False)
        graph.replay()
        hyper, group = policy(step), optimizer.param_groups[0]
        group["lr"], group["momentum"] = hyper.lr, hyper.momentum
        optimizer.step()
        losses[step] = loss
    losses.tolist()
    accuracy(model, [work.validation()])
    return timing.since(start).per(work.steps - WARM_STEPS), {}


@dataclass(frozen=True)
class Recipe:
    """Page's training: linear up and down, over so many epochs."""

    epochs: int
    batch_size: int = 512
    max_lr: float = 0.4
    peak: float = 5 / 24

    def rate(self, progress: float) -> float:
        """The rate at a share of the run."""
        return self.max_lr * (progress / self.peak if progress < self.peak else (1 - progress) / (1 - self.peak))


def epochs(net: nn.Module, data: ImageBatches, recipe: Recipe, benchmark: bool) -> Iterator[tuple[float, float]]:
    """Train as the plainest fast loop does; yields each epoch's seconds and val accuracy.

    Images lie on the device, normalised, padded and in bf16; a whole epoch is cropped, flipped and cut out at once;
    bf16 autocast, channels_last, the fused SGD. `benchmark` lets cuDNN choose its algorithms by timing them.
    """
    device = data.train.images.device
    torch.backends.cudnn.benchmark = benchmark
    net = net.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=device.type == "cuda"
    )
    images = data.normalise(data.train.images[data.train.index])
    padded = pad(images, (PADDING,) * 4, "reflect").bfloat16().permute(0, 2, 3, 1).contiguous()
    labels = data.train.labels[data.train.index]
    held, truth = data.normalise(data.val.images[data.val.index]).bfloat16(), data.val.labels[data.val.index]
    steps, done = len(images) // recipe.batch_size, 0
    for _ in range(recipe.epochs):
        _wait(device)
        began = time.perf_counter()
        order = torch.randperm(len(images), device=device)
        epoch = _augmented(padded, images.shape[-1])
        for batch in order[: steps * recipe.batch_size].split(recipe.batch_size):
            optimizer.param_groups[0]["lr"] = recipe.rate(done / (steps * recipe.epochs))
            with torch.autocast(device.type, torch.bfloat16):
                loss = cross_entropy(net(epoch[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
        net.eval()
        parts = zip(held.split(2000), truth.split(2000), strict=True)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            right = torch.stack([(net(part).argmax(1) == classes).sum() for part, classes in parts]).sum()
        net.train()
        accuracy = int(right) / len(truth)
        yield time.perf_counter() - began, accuracy
    torch.backends.cudnn.benchmark = False


def _augmented(padded: Tensor, side: int) -> Tensor:
    """Each image cropped, flipped and with a hole: (N, H, W, C) -> (N, C, H, W) in channels_last."""
    count, device = len(padded), padded.device
    pixels, each = torch.arange(side, device=device), torch.arange(count, device=device)[:, None, None]
    top, left = torch.randint(0, 2 * PADDING + 1, (2, count, 1), device=device)
    columns = torch.where(torch.rand(count, 1, device=device) < 0.5, pixels, side - 1 - pixels)
    cropped = padded[each, (top + pixels)[:, :, None], (left + columns)[:, None, :]]
    down, right = torch.randint(0, side - HOLE + 1, (2, count, 1), device=device)
    rows, across = ((pixels >= start) & (pixels < start + HOLE) for start in (down, right))
    hole = rows[:, :, None] & across[:, None, :]
    return cropped.masked_fill_(hole[..., None], 0).permute(0, 3, 1, 2)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
