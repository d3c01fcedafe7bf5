"""How much of a command's trials is done, and how long the rest takes, by their numbers of steps and their pace."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onecycle_sweeps.config import schema
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.launching import estimate
from onecycle_sweeps.progress import Progress
from onecycle_sweeps.sweep import PROBE, RANGE_TEST, TRAIN, Entry, Sweep

# Trials that differ only in these have the same number of steps and the same pace.
ALIKE = ("seed", "max_lr", "max_lr_scale", "policy.max_lr")
MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True)
class Outlook:
    """The share of the work that is done; the seconds that are left, None while they cannot be told.

    `at_least` says that the trials may also have to wait for others, as jobs in a queue do.
    """

    share: float
    seconds: float | None
    at_least: bool = False

    @property
    def percent(self) -> int:
        """The share in whole per cent, rounded down; a rounding error of the share counts as done."""
        return int(100 * self.share + 1e-6)

    def in_words(self) -> str:
        """Both for people: `42 %, about 3 min left`."""
        left = "time left not known yet"
        if self.seconds is not None:
            left = f"{'at least' if self.at_least else 'about'} {duration(self.seconds)} left"
        return f"{self.percent} %, {left}"


@dataclass(frozen=True)
class Plan:
    """What trials of one kind have in common: what their pace depends on, and their steps as far as these are known.

    epochs: of a training; None if the number of steps does not depend on the data.
    fixed: the number of steps of a range test.
    share: the steps of a probe divided by the steps of a training; 1 for a training.
    """

    workload: str
    epochs: float | None = None
    fixed: int | None = None
    share: float = 1.0


class Forecast:
    """Follows the trials of a command: `begin`, `see` and `end` tell what becomes of them.

    places: how many trials run at once; None where that is not known, as on a cluster.
    """

    def __init__(self, sweep: Sweep, trials: Sequence[Entry]) -> None:
        self.sweep, self.trials = sweep, trials
        self.places: int | None = None
        self._running: dict[str, tuple[Entry, Progress | None]] = {}
        self._ended: set[str] = set()
        self._most_at_once = 1
        self._plans: dict[tuple[object, ...], Plan | None] = {}
        # The steps of each trial that has begun, and by workload the steps of an epoch and (seconds, steps) taken.
        self._steps: dict[str, int] = {}
        self._per_epoch: dict[str, float] = {}
        self._taken: dict[str, tuple[float, int]] = {}

    def begin(self, entry: Entry) -> None:
        """A trial runs."""
        self._running.setdefault(entry.signature, (entry, None))
        self._most_at_once = max(self._most_at_once, len(self._running))

    def see(self, entry: Entry, progress: Progress | None) -> None:
        """How far a running trial is."""
        self._running[entry.signature] = entry, progress
        self._learn(entry)

    def end(self, entry: Entry) -> None:
        """A trial has ended, whatever became of it."""
        self._running.pop(entry.signature, None)
        self._ended.add(entry.signature)
        self._learn(entry)
        result, plan = self.sweep.trial(entry.signature).state().result, self._plan(entry)
        if plan and (steps := result.get("steps")) and (spent := result.get("metrics", {}).get("seconds")):
            seconds, before = self._taken.get(plan.workload, (0.0, 0))
            self._taken[plan.workload] = (seconds + spent, before + steps)

    def outlook(self) -> Outlook:
        """How much is done, and how long the rest takes."""
        totals = {entry.signature: self._total(entry) for entry in self.trials}
        known = [steps for steps in totals.values() if steps is not None]
        if len(known) < len(totals) or not sum(known):
            return Outlook(len(self._ended) / max(1, len(self.trials)), None)
        left = {entry.signature: self._left(entry, totals[entry.signature] or 0) for entry in self.trials}
        share = 1 - sum(left.values()) / sum(known)
        paces = self._paces()
        seconds = [self._seconds(entry, left[entry.signature], paces) for entry in self.trials if left[entry.signature]]
        told = [one for one in seconds if one is not None]
        if len(told) < len(seconds):
            return Outlook(share, None)
        # However the trials are distributed over the places, they take at least this long, and the pool comes close to
        # it.
        places = self.places or self._most_at_once
        return Outlook(share, max(sum(told) / places, max(told, default=0.0)), self.places is None)

    def _total(self, entry: Entry) -> int | None:
        """The number of steps of a trial; None while it is not known."""
        if (steps := self._steps.get(entry.signature)) is not None:
            return steps
        if (plan := self._plan(entry)) is None:
            return None
        if plan.fixed is not None:
            return plan.fixed
        per_epoch = self._per_epoch.get(plan.workload)
        return None if per_epoch is None or plan.epochs is None else round(plan.share * plan.epochs * per_epoch)

    def _left(self, entry: Entry, total: int) -> int:
        if entry.signature in self._ended:
            return 0
        _, seen = self._running.get(entry.signature, (entry, None))
        return max(0, total - seen.step - 1) if seen else total

    def _seconds(self, entry: Entry, steps: int, paces: Mapping[str, float]) -> float | None:
        """How long this many steps of a trial take, at its own average pace or at that of trials like it."""
        _, seen = self._running.get(entry.signature, (entry, None))
        if seen and seen.seconds_left is not None:
            return seen.seconds_left
        plan = self._plan(entry)
        pace = paces.get(plan.workload) if plan else None
        return None if pace is None else steps * pace

    def _paces(self) -> dict[str, float]:
        """The seconds of a step by workload, on average over the trials that have ended and those that run."""
        taken = dict(self._taken)
        for entry, seen in self._running.values():
            plan = self._plan(entry)
            if seen and plan and seen.step >= seen.first_step:
                seconds, steps = taken.get(plan.workload, (0.0, 0))
                own = seen.time - seen.started, seen.step + 1 - seen.first_step
                taken[plan.workload] = seconds + own[0], steps + own[1]
        return {workload: seconds / steps for workload, (seconds, steps) in taken.items()}

    def _learn(self, entry: Entry) -> None:
        """Read what the first attempt of a trial fixed, once there is something to read."""
        if entry.signature in self._steps or (plan := self._plan(entry)) is None:
            return
        try:
            resolved = self.sweep.trial(entry.signature).resolved()
        except Unreadable:
            return
        if not resolved:
            return
        self._steps[entry.signature] = resolved["total_steps"]
        per_epoch = resolved.get("steps_per_epoch")
        if not per_epoch and entry.kind == TRAIN and plan.epochs:
            per_epoch = resolved["total_steps"] / plan.epochs
        if per_epoch:
            self._per_epoch.setdefault(plan.workload, per_epoch)

    def _plan(self, entry: Entry) -> Plan | None:
        """The plan of the trials like this one, whose configs are read once; None if the config is unreadable."""
        key = (entry.kind, *(item for item in entry.varies.items() if item[0] not in ALIKE))
        if key not in self._plans:
            try:
                self._plans[key] = _planned(entry.kind, self.sweep.trial(entry.signature).config())
            except (Unreadable, KeyError, TypeError):
                self._plans[key] = None
        return self._plans[key]


def _planned(kind: str, config: schema.Config) -> Plan:
    workload = f"{estimate.workload(config)} {config.get('accumulate')}"
    if kind == RANGE_TEST:
        return Plan(workload, fixed=schema.planned_steps(config))
    share = config["probe"]["share"] * config["probe"]["trainings"] if kind == PROBE else 1.0
    return Plan(workload, epochs=config["epochs"], share=share)


def duration(seconds: float) -> str:
    """A time for people: `12 s`, `3 min`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < MINUTE:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / MINUTE)
    if seconds < HOUR:
        return f"{minutes} min"
    if seconds < DAY:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
