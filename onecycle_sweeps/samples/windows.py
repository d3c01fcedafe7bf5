"""Windows: a text as a row of tokens, from which windows of `context` tokens are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onecycle_sweeps import seeding
from onecycle_sweeps.samples.sample_facts import SampleFacts, SplitRule, digest_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# How many tokens are evaluated at once.
EVALUATION_TOKENS = 2**14
# Held-out text is looked for in the training text in stretches of this many tokens, a power of two: shorter ones repeat
# in almost any text. There is no warning if at most this share of them repeat, such as licences. The training text is
# searched in pieces.
STRETCH, HARMLESS, SEARCHED = 64, 0.02, 2**22


@dataclass(frozen=True)
class Text:
    """A text as its loader read it: whole numbers below `vocab_size`, and how many bytes of UTF-8 each stands for.

    `context` is how many tokens a window has; each but the first is predicted from those before it. `doubts` has a
    warning for each reason to distrust results on it.
    """

    tokens: np.ndarray
    sizes: np.ndarray
    vocab_size: int
    context: int
    doubts: tuple[str, ...] = ()


def describe(source: Text, split: SplitRule) -> SampleFacts:
    """The facts of one split of a text, whose samples are windows.

    Raises ValueError for a text that is shorter than its windows need or of one token, and for a token beyond the
    vocabulary.
    """
    if split.classes is not None:
        raise ValueError("classes must be null for a text, which has none")
    if (largest := int(source.tokens.max(initial=0))) >= source.vocab_size:
        raise ValueError(f"tokens must be below the vocabulary's size {source.vocab_size}, got {largest}")
    if len(source.tokens) and (source.tokens == source.tokens[0]).all():
        raise ValueError("the text must have different tokens, and has one only: nothing to learn")
    pieces, val = _divided(source, split)
    tokens = source.tokens[slice(*val)]
    return SampleFacts(
        train=sum(end - start for start, end in pieces) // source.context,
        val=-(-(len(tokens) - 1) // source.context),
        test=0,
        unit="windows",
        usual="language_model",
        reason="it is a text",
        offered={
            "vocab_size": source.vocab_size,
            "context": source.context,
            "out_features": source.vocab_size,
            "bytes_per_token": float(source.sizes[val[0] + 1 : val[1]].sum() / (len(tokens) - 1)),
        },
        digest=digest_of([source.tokens]).hex(),
        doubts=(*source.doubts, *_repeated(source.tokens, pieces, tokens)),
    )


def load(source: Text, split: SplitRule, facts: SampleFacts, device: torch.device | str) -> WindowBatches:
    """A text on a device; raises ValueError if it is not the one that was described."""
    import torch

    if digest_of([source.tokens]).hex() != facts.digest:
        raise ValueError("the text is not what it was when the trial was planned: start the command again")
    pieces, (start, end) = _divided(source, split)
    tokens = torch.from_numpy(source.tokens.astype(np.int64)).to(device)
    starts = torch.cat([torch.arange(a, b - source.context, device=device) for a, b in pieces])
    return WindowBatches(tokens, starts, tokens[start:end], facts, source.context)


@dataclass(frozen=True)
class WindowBatches:
    """Batches of windows: `context` tokens, and the tokens that follow them, both int64 (N, context).

    `starts` are the positions in `tokens` at which a training window may begin; `val` is the text held out.
    An epoch has as many windows, drawn at random, as fit into the training text side by side.
    """

    tokens: Tensor
    starts: Tensor
    val: Tensor
    facts: SampleFacts
    context: int
    batch_size: int = 1

    @property
    def unit(self) -> str:
        return self.facts.unit

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    @property
    def in_memory(self) -> bool:
        return True

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.facts.doubts

    @property
    def offered(self) -> Mapping[str, Any]:
        return self.facts.offered

    @property
    def sizes(self) -> Mapping[str, int]:
        return {"train": self.facts.train, "val": -(-(len(self.val) - 1) // self.context)}

    def train_batches(self, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches from step `start` on; where an epoch's windows begin follows from (seed, epoch) alone."""
        import torch

        windows = self.facts.train
        steps = windows // self.batch_size
        epoch, first = divmod(start, steps)
        within = torch.arange(self.context + 1, device=self.device)
        while True:
            drawn = torch.randint(len(self.starts), (windows,), generator=seeding.generator(seed, epoch))
            begins = self.starts[drawn.to(self.device)]
            for step in range(first, steps):
                at = begins[step * self.batch_size : (step + 1) * self.batch_size, None] + within
                batch = self.tokens[at]
                yield batch[:, :-1], batch[:, 1:]
            epoch, first = epoch + 1, 0

    def part_batches(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Each token of a part but the first predicted once, in windows side by side; the last one may be shorter."""
        text = self.val if part == "val" else self.tokens
        whole = (len(text) - 1) // self.context
        inputs = text[: whole * self.context].view(whole, self.context)
        targets = text[1 : whole * self.context + 1].view(whole, self.context)
        size = max(1, EVALUATION_TOKENS // self.context)
        for begin in range(0, whole, size):
            yield inputs[begin : begin + size], targets[begin : begin + size]
        if len(rest := text[whole * self.context :]) > 1:
            yield rest[None, :-1], rest[None, 1:]

    def targets(self, part: str) -> Tensor:
        """The tokens of a part that are predicted."""
        return (self.val if part == "val" else self.tokens)[1:]

    def few(self, count: int) -> WindowBatches:
        """These batches with only a few windows of each part, as one batch."""
        batch = min(count, self.facts.train)
        return replace(self, val=self.val[: count * self.context + 1], batch_size=batch)

    def check(self) -> None:
        """Do nothing, because nothing is read again."""


def _divided(source: Text, split: SplitRule) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The pieces of the training text, and the held-out text between them, each as (start, end).

    Where the held-out text begins follows from the split's seed. Raises ValueError for a text that is too short.
    """
    length, window = len(source.tokens), source.context + 1
    if not split.val_fraction:
        raise ValueError("val_fraction must be above 0 for a text, of which a part is held out, got 0")
    held_out = round(split.val_fraction * length)
    start = int(np.random.RandomState(split.split_seed).randint(length - held_out + 1)) if held_out < length else 0
    pieces = [piece for piece in ((0, start), (start + held_out, length)) if piece[1] - piece[0] > window]
    if not pieces or held_out < window:
        raise ValueError(
            f"the text must have a window of context={source.context} tokens and one more in both its parts, and has "
            f"{length} tokens, of which val_fraction={split.val_fraction} holds out {held_out}"
        )
    return pieces, (start, start + held_out)


def _repeated(tokens: np.ndarray, pieces: list[tuple[int, int]], held_out: np.ndarray) -> Iterator[str]:
    """A warning if more than a few stretches of the held-out text, side by side, are in the training text too."""
    wanted = _hashes(held_out)[::STRETCH]
    found, beginnings = np.zeros(len(wanted), bool), np.zeros(2**22, bool)
    beginnings[wanted >> 42] = True
    for start, end in pieces:
        for begin in range(start, end, SEARCHED):
            there = _hashes(tokens[begin : min(end, begin + SEARCHED + STRETCH - 1)])
            # Looked up by their first 22 bits before they are compared, which needs them sorted.
            found |= np.isin(wanted, there[beginnings[there >> 42]])
    if (count := int(found.sum())) > HARMLESS * len(wanted):
        yield f"{count} of {len(wanted)} stretches of {STRETCH} held-out tokens are in the training text too"


def _hashes(tokens: np.ndarray) -> np.ndarray:
    """A number for each stretch of tokens, uint64, from where each begins: two stretches joined are one twice as long.

    A polynomial in an odd number, modulo 2**64.
    """
    hashes, factor, length = tokens.astype(np.uint64), 0x9E3779B97F4A7C15, 1
    while length < STRETCH:
        hashes = hashes[:-length] * np.uint64(factor) + hashes[length:]
        factor, length = factor * factor % 2**64, 2 * length
    return hashes
