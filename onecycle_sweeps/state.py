"""How a trial stands, decided from its own records."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from onecycle_sweeps import journal
from onecycle_sweeps.files import Damaged, Replaceable, UnknownFormat, Unreadable
from onecycle_sweeps.folder import TrialFolder

WAITING, QUEUED, RUNNING, FINISHED = "waiting", "queued", "running", "finished"
DIVERGED, FAILED, CANCELLED, LOST = "diverged", "failed", "cancelled", "lost"
STOPPED = "stopped"
ENDED = (FINISHED, DIVERGED, FAILED, CANCELLED, LOST)


class Earlier(UnknownFormat):
    """The records have no format: they can be read, but are not continued."""


@dataclass(frozen=True)
class State:
    """A trial's status word, the cause where it failed or is lost, and what it came to, nothing before that.

    `is_unreadable` is whether it is lost because a record of it cannot be used.
    """

    status: str
    cause: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict, compare=False)
    is_unreadable: bool = field(default=False, compare=False)

    @property
    def has_result(self) -> bool:
        return self.status in (FINISHED, DIVERGED)


@dataclass(frozen=True)
class Progress:
    """The last step that a running trial wrote down, with its rate and loss; `started` and `time` in seconds."""

    step: int
    total_steps: int
    lr: float
    loss: float
    started: float
    first_step: int
    time: float

    @property
    def seconds_left(self) -> float | None:
        """The time left at the attempt's pace so far; None before there is one."""
        done, spent = self.step + 1 - self.first_step, self.time - self.started
        return spent / done * (self.total_steps - self.step - 1) if done > 0 and spent > 0 else None


def state(trial: TrialFolder) -> State:
    """The trial's state: its result first, then whether it is at work or cancelled, then its job, then its last end.

    A trial of which a record cannot be used has no result: it is lost, and the cause names the file.
    """
    try:
        return _state(trial)
    except Damaged as error:
        return State(LOST, f"{error}: {error.remedy}", is_unreadable=True)
    except Unreadable as error:
        return State(LOST, str(error), is_unreadable=True)


def result_of(trial: TrialFolder) -> Mapping[str, Any]:
    """What the trial came to, empty before it has; raises Unreadable where what belongs to it is missing or damaged.

    Of the journal its first and its last step are looked at: a report reads what lies between.
    """
    if (result := trial.result()) is None:
        return {}
    end = journal.end_of_attempt(trial.journal, result["attempt"])
    if end is None:
        raise Damaged(f"the journal in {trial.journal} is damaged: attempt {result['attempt']} is missing or empty")
    if end < result["steps"]:
        raise Damaged(f"the journal in {trial.journal} is damaged: it ends at step {end} of {result['steps']}")
    if trial.resolved() is None:
        raise Damaged(f"{trial.path / 'resolved.json'} is missing, which tells the rate and the code of the result")
    trial.check_config()
    return result


def unusable(trial: TrialFolder) -> Unreadable | None:
    """Why nothing may be reused or continued of what a trial's earlier attempts left; None where it may."""
    try:
        for read in (trial.check_config, trial.failure, trial.job):
            with suppress(Replaceable):
                read()
        formats = trial.formats() | {attempt.format for attempt in journal.attempts(trial.journal)}
        if 0 in formats:
            return Earlier(f"{trial.path} was recorded by an earlier version of the program")
        with suppress(Replaceable):
            result_of(trial)
    except Unreadable as error:
        return error
    return None


def _state(trial: TrialFolder) -> State:
    if result := result_of(trial):
        return State(result["status"], result["cause"], result)
    trial.resolved()
    if trial.path.exists():
        trial.check_config()
    if trial.is_locked():
        return State(RUNNING)
    # It may have ended between the two looks.
    if result := result_of(trial):
        return State(result["status"], result["cause"], result)
    if trial.is_cancelled():
        return State(CANCELLED)
    job = trial.job() or {}
    if job.get("status") in (QUEUED, RUNNING):
        return State(job["status"], job.get("cause"))
    if failure := trial.failure():
        return State(FAILED, failure["cause"])
    attempts = journal.attempts(trial.journal)
    if job.get("status") == LOST:
        return State(LOST, job["cause"])
    if not attempts or attempts[-1].end == STOPPED or job.get("again"):
        return State(WAITING, job.get("cause"))
    if attempts[-1].end == FAILED:
        return State(FAILED, attempts[-1].cause)
    return State(LOST, f"attempt {attempts[-1].number} on {attempts[-1].host} left no result and no reason")


def progress(trial: TrialFolder) -> Progress | None:
    """Where a running trial stands; None before its first block of steps, and where that cannot be read."""
    try:
        resolved = trial.resolved()
        block, head = journal.latest_block(trial.journal), journal.latest_attempt(trial.journal)
    except Unreadable:
        return None
    if not resolved or not block or not head:
        return None
    losses = block.metrics[journal.TRAIN_LOSS]
    return Progress(
        step=block.step + len(losses) - 1,
        total_steps=resolved["total_steps"],
        lr=block.metrics[journal.LR][-1],
        loss=losses[-1],
        started=head.time,
        first_step=head.start,
        time=block.time,
    )
