"""Random choices that follow from seeds alone: samples that are held out, the order of an epoch, all generators."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def held_out(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions below `count` that stay, and those held out, round(fraction * count) of them; both ascending."""
    number = round(fraction * count)
    # RandomState's stream is frozen (NEP 19): a numpy upgrade must not move samples between the parts.
    order = np.random.RandomState(seed).permutation(count)
    return np.sort(order[number:]), np.sort(order[:number])


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and, if it is loaded, torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if loaded := sys.modules.get("torch"):
        loaded.manual_seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """A context after which the generators of Python, NumPy and, if it was loaded, torch are as before."""
    loaded = sys.modules.get("torch")
    python, of_numpy = random.getstate(), np.random.get_state()
    of_torch = _torch_kept(loaded) if loaded else nullcontext()
    try:
        with of_torch:
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


@contextmanager
def _torch_kept(torch: Any) -> Iterator[None]:
    seed, cpu = torch.initial_seed(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        else:
            # Until a GPU is used, its seed is only noted for later, and the last one counts.
            torch.cuda.manual_seed_all(seed)


def number(of: str) -> int:
    """A seed below 2**56 that follows from a text."""
    return int.from_bytes(hashlib.sha256(of.encode()).digest()[:7])


def generator(seed: int, epoch: int) -> torch.Generator:
    """torch's generator for an epoch, always the CPU's, so that every device sees the same draws."""
    import torch

    return torch.Generator().manual_seed(number(f"{seed},{epoch}"))


def order(size: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation of the positions below `size`, int64."""
    import torch

    return torch.randperm(size, generator=generator(seed, epoch))
