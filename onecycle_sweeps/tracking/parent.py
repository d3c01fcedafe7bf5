"""What a sweep's parent run says, and the tags that all its runs share."""

import getpass
from collections.abc import Sequence

from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking.account import MLFLOW_STATUS, Standing
from onecycle_sweeps.tracking.values import TAG_LENGTH, as_tags, milliseconds, shortened


def ended(standings: Sequence[Standing]) -> int:
    """When the last of the trials came to its end, in ms."""
    return milliseconds(max((one.written or 0.0 for one in standings), default=0.0))


def status(standings: Sequence[Standing]) -> str:
    """A sweep's MLflow status: at work, or to be continued, or the worst that its trials came to."""
    found = {MLFLOW_STATUS[one.status] for one in standings}
    return next((word for word in ("RUNNING", "SCHEDULED", "FAILED", "KILLED") if word in found), "FINISHED")


def tags(sweep: Sweep) -> dict[str, str]:
    """The tags that all runs of a sweep share."""
    commit = sweep.git_commit or ""
    return as_tags(
        {
            "sweep": sweep.id,
            "git_commit": commit,
            "mlflow.source.git.commit": commit.removesuffix("-dirty"),
            "mlflow.source.name": "onecycle-sweeps",
            "mlflow.user": _user(),
        }
    )


def description(sweep: Sweep) -> str:
    """What stands on a sweep's page until its report does."""
    kinds = [entry.kind for entry in sweep.trials]
    counted = ", ".join(f"{kinds.count(kind)} x {kind.replace('_', ' ')}" for kind in dict.fromkeys(kinds))
    return shortened(f"{counted}\n\n```\n{' '.join(sweep.command)}\n```", TAG_LENGTH)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
