"""The batches of a user's own loader, epoch after epoch; they can begin at any batch, with the same random draws."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from onecycle_sweeps.trial.train import State, generators, set_generators


@dataclass
class LoaderBatches:
    """Endless batches of a loader, or endless None without one; its state goes into a checkpoint.

    per_epoch: how many batches of each epoch are taken; None takes all.
    epoch, taken: the epoch, and how many of its batches have been taken.
    at_start: the generators' states before the epoch's first batch, which decide the order of a shuffled loader.

    When a training continues from a checkpoint, the earlier batches of its epoch are read again and dropped, so that
    the order of the epoch and the draws of the loader's processes are the same.
    """

    loader: Iterable[Any] | None
    per_epoch: int | None
    device: torch.device
    epoch: int = 0
    taken: int = 0
    at_start: State = field(default_factory=dict)

    def state(self) -> State:
        """What a checkpoint keeps."""
        now = self._generators()
        return {"epoch": self.epoch, "taken": self.taken, "at_start": self.at_start, "now": now}

    def batches(self, state: State | None = None) -> Iterator[Any]:
        """The batches from the start, or from where `state` was kept.

        Raises ValueError for a loader without a batch, and for an iterator that has come to its end.
        """
        skipped = 0
        if state:
            self.epoch, skipped = state["epoch"], state["taken"]
            if self.loader is None or skipped == self.per_epoch:
                self._set_generators(state["now"])
                self.epoch, skipped = self.epoch + bool(skipped), 0
        while self.loader is None:
            yield None
        while True:
            if skipped and state:
                self._set_generators(state["at_start"])
            self.at_start, self.taken = self._generators(), 0
            self._begin_epoch()
            for batch in islice(iter(self.loader), self.per_epoch):
                self.taken += 1
                if self.taken > skipped:
                    yield batch
                elif self.taken == skipped and state:
                    self._set_generators(state["now"])
            if not self.taken:
                after = "has no batch" if self.epoch == 0 else f"has no batch left in epoch {self.epoch}"
                raise ValueError(f"the loader {after}: give run.steps something that can be iterated again and again")
            self.epoch, skipped = self.epoch + 1, 0

    def _begin_epoch(self) -> None:
        """Tell a sampler or a data set that orders itself by epoch which one begins."""
        for part in (getattr(self.loader, "sampler", None), getattr(self.loader, "dataset", None), self.loader):
            if set_epoch := getattr(part, "set_epoch", None):
                set_epoch(self.epoch)

    def _generators(self) -> State:
        return generators(self.device) | {"of_loader": [one.get_state() for one in self._own_generators()]}

    def _set_generators(self, state: State) -> None:
        set_generators(state, self.device)
        for own, kept in zip(self._own_generators(), state["of_loader"], strict=True):
            own.set_state(kept)

    def _own_generators(self) -> list[torch.Generator]:
        """The generators of the loader and its samplers, each once."""
        batch_sampler = getattr(self.loader, "batch_sampler", None)
        samplers = (getattr(self.loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
        found = [getattr(part, "generator", None) for part in (self.loader, *samplers)]
        return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
