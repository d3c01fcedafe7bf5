"""A dry run: prints the trials of a sweep, the sbatch file of each job array, and an estimate of the time they take."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onecycle_sweeps import sweep
from onecycle_sweeps.launching import estimate
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.session import Session
from onecycle_sweeps.launching.slurm import client, jobs, sbatch, submissions
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.launching.slurm.options import Settings, gpus_requested
from onecycle_sweeps.launching.slurm.submissions import JobArray
from onecycle_sweeps.planning import Request, Trial
from onecycle_sweeps.sweep import PROBE, RANGE_TEST, TRAIN, Sweep
from onecycle_sweeps.terminal import say
from onecycle_sweeps.trial_folder import QUEUED, RUNNING, WAITING

# SLURM's default, for a machine on which SLURM does not answer.
LARGEST_ARRAY = 1001


def show(requests: Sequence[Request], settings: Settings, preflight: Preflight) -> None:
    """Print what would be submitted; leaves nothing on disk but decoded data.

    Raises ConfigError if one of the trials cannot run.
    """
    session = Session(requests[0].config, preflight, cpus_elsewhere=settings["cpus_per_task"], ships=False)
    planned = session.plan(requests)
    entries = sweep.entries(planned)
    whole = replace(session.sweep, id=sweep.identity(entry.signature for entry in entries), trials=entries)
    trials = {one.signature: one for trial in planned for one in trial.chain}
    statuses = {entry.signature: _status(whole, trials[entry.signature]) for entry in entries}
    todo = [entry for entry in entries if statuses[entry.signature] == WAITING]
    queued = {signature for signature, status in statuses.items() if status in (QUEUED, RUNNING)}
    for line in session.remarks(planned, entries):
        say(line)
    say(f"sweep {whole.id}: {len(entries)} trials, {len(todo)} of them to be submitted")
    for entry in entries:
        status = statuses[entry.signature]
        shown = f"already {status}" if entry.signature in queued else status
        say(f"  {shown:<16}{entry.signature}  {entry.name(whole.trial(entry.signature).max_lr())}")
    unfinished = [entry for entry in entries if entry in todo or entry.signature in queued]
    kinds = {entry.signature: entry.kind for entry in entries}
    ids = {job.trial.signature: job.id for job in jobs.open_jobs(whole)}
    arrays = submissions.job_arrays(unfinished, queued, settings, _largest_array(), report=True)
    for number, array in enumerate(arrays, 1):
        text = sbatch.text(whole, array, f"onecycle-{whole.id}-{number}", submissions.dependencies(array.after, ids))
        say(f"\n--- {_heading(array, kinds)}\n{text.rstrip()}")
        # In place of the number, which only a submission gives.
        ids |= array.ids(f"ARRAY{number}")
    say(f"\nestimate: {_estimate(whole.runs_dir, [trials[entry.signature] for entry in todo], settings)}")
    say("nothing was submitted: hydra.launcher.dry_run=true")


def _status(whole: Sweep, trial: Trial) -> str:
    """The status of a trial with a result or, as far as is known, a job; WAITING for any other."""
    folder = whole.trial(trial.signature)
    status = folder.state().status
    if folder.is_done(trial.config) and not trial.request.config["rerun"]:
        return status
    return status if status in (QUEUED, RUNNING) else WAITING


def _heading(array: JobArray, kinds: Mapping[str, str]) -> str:
    if not array.trials:
        return "the report, after all trials"
    kind = {TRAIN: "training", RANGE_TEST: "range test", PROBE: "probe"}[kinds[array.trials[0]]]
    return f"array of {len(array.trials)} {kind}{'s' if len(array.trials) > 1 else ''}"


def _largest_array() -> int:
    try:
        return client.largest_array()
    except SlurmError:
        return LARGEST_ARRAY


def _estimate(runs_dir: Path, trials: Sequence[Trial], settings: Settings) -> str:
    """How many CPU-hours or GPU-hours the trials take, and what the estimate is based on."""
    if not trials:
        return "no trial is left to run"
    gpus = gpus_requested(settings)
    each, unit = (gpus, "GPU-hours") if gpus else (settings["cpus_per_task"], "CPU-hours")
    try:
        spent, source = estimate.hours([one.config for one in trials], runs_dir, "cuda" if gpus else "cpu")
    except estimate.NoEstimate as error:
        return f"none, since {error}"
    most, count = max(spent), len(trials)
    total = f"about {_rounded(each * sum(spent))} {unit} ({_rounded(most)} h each at most)"
    note = "; the longest is resumed after each time limit" if 60 * most > settings["timeout_min"] else ""
    return f"{count} trial{'s' if count > 1 else ''}, {total}, from {source}{note}"


def _rounded(number: float) -> str:
    """A number with two significant digits, never as a power of ten."""
    return f"{float(f'{number:.2g}'):f}".rstrip("0").rstrip(".") if number < 100 else f"{number:.0f}"
