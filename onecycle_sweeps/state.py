"""How a trial stands, decided from its own records."""

from dataclasses import dataclass

from onecycle_sweeps import journal
from onecycle_sweeps.folder import TrialFolder

WAITING, QUEUED, RUNNING, FINISHED = "waiting", "queued", "running", "finished"
DIVERGED, FAILED, CANCELLED, LOST = "diverged", "failed", "cancelled", "lost"
STOPPED = "stopped"
ENDED = (FINISHED, DIVERGED, FAILED, CANCELLED, LOST)


@dataclass(frozen=True)
class State:
    """A trial's status word, and the cause where it failed or is lost."""

    status: str
    cause: str | None = None


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
    """The trial's state: its result first, then whether it is at work or cancelled, then its job, then its last end."""
    if result := trial.result():
        return State(result["status"], result.get("cause"))
    if trial.is_locked():
        return State(RUNNING)
    # It may have ended between the two looks.
    if result := trial.result():
        return State(result["status"], result.get("cause"))
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
    """Where a running trial stands; None before its first block of steps."""
    resolved, block, head = trial.resolved(), journal.latest(trial.journal), journal.newest_head(trial.journal)
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
