"""How far a running trial is, by the end of its journal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecycle_sweeps import journal, measures
from onecycle_sweeps.journal import LR, TRAIN_LOSS
from onecycle_sweeps.measures import Measure


@dataclass(frozen=True)
class Progress:
    """The last step in a running trial's journal, with its rate and loss, and its last evaluation.

    started, time: when the attempt began and when the step was written, as Unix times.
    val: the headline measure of the last evaluation; None before the first one.
    """

    step: int
    total_steps: int
    lr: float
    loss: float
    started: float
    first_step: int
    time: float
    headline: Measure = measures.ACCURACY
    val: float | None = None

    @property
    def val_text(self) -> str:
        """The last evaluation for people: `90.05 %`; empty before the first one."""
        return "" if self.val is None else self.headline.text(self.val)

    def in_words(self, *, with_rate: bool = True) -> str:
        """How far the trial is: `step 120/900, loss 0.51, lr 0.08, val accuracy 81.20 %`."""
        rate = f", lr {self.lr:.3g}" if with_rate else ""
        val = f", val {self.headline.name} {self.val_text}" if self.val_text else ""
        return f"step {self.step + 1}/{self.total_steps}, loss {self.loss:.4g}{rate}{val}"

    @property
    def seconds_left(self) -> float | None:
        """The time left at the attempt's average speed; None before its first step."""
        done, spent = self.step + 1 - self.first_step, self.time - self.started
        return spent / done * (self.total_steps - self.step - 1) if done > 0 and spent > 0 else None


class Follower:
    """Follows a trial: each call of `progress` reads only what its journal has gained since the one before.

    `resolved` returns what the trial's first attempt fixed, or None; it is called until it returns something.
    """

    def __init__(self, folder: Path, resolved: Callable[[], Mapping[str, Any] | None]) -> None:
        self._folder, self._resolved = folder, resolved
        self._fixed: Mapping[str, Any] = {}
        self._tail: journal.Tail | None = None

    def progress(self) -> Progress | None:
        """How far the trial is; None before its first block of steps. Raises Unreadable."""
        if self._tail is None:
            if not (found := self._resolved()):
                return None
            self._fixed, self._tail = found, journal.Tail(self._folder, measures.of_trial(found)[0].val)
        self._tail.read()
        attempt, block = self._tail.attempt, self._tail.block
        if not attempt or not block:
            return None
        losses = block.metrics[TRAIN_LOSS]
        return Progress(
            step=block.step + len(losses) - 1,
            total_steps=self._fixed["total_steps"],
            lr=block.metrics[LR][-1],
            loss=losses[-1],
            started=attempt.time,
            first_step=attempt.start,
            time=block.time,
            headline=measures.of_trial(self._fixed)[0],
            val=self._tail.value,
        )
