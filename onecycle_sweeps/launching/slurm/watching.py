"""A sweep's jobs from their submission to their end, for as long as somebody watches."""

import time
from collections.abc import Generator, Sequence

from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.launching.slurm import chain, cluster, records, standings
from onecycle_sweeps.launching.slurm.cluster import Refused
from onecycle_sweeps.launching.slurm.request import Settings
from onecycle_sweeps.sweep import Entry, Sweep
from onecycle_sweeps.trial_folder import ENDED, QUEUED, RUNNING, WAITING

TICK_SECONDS = 0.5
# SLURM is asked more seldom the longer a sweep lasts.
LOOK_SECONDS, LOOK_SECONDS_MOST, LOOK_SHARE = 3.0, 30.0, 0.01


def run(settings: Settings, sweep: Sweep, trials: Sequence[Entry], *, report: bool) -> Generator[Event]:
    """Submit the trials and, if the settings say so, watch them to their end; leaving the iteration leaves the jobs.

    Raises Refused with sbatch's words.
    """
    for line in chain.submit_all(sweep, trials, settings, report=report):
        yield Event(news=line)
    if settings["wait"]:
        yield from watch(sweep, trials)


def watch(sweep: Sweep, trials: Sequence[Entry]) -> Generator[Event]:
    """Yield what becomes of trials, until all have ended or nobody works on those that are left.

    A trial whose job was ended by a limit, a preemption or its node is submitted again.
    """
    told: dict[str, str] = {}
    began, looked, remarks = time.monotonic(), -LOOK_SECONDS_MOST, []
    while open_trials := [entry for entry in trials if told.get(entry.signature) not in ENDED]:
        now = time.monotonic()
        at_work = [entry for entry in open_trials if told.get(entry.signature) == RUNNING]
        if now - looked >= min(LOOK_SECONDS_MOST, max(LOOK_SECONDS, LOOK_SHARE * (now - began))):
            found = _look(sweep, open_trials)
            yield from (Event(news=line) for line in found if line not in remarks)
            looked, remarks, at_work = now, found, open_trials
        for entry in at_work:
            stands = sweep.trial(entry.signature).state()
            if told.get(entry.signature) != stands.status:
                told[entry.signature] = stands.status
                yield Event(entry, stands.status, stands.cause)
        if not any(told.get(e.signature) in (*ENDED, QUEUED, RUNNING) or _may_go_on(sweep, e) for e in open_trials):
            return
        yield Event()
        time.sleep(TICK_SECONDS)


def _may_go_on(sweep: Sweep, entry: Entry) -> bool:
    return bool(sweep.trial(entry.signature).last_job().get("again"))


def _look(sweep: Sweep, trials: Sequence[Entry]) -> list[str]:
    """Learn how jobs stand and submit what may go on; returns a line for each submission and for what hinders.

    Raises Refused where the cluster does not take a trial any more.
    """
    with records.alone(sweep, waiting=False) as free:
        if not free:
            return []
        remarks = standings.update(sweep)
        left = [e for e in trials if _may_go_on(sweep, e) and sweep.trial(e.signature).state().status == WAITING]
        try:
            return [*remarks, *chain.submit_again(sweep, left)]
        except Refused as error:
            if not cluster.is_away(error):
                raise
            return [*remarks, f"sbatch: {error}"]
