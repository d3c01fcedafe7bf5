"""A sweep as arrays that wait for each other: range tests, the trainings at their rates, the report."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from onecycle_sweeps.launching.slurm import cluster, records, request, standings
from onecycle_sweeps.launching.slurm.cluster import Refused
from onecycle_sweeps.launching.slurm.records import Submission
from onecycle_sweeps.launching.slurm.request import Settings
from onecycle_sweeps.launching.slurm.submission import submit
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep
from onecycle_sweeps.trial_folder import check_owner

IN_FLIGHT_PAUSE = 1.0


def submit_all(sweep: Sweep, trials: Sequence[Entry], settings: Settings, *, report: bool) -> Iterator[str]:
    """Submit the trials that have no job, each once, and if asked for a last job that writes the report.

    Yields a line for each submission. Raises Refused with sbatch's words; what was submitted before stays, and the same
    command submits the rest.
    """
    with records.alone(sweep, waiting=True):
        standings.update(sweep)
        while any(one.submission.is_in_flight for one in standings.opened(sweep)):
            time.sleep(IN_FLIGHT_PAUSE)
            standings.update(sweep)
        for entry in trials:
            # It may just have been found that an earlier job was cancelled: these are asked for again.
            sweep.trial(entry.signature).remove("cancel.json")
        since = time.time()
        numbers = {o.trial.signature: o.submission.array for o in standings.opened(sweep) if o.submission.array}
        todo = [entry for entry in trials if entry.signature not in numbers]
        for some, after in _in_order(todo, numbers):
            for made in _arrays(sweep, some, settings, since, after=after()):
                numbers |= dict.fromkeys(made.trials, made.array)
                yield _told(made)
        if todo and report:
            last = {str(numbers[entry.signature]) for entry in trials}
            yield _report(sweep, settings, since, sorted(last))


def _in_order(
    todo: Sequence[Entry], numbers: Mapping[str, str | None]
) -> Iterator[tuple[list[Entry], Callable[[], list[str]]]]:
    """Range tests, trainings that wait for a queued one, and the others; each with the arrays to wait for by then."""
    yield [entry for entry in todo if entry.kind == RANGE_TEST], list
    trainings = [entry for entry in todo if entry.kind != RANGE_TEST]
    waits = [entry for entry in trainings if entry.needs in numbers]
    yield waits, lambda: sorted({str(numbers[entry.needs]) for entry in waits if entry.needs})
    yield [entry for entry in trainings if entry.needs not in numbers], list


def _report(sweep: Sweep, settings: Settings, since: float, after: Sequence[str]) -> str:
    """Submit the job that writes the report; a cluster that does not want it is no reason to fail."""
    try:
        return _told(submit(sweep, (), request.light(settings), since, after))
    except Refused as error:
        return f"the report is left to the verb of that name, its job was refused: {error}"


def _told(made: Submission) -> str:
    count = len(made.trials)
    what = f"{count} {'trial' if count == 1 else 'trials'}" if count else "the report, at their end"
    return f"submitted job {made.array}: {what}"


def submit_again(sweep: Sweep, trials: Sequence[Entry]) -> Iterator[str]:
    """Submit trials whose jobs ended for no fault of theirs, as they were asked for; raises Refused.

    It is for a process that is alone with the jobs.
    """
    asked: dict[str, tuple[Submission, list[Entry]]] = {}
    for entry in trials:
        told = sweep.trial(entry.signature).last_job()
        path = sweep.runs_dir / told["submission"]
        try:
            # Its settings have shell lines.
            check_owner(path)
        except PermissionError as error:
            raise Refused(str(error)) from error
        if before := records.load(path):
            asked.setdefault(before.name, (before, []))[1].append(entry)
    for before, entries in asked.values():
        for made in _arrays(sweep, entries, before.settings, before.since, again=True):
            yield f"{_told(made)} again"


def _arrays(
    sweep: Sweep,
    trials: Sequence[Entry],
    settings: Settings,
    since: float,
    after: Sequence[str] = (),
    *,
    again: bool = False,
) -> Iterator[Submission]:
    """Submit trials in arrays as large as the cluster takes."""
    size = cluster.patiently(cluster.largest_array) if trials else 1
    for start in range(0, len(trials), size):
        signatures = [entry.signature for entry in trials[start : start + size]]
        yield submit(sweep, signatures, settings, since, after, again=again)


def cancel(sweep: Sweep) -> list[str]:
    """Cancel the jobs of a sweep; returns a line for what could not be done."""
    if not (made := records.all_of(sweep)) and not any(standings.opened(sweep)):
        return []
    with records.alone(sweep, waiting=True):
        standings.update(sweep)
        waiting = [one for one in standings.opened(sweep) if one.submission.array]
        reports = [one.array for one in made if one.array and not one.trials]
        try:
            cluster.cancel([*(one.job_id for one in waiting), *reports])
        except Refused as error:
            return [f"scancel: {error}"]
        for one in waiting:
            standings.end(one, "cancelled")
    return []
