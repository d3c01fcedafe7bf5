"""What a sweep would ask of a cluster: its trials, the text of each submission, and how long it would take."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onecycle_sweeps import sweep
from onecycle_sweeps.launching import conclusion, estimate
from onecycle_sweeps.launching.rehearsal import Rehearsals
from onecycle_sweeps.launching.session import Session
from onecycle_sweeps.launching.slurm import cluster, request
from onecycle_sweeps.launching.slurm.cluster import Refused
from onecycle_sweeps.launching.slurm.records import Submission
from onecycle_sweeps.launching.slurm.request import Settings
from onecycle_sweeps.launching.slurm.submission import prepared
from onecycle_sweeps.planning import Request, Trial
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep
from onecycle_sweeps.trial_folder import QUEUED, RUNNING, WAITING

# Where SLURM is not here to be asked, its own default.
LARGEST_ARRAY = 1001
# What stands for numbers that only a submission gives.
RANGE_TESTS, TRAININGS = "RANGE_TESTS", "TRAININGS"


def show(requests: Sequence[Request], settings: Settings, rehearsals: Rehearsals) -> None:
    """Print what a submission would do, and leave nothing behind but decoded data.

    Raises ConfigError if one of the trials cannot be done.
    """
    cpus = settings["cpus_per_task"]
    session = Session(requests[0].config, rehearsals, single=False, cpus_elsewhere=cpus, ships=False)
    asked = session.plan(requests)
    entries = sweep.entries(asked)
    whole = replace(session.sweep, id=sweep.identity(entry.signature for entry in entries), trials=entries)
    planned = {one.signature: one for trial in asked for one in (trial.range_test, trial) if one}
    stands = {entry.signature: _standing(whole, planned[entry.signature]) for entry in entries}
    todo = [entry for entry in entries if stands[entry.signature] == WAITING]
    for line in session.alike(asked, entries):
        conclusion.say(line)
    conclusion.say(f"sweep {whole.id}: {len(entries)} trials, {len(todo)} of them to be submitted")
    for entry in entries:
        name = entry.name(whole.trial(entry.signature).max_lr())
        conclusion.say(f"  {stands[entry.signature]:<16}{entry.signature}  {name}")
    for heading, text in _submissions(whole, todo, stands, settings):
        conclusion.say(f"\n--- {heading}\n{text.rstrip()}")
    conclusion.say(f"\nestimate: {_estimate(whole, [planned[entry.signature] for entry in todo], settings)}")
    conclusion.say("nothing was submitted: hydra.launcher.dry_run=true")


def _standing(whole: Sweep, trial: Trial) -> str:
    """Whether a trial has a result, or a job as far as was seen; everything else is submitted."""
    folder = whole.trial(trial.signature)
    status = folder.state().status
    if folder.is_done(trial.config) and not trial.request.config["rerun"]:
        return status
    return f"already {status}" if status in (QUEUED, RUNNING) else WAITING


def _submissions(
    whole: Sweep, todo: Sequence[Entry], stands: Mapping[str, str], settings: Settings
) -> Iterator[tuple[str, str]]:
    """What each submission is, and its sbatch text, in the order of `chain.submit_all`."""
    size, number = _largest_array(), 0
    tests = [entry for entry in todo if entry.kind == RANGE_TEST]
    trainings = [entry for entry in todo if entry.kind != RANGE_TEST]
    waits: list[Entry] = []
    rest: list[Entry] = []
    for entry in trainings:
        (waits if entry.needs and stands[entry.needs].startswith((WAITING, "already")) else rest).append(entry)
    for what, some, after in (("range test", tests, ()), ("training", waits, (RANGE_TESTS,)), ("training", rest, ())):
        for start in range(0, len(some), size):
            part, number = some[start : start + size], number + 1
            heading = f"array of {len(part)} {what}{'s' if len(part) > 1 else ''}"
            yield heading, _text(whole, number, part, settings, after)
    if todo:
        after = [name for name, some in ((RANGE_TESTS, tests), (TRAININGS, trainings)) if some]
        yield "the report, at their end", _text(whole, number + 1, (), request.light(settings), after)


def _text(whole: Sweep, number: int, part: Sequence[Entry], settings: Settings, after: Sequence[str]) -> str:
    name, now = f"onecycle-{whole.id}-{number}", time.time()
    made = Submission(name, tuple(entry.signature for entry in part), dict(settings), now, now)
    executor, command = prepared(whole, made, after)
    return executor.text(command)


def _largest_array() -> int:
    try:
        return cluster.largest_array()
    except Refused:
        return LARGEST_ARRAY


def _estimate(whole: Sweep, trials: Sequence[Trial], settings: Settings) -> str:
    """How many hours of what was asked for the trials take, and how that is known."""
    if not trials:
        return "no trial is left to run"
    gpus = gpus_asked(settings)
    each, unit = (gpus, "GPU-hours") if gpus else (settings["cpus_per_task"], "CPU-hours")
    try:
        spent, source = estimate.hours([one.config for one in trials], whole.runs_dir, "cuda" if gpus else "cpu")
    except estimate.NoEstimate as error:
        return f"none, since the first steps of a trial failed here: {error}"
    most, count = max(spent), len(trials)
    total = f"about {_rounded(each * sum(spent))} {unit} ({_rounded(most)} h each at most)"
    note = "; the longest is resumed after each time limit" if 60 * most > settings["timeout_min"] else ""
    return f"{count} trial{'s' if count > 1 else ''}, {total}, from {source}{note}"


def _rounded(number: float) -> str:
    """Two digits of a number, never as a power of ten."""
    return f"{float(f'{number:.2g}'):f}".rstrip("0").rstrip(".") if number < 100 else f"{number:.0f}"


def gpus_asked(settings: Settings) -> int:
    """How many GPUs a job is given: of `2`, or of `a100:2`."""
    count = str(settings["gpus_per_node"] or 0).rpartition(":")[2]
    return int(count) if re.fullmatch(r"\d+", count) else 1
