"""What a policy planned for a trial, beside what its optimizer used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onecycle_sweeps.config import nodes
from onecycle_sweeps.outcome import Outcome, Series, Trajectory


@dataclass(frozen=True)
class Plan:
    """The trajectory that the trial's policy answers with, for all its steps; `off` says where what was used differs.

    `unknown` is why there is no plan: the policy cannot be built here.
    """

    planned: Trajectory = field(default_factory=Trajectory)
    off: str | None = None
    unknown: str | None = None


def plan(outcome: Outcome) -> Plan:
    """Build the trial's policy again from what its folder says, and ask it for each step."""
    try:
        planned = _planned(outcome.folder.config(), outcome.resolved, with_momentum=bool(outcome.used.momentum))
    except Exception as error:  # a user's own policy may raise anything, or not be installed here
        return Plan(unknown=f"{type(error).__name__}: {error}")
    off = _difference("lr", planned.lr, outcome.used.lr)
    return Plan(planned, off or _difference("momentum", planned.momentum, outcome.used.momentum))


def _planned(config: dict[str, Any], resolved: Mapping[str, Any], *, with_momentum: bool) -> Trajectory:
    per_epoch = resolved.get("steps_per_epoch") or resolved["total_steps"] // config["epochs"]
    with nodes.environment(config):
        policy = nodes.policy(config, resolved["max_lr"], per_epoch)
        steps = tuple(range(policy.total_steps))
        hypers = [policy(step) for step in steps]
    lr = Series(steps, tuple(hyper.lr for hyper in hypers))
    if not with_momentum:
        return Trajectory(lr)
    own = config["optimizer"]["momentum"]
    return Trajectory(lr, Series(steps, tuple(own if h.momentum is None else h.momentum for h in hypers)))


def _difference(name: str, planned: Series, used: Series) -> str | None:
    """The first of the steps taken at which the two are not the same number."""
    if used.steps != planned.steps[: len(used.steps)]:
        return f"{name} was not recorded at each step"
    for step, asked, was in zip(used.steps, planned.values, used.values, strict=False):
        if asked != was:
            return f"{name} at step {step} was {was:.6g}, planned {asked:.6g}"
    return None
