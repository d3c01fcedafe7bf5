"""A sweep as arrays that wait for each other: range tests, the trainings at their rates, the report."""

import time
from collections.abc import Iterator, Sequence

from onecycle_sweeps.launch.slurm import cluster, records, request, standings
from onecycle_sweeps.launch.slurm.cluster import Refused
from onecycle_sweeps.launch.slurm.records import Submission
from onecycle_sweeps.launch.slurm.request import Settings
from onecycle_sweeps.launch.slurm.submission import submit
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep

IN_FLIGHT_PAUSE = 1.0


def submit_all(sweep: Sweep, trials: Sequence[Entry], settings: Settings) -> Iterator[Submission]:
    """Submit the trials that have no job, each once, and a last job for the report; yields what was submitted.

    Raises Refused with sbatch's words; what was submitted before stays, and the same command submits the rest.
    """
    standings.refresh(sweep)
    while any(one.submission.is_in_flight for one in standings.opened(sweep)):
        time.sleep(IN_FLIGHT_PAUSE)
        standings.refresh(sweep)
    since = time.time()
    own = {entry.signature for entry in trials}
    having = {one.trial.signature: one for one in standings.opened(sweep)}
    todo = [entry for entry in trials if entry.signature not in having]
    tests = [entry for entry in todo if entry.kind == RANGE_TEST]
    # A range test that an earlier command submitted is waited for as well.
    numbers = {s: one.submission.array for s, one in having.items() if one.submission.array}
    for made in _arrays(sweep, tests, settings, since, ()):
        numbers |= dict.fromkeys(made.trials, made.array)
        yield made
    trainings = [entry for entry in todo if entry.kind != RANGE_TEST]
    waits = [entry for entry in trainings if entry.needs in numbers]
    after = sorted({str(numbers[entry.needs]) for entry in waits if entry.needs})
    for some, arrays in ((waits, after), ([entry for entry in trainings if entry not in waits], ())):
        for made in _arrays(sweep, some, settings, since, arrays):
            numbers |= dict.fromkeys(made.trials, made.array)
            yield made
    if todo:
        last = sorted({str(number) for signature, number in numbers.items() if signature in own})
        yield submit(sweep, (), request.light(settings), since, last)


def submit_again(sweep: Sweep, trials: Sequence[Entry]) -> Iterator[Submission]:
    """Submit trials whose jobs ended for no fault of theirs, as they were asked for; raises Refused."""
    asked: dict[tuple[str, float], list[Entry]] = {}
    settings: dict[str, Settings] = {}
    for entry in trials:
        told = sweep.trial(entry.signature).job() or {}
        if before := records.load(sweep.runs_dir / told["submission"]):
            settings[str(before.settings)] = before.settings
            asked.setdefault((str(before.settings), before.since), []).append(entry)
    for (which, since), entries in asked.items():
        yield from _arrays(sweep, entries, settings[which], since, ())


def _arrays(
    sweep: Sweep, trials: Sequence[Entry], settings: Settings, since: float, after: Sequence[str]
) -> Iterator[Submission]:
    """Submit trials in arrays as large as the cluster takes."""
    size = cluster.patiently(cluster.largest_array) if trials else 1
    for start in range(0, len(trials), size):
        signatures = [entry.signature for entry in trials[start : start + size]]
        yield submit(sweep, signatures, settings, since, after)


def cancel(sweep: Sweep) -> list[str]:
    """Cancel the jobs of a sweep; returns a line for what could not be done."""
    standings.refresh(sweep)
    numbers = [one.array for one in records.all_of(sweep) if one.array and not one.trials]
    jobs = [f"{one.submission.array}_{one.told['index']}" for one in standings.opened(sweep) if one.submission.array]
    try:
        cluster.cancel([*jobs, *numbers])
    except Refused as error:
        return [f"scancel: {error}"]
    return []
