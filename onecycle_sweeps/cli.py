"""The verbs: what a user does with sweeps that were started before."""

import difflib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from onecycle_sweeps import arguments, mistakes, report, settings, sweep, tracking, typed
from onecycle_sweeps.arguments import is_verb
from onecycle_sweeps.checks import ConfigError
from onecycle_sweeps.folder import check_mine
from onecycle_sweeps.launch import conclusion, ui_server
from onecycle_sweeps.launch.display import Display
from onecycle_sweeps.launch.slurm import standings
from onecycle_sweeps.launch.slurm.cluster import Refused
from onecycle_sweeps.plan import Request
from onecycle_sweeps.state import Earlier, state, unusable
from onecycle_sweeps.sweep import Sweep

# What a verb may be given beside its sweep and overrides.
FLAGS = {"status": "--watch", "doctor": "--probe"}
DOCTOR = "doctor"
MISTAKE = 2


def main(argv: list[str]) -> int:
    """Carry out `VERB [SWEEP] [overrides]`; returns the exit status, 2 for a mistake in what was asked."""
    verb, *rest = argv
    if verb not in (*VERBS, DOCTOR):
        near = difflib.get_close_matches(verb, known := (*VERBS, DOCTOR), 1)
        meant = f"did you mean {near[0]}? The" if near else "the"
        return _mistake(
            f"unknown verb {verb!r}; {meant} verbs are {', '.join(known)}. Overrides look like policy=onecycle"
        )
    if "--help" in rest or "-h" in rest:
        takes, does = ("[--probe]", doctor) if verb == DOCTOR else ("[SWEEP]", VERBS[verb])
        print(f"python -m onecycle_sweeps {verb} {takes} [overrides]: {does.__doc__}")
        return 0
    flagged = FLAGS.get(verb) in rest
    try:
        asked = typed.options([argument for argument in rest if argument != FLAGS.get(verb)])
        names = [argument for argument in asked.overrides if is_verb(argument)]
        if len(names) > (most := 0 if verb == DOCTOR else 1):
            return _mistake(f"{verb} takes {'one' if most else 'no'} sweep, got {len(names)}: {' '.join(names)}")
        overrides = asked.overrides = [argument for argument in asked.overrides if argument not in names]
        with mistakes.told_in_a_line():
            # A verb may be given what a sweep is given.
            config, requests = typed.composed(asked, jobs=verb == DOCTOR)
        settings.plain(config)
        if verb == DOCTOR:
            return doctor(config, requests, probing=flagged)
        uri = tracking.absolute_uri(config.tracking.uri, Path.cwd())
        if verb == "ui" and not names:
            return ui_server.become(uri)
        which = _found(config, uri, overrides, names)
        return watch(which) if flagged else VERBS[verb](which)
    except ConfigError as error:
        return conclusion.refuse(error)
    except (LookupError, ValueError, OSError, Refused, tracking.StoreUnreachable) as error:
        return _mistake(str(error).splitlines()[0])


def doctor(config: DictConfig, requests: Sequence[Request], *, probing: bool) -> int:
    """What would fail later, a line for each thing that a sweep needs; with --probe a short job looks from a node."""
    from onecycle_sweeps.launch import doctor as checks

    return checks.examine(requests, settings.launcher(config), probing=probing)


def status(which: Sweep) -> int:
    """How each trial of the sweep stands; with --watch until all have ended."""
    _ask_the_cluster(which)
    _name_earlier(which)
    report.show_status(which, Console(highlight=False))
    return 0


def watch(which: Sweep) -> int:
    """How the trials of the sweep come along, until all have ended; jobs that a limit ended are submitted again."""
    from onecycle_sweeps.launch.slurm import watching

    _ask_the_cluster(which)
    trials = [entry for entry in which.trials if not state(which.trial(entry.signature)).has_result]
    with Display(which, len(trials)) as display:
        for event in watching.watch(which, trials):
            display.show(event)
    return status(which)


def cancel(which: Sweep) -> int:
    """End the sweep's trials that have not ended: those at work save first. The recorded command goes on with them."""
    from onecycle_sweeps.launch.slurm import chain

    trials = [which.trial(entry.signature) for entry in which.trials]
    _name_lost(which)
    for trial in (open_trials := [trial for trial in trials if not state(trial).has_result]):
        trial.write("cancel", {"time": time.time()})
    for line in (remarks := chain.cancel(which)):
        conclusion.complain(f"onecycle_sweeps: {line}: each job ends by itself once it sees that it is cancelled")
    conclusion.say(f"{len(open_trials)} of {len(trials)} trials are cancelled; resume {which.id} goes on with them")
    return conclusion.FAILURE if remarks else 0


def write_report(which: Sweep) -> int:
    """The comparison again, with its figures, from what has finished so far."""
    _ask_the_cluster(which)
    _name_earlier(which)
    outcomes = report.read(which)
    comparison = report.compare(which, outcomes)
    page, *others = report.write(which, outcomes, comparison)
    report.show(comparison, Console(highlight=False))
    conclusion.say(f"report: {page}, and {len(others)} files beside it")
    return 0


def sync(which: Sweep) -> int:
    """Bring MLflow up to date with the sweep's journals."""
    _ask_the_cluster(which)
    _name_earlier(which)
    _name_lost(which)
    if not tracking.is_current(which):
        outcomes = report.read(which)
        comparison = report.compare(which, outcomes)
        files = report.write(which, outcomes, comparison)
        if undelivered := tracking.deliver(which, files, report.markdown(comparison)):
            return _mistake(undelivered)
    conclusion.say(f"sweep {which.id} is in MLflow: {tracking.overlay_link(which)}")
    return 0


def resume(which: Sweep) -> int:
    """The recorded command again: what has finished is kept, the rest goes on from where it stands."""
    check_mine(which.folder / "sweep.json")
    os.chdir(which.cwd)
    os.execv(sys.executable, [sys.executable, "-m", "onecycle_sweeps", *which.command])


def ui(which: Sweep) -> int:
    """MLflow's own UI on the sweep's store, or on that of tracking.uri, on this machine alone; ends with Ctrl-C."""
    return ui_server.become(which.tracking_uri, which)


def _found(config: DictConfig, uri: str, overrides: list[str], names: list[str]) -> Sweep:
    """The sweep that is meant, with the tracker that was typed; raises LookupError."""
    which = sweep.find(Path(config.runs_dir).absolute(), names[0] if names else None, _passed_over)
    arguments.add_code(which.command, Path(which.cwd))
    keys = {override.partition("=")[0] for override in overrides}
    if "tracking.uri" in keys:
        which = replace(which, tracking_uri=uri)
    if "tracking.experiment" in keys:
        which = replace(which, experiment=config.tracking.experiment)
    return which


def _passed_over(line: str) -> None:
    conclusion.complain(f"onecycle_sweeps: {line}; the latest of the others is taken")


def _name_earlier(which: Sweep) -> None:
    """Say of how many trials the records are of an earlier version, which are read but not continued."""
    found = [entry for entry in which.trials if isinstance(unusable(which.trial(entry.signature)), Earlier)]
    if found:
        conclusion.complain(
            f"onecycle_sweeps: {len(found)} of {len(which.trials)} trials were recorded by an earlier version of the "
            "program: they are shown as they are, and the sweep's command trains them again"
        )


def _name_lost(which: Sweep) -> None:
    """Say of which trials a record cannot be used, a line for each."""
    for entry in which.trials:
        stands = state(which.trial(entry.signature))
        if stands.is_unreadable:
            conclusion.complain(f"onecycle_sweeps: {stands.cause}")


def _ask_the_cluster(which: Sweep) -> None:
    """Learn how the sweep's jobs stand, if it has any; what cannot be asked is said, and the folders speak alone."""
    for line in standings.refresh(which):
        conclusion.complain(f"onecycle_sweeps: {line}; jobs stand as they were seen last")


VERBS: dict[str, Callable[[Sweep], int]] = {
    "status": status,
    "cancel": cancel,
    "report": write_report,
    "sync": sync,
    "resume": resume,
    "ui": ui,
}


def _mistake(line: str) -> int:
    conclusion.complain(f"onecycle_sweeps: {line}")
    return MISTAKE
