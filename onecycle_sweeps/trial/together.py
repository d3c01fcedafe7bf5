"""Runs several trials as a pack: each as it runs alone, with its own folder and journal, but their steps together."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from onecycle_sweeps import torch_settings
from onecycle_sweeps.loop import StepTaken
from onecycle_sweeps.packs import CannotPack, Pack, steps_from
from onecycle_sweeps.trial.running import running
from onecycle_sweeps.trial.train import Ready, Taking, Training
from onecycle_sweeps.trial_folder import TrialFolder

log = logging.getLogger("onecycle_sweeps")
# How often to check whether one of the trials was cancelled.
CANCEL_CHECK_SECONDS = 1.0


@dataclass
class Member:
    """A trial that runs: its training, the context of its log and, once it has ended, its result or its exception."""

    trial: TrialFolder
    context: Context
    training: Training = field(init=False)
    ready: Ready | None = None
    outcome: dict[str, Any] | BaseException | None = None
    is_cancelled: bool = False

    def advance(self, taking: Taking | None = None, error: BaseException | None = None) -> None:
        """Go on until the training is ready, or to the end of its next step, or raise an error in it."""
        go_on = partial(self.training.send, taking) if error is None else partial(self.training.throw, error)
        try:
            self.ready = self.context.run(go_on) or self.ready
        except StopIteration as end:
            self.outcome = end.value
        except Exception as reason:
            self.outcome = reason

    def finish(self) -> None:
        """Take the steps that are left alone."""
        with torch_settings.kept():
            if self.outcome is None and self.ready:
                self.advance(self.ready.alone())
            while self.outcome is None:
                self.advance()


@dataclass
class PackControl:
    """Says what time it is and whether to stop: the same to all members of a pack, so that they save together."""

    stopped: Callable[[], bool]
    packed: bool = False
    leaving: bool = False
    time: float = 0.0
    _checked: float = field(default_factory=monotonic)

    def begin_step(self, members: Iterable[Member]) -> None:
        """Decide for all members, before a step, whether they have to stop."""
        self.time, self.leaving = monotonic(), self.stopped()
        if self.time - self._checked >= CANCEL_CHECK_SECONDS:
            self._checked = self.time
            for member in members:
                member.is_cancelled = member.trial.is_cancelled()

    def has_to_stop(self, member: Member) -> bool:
        """Whether a trial has to save and stop."""
        if not self.packed:
            self.begin_step([member])
        return self.leaving or member.is_cancelled

    def clock(self) -> float:
        """The time by which a trial is saved."""
        return self.time if self.packed else monotonic()


def run_together(
    trials: Sequence[TrialFolder],
    stopped: Callable[[], bool] = lambda: False,
    place: Mapping[str, str] | None = None,
    *,
    must_win: bool = False,
    refused: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any] | BaseException]:
    """The result of each trial, or the exception that `run` would raise for it.

    Trials that have not begun are packed, and so are the members of a pack that was stopped, if all of them are at the
    same step; the others run alone, one after the other. `must_win`: nothing is packed unless a short measurement says
    that a packed step takes less time than its members' own. `refused` is called with the reason why some are not.
    """
    with torch_settings.kept():
        return _run_together(trials, PackControl(stopped), place, must_win, refused)


def _run_together(
    trials: Sequence[TrialFolder],
    control: PackControl,
    place: Mapping[str, str] | None,
    must_win: bool,
    refused: Callable[[str], None],
) -> list[dict[str, Any] | BaseException]:
    members = {trial.signature: Member(trial, copy_context()) for trial in trials}
    for _, member in sorted(members.items()):
        member.training = running(member.trial, partial(control.has_to_stop, member), place, control.clock)
        member.advance()
    for group in _groups([member for _, member in sorted(members.items()) if member.outcome is None]):
        _run_pack(group, control, must_win, refused)
    for _, member in sorted(members.items()):
        member.finish()
    return [members[trial.signature].outcome or {} for trial in trials]


def _groups(members: Sequence[Member]) -> list[list[Member]]:
    """The members that may be packed with each other."""
    found: dict[tuple[int, tuple[str, ...]], list[Member]] = {}
    for member in members:
        assert member.ready
        found.setdefault((member.ready.start, member.ready.packed if member.ready.start else ()), []).append(member)
    return [
        group
        for (start, packed), group in found.items()
        if len(group) > 1 and (not start or packed == tuple(one.trial.signature for one in group))
    ]


def _run_pack(members: Sequence[Member], control: PackControl, must_win: bool, refused: Callable[[str], None]) -> None:
    """Take the members' steps together until all have ended; leaves them as they are if they cannot be packed."""
    readies = [member.ready for member in members if member.ready]
    learners, policies = [one.learner for one in readies], [one.policy for one in readies]
    try:
        pack = Pack(learners, policies, [one.totals for one in readies], readies[0].start, must_win=must_win)
    except CannotPack as reason:
        for member in members:
            member.context.run(log.info, "not packed: %s", reason)
        refused(str(reason))
        return
    names = tuple(member.trial.signature for member in members)
    boxes: list[list[StepTaken]] = [[] for _ in members]
    taking: list[Taking | None] = [
        Taking(learner, steps_from(box), totals, names)
        for learner, box, totals in zip(pack.learners, boxes, pack.totals, strict=True)
    ]
    for member in members:
        member.context.run(log.info, "packed with %d other trials", len(members) - 1)
    control.packed = True
    try:
        while any(member.outcome is None for member in members):
            control.begin_step(members)
            error = None
            try:
                for box, step in zip(boxes, pack.step(), strict=False):
                    box.append(step)
            except Exception as reason:
                error = reason
            for member, how in zip(members, taking, strict=True):
                if member.outcome is None:
                    member.advance(how, error)
            taking = [None] * len(members)
    finally:
        control.packed = False
