"""The batches of a user's own loader, epoch after epoch; they can begin at any batch, with the same random draws."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from onecycle_sweeps import held_generators
from onecycle_sweeps.trial.train import State, generators, set_generators


@dataclass
class LoaderBatches:
    """Endless batches of a loader, or endless None without one; its state goes into a checkpoint.

    per_epoch: how many batches of each epoch are taken; None takes all.
    epoch, taken: the epoch, and how many of its batches have been taken.
    at_start: the generators' states before the epoch's first batch, which decide the order of a shuffled loader.
    warnings: why the batches after a checkpoint may be others than without it.

    When a training continues from a checkpoint, the earlier batches of its epoch are read again and dropped, so that
    the order of the epoch and the draws of the loader's processes are the same.
    """

    loader: Iterable[Any] | None
    per_epoch: int | None
    device: torch.device
    epoch: int = 0
    taken: int = 0
    at_start: State = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def state(self) -> State:
        """What a checkpoint keeps."""
        now = self._generators()
        place = {"epoch": self.epoch, "taken": self.taken}
        return {**place, "at_start": self.at_start, "now": now, "warnings": self.warnings}

    def batches(self, state: State | None = None) -> Generator[Any]:
        """The batches from the start, or from where `state` was kept.

        Raises ValueError for a loader without a batch, and for an iterator that has come to its end.
        """
        skipped = 0
        if state:
            self.epoch, skipped, self.warnings = state["epoch"], state["taken"], list(state.get("warnings", ()))
            if self.loader is None or skipped == self.per_epoch:
                self._go_on(state)
                self.epoch, skipped = self.epoch + bool(skipped), 0
            if self.epoch and getattr(self.loader, "num_workers", 0) and getattr(self.loader, "persistent_workers", 0):
                self._warn(
                    "the loader's worker processes began anew when the trial went on, so their random draws in later "
                    "epochs are not those of a training that was not stopped: use persistent_workers=False"
                )
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
                    self._go_on(state)
            if not self.taken:
                after = "has no batch" if self.epoch == 0 else f"has no batch left in epoch {self.epoch}"
                raise ValueError(f"the loader {after}: give run.steps something that can be iterated again and again")
            self.epoch, skipped = self.epoch + 1, 0

    def _begin_epoch(self) -> None:
        """Tell a sampler or a data set that orders itself by epoch which one begins."""
        batch_sampler = getattr(self.loader, "batch_sampler", None)
        samplers = (getattr(self.loader, "sampler", None), getattr(batch_sampler, "sampler", None), batch_sampler)
        for part in (*samplers, getattr(self.loader, "dataset", None), self.loader):
            if set_epoch := getattr(part, "set_epoch", None):
                set_epoch(self.epoch)

    def _generators(self) -> State:
        return generators(self.device) | {"of_loader": held_generators.states(held_generators.of_loader(self.loader))}

    def _go_on(self, state: State) -> None:
        """Bring all generators to where they were when the checkpoint was saved."""
        if lacking := self._set_generators(state["now"]):
            self._warn(
                f"the loader's generator {', '.join(lacking)} was not there when the trial went on, so its draws are "
                "not those of a training that was not stopped: create it with the loader's parts, not when the first "
                "sample is read"
            )

    def _set_generators(self, state: State) -> list[str]:
        """Set all generators; returns the names of those of the loader that it lacks."""
        set_generators(state, self.device)
        found, states = held_generators.of_loader(self.loader), state["of_loader"]
        if isinstance(states, list):
            # A checkpoint of an earlier version has torch's generators of the loader and its samplers only.
            named = [one for one in held_generators.OF_SAMPLERS if isinstance(found.get(one), torch.Generator)]
            states = dict(zip(named, states, strict=True))
        return held_generators.set_states(found, states)

    def _warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)
