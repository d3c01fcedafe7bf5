"""The verbs: what a user can do with a recorded sweep, and the doctor."""

import argparse
import difflib
import os
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from onecycle_sweeps import (
    command_line,
    composing,
    differences,
    hydra_internals,
    mistakes,
    other_runs,
    report,
    sweep,
    tracking,
    usage,
)
from onecycle_sweeps.command_line import is_verb
from onecycle_sweeps.config import paths
from onecycle_sweeps.config.schema import GLOBAL_GROUPS, Config, ConfigError
from onecycle_sweeps.files import Damaged
from onecycle_sweeps.launching import commands
from onecycle_sweeps.launching.display import Display
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.launching.slurm import jobs
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.planning import Request
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.terminal import FAILURE, MISTAKE, complain, refuse, say
from onecycle_sweeps.trial_folder import check_owner, is_own

# How many characters of an error are shown.
ERROR_WIDTH = 160
# The keys that `resume` accepts for its sweep's launcher, and those that every verb accepts.
LAUNCHER = ("hydra/launcher", "hydra.launcher")
LOCATIONS = ("runs_dir", "tracking.uri", "tracking.experiment")


def main(argv: list[str]) -> int:
    """Carry out `VERB [SWEEP] [overrides]`; returns the exit status, 2 for a mistake in what was typed."""
    verb, *rest = argv
    if verb == command_line.HELP:
        verb, rest = rest[0], ["--help"]
    if verb == COMPARE:
        try:
            return other_runs.main(rest)
        except (ValueError, OSError, tracking.StoreUnreachable) as error:
            return _mistake(str(error).splitlines()[0])
    if (parser := _parsers().get(verb)) is None:
        near = difflib.get_close_matches(verb, known := [*_descriptions()], 1)
        hint = f"did you mean {near[0]}? The" if near else "the"
        return _mistake(
            f"unknown verb {verb!r}; {hint} verbs are {', '.join(known)}. Overrides look like policy=onecycle"
        )
    if "--help" in rest or "-h" in rest:
        print(usage.verb(verb, _descriptions()[verb], FLAGS.get(verb), takes_sweep=verb not in WITHOUT_SWEEP))
        return 0
    try:
        return _carry_out(verb, composing.options(rest, parser))
    except ConfigError as error:
        return refuse(error)
    except (LookupError, ValueError, OSError, SlurmError, tracking.StoreUnreachable) as error:
        return _mistake(str(error).splitlines()[0])


def show_help(argv: Sequence[str]) -> int:
    """Print the program's help."""
    print(usage.program(_descriptions(), argv))
    return 0


def _descriptions() -> dict[str, str]:
    own = {LIST: list_sweeps, **VERBS, DOCTOR: doctor, COMPARE: other_runs.main}
    return {verb: function.__doc__ or "" for verb, function in own.items()}


def _parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each verb's arguments: Hydra's options, the sweep's name and the overrides, and the verb's flag."""
    verbs = argparse.ArgumentParser(add_help=False).add_subparsers()
    for verb in _descriptions():
        common = hydra_internals.option_parser()
        # No abbreviations: --p must not submit a job as --probe does.
        parser = verbs.add_parser(verb, parents=[common], add_help=False, allow_abbrev=False)
        if flag := FLAGS.get(verb):
            parser.add_argument(flag, dest="flag", action="store_true")
        parser.set_defaults(flag=False)
    return verbs.choices


def _carry_out(verb: str, asked: argparse.Namespace) -> int:
    names = [argument for argument in asked.overrides if is_verb(argument) or sweep.is_folder(argument)]
    if len(names) > (most := 0 if verb in WITHOUT_SWEEP else 1):
        return _mistake(f"{verb} takes {'one' if most else 'no'} sweep, got {len(names)}: {' '.join(names)}")
    overrides = [argument for argument in asked.overrides if argument not in names]
    # These change the launcher that the sweep has recorded.
    of_launcher = [one for one in overrides if verb == RESUME and _key(one).startswith(LAUNCHER)]
    asked.overrides = [one for one in overrides if one not in of_launcher]
    with mistakes.as_config_errors():
        whole, requests = composing.composed(asked, jobs=verb == DOCTOR)
    config = composing.plain(whole)
    if verb == DOCTOR:
        return doctor(whole, requests, probing=asked.flag)
    _check_overrides(verb, asked.overrides)
    if verb == LIST:
        return list_sweeps(Path(config["runs_dir"]))
    if verb == UI and not names and _needs_no_sweep(config, overrides):
        tracking.check_uri(config["tracking"]["uri"])
        return commands.become_ui(config["tracking"]["uri"])
    which = _found(config, overrides, names, writes=verb in (SYNC, UI, RESUME))
    if verb == RESUME:
        return resume(which, of_launcher)
    return watch(which) if asked.flag else VERBS[verb](which)


def doctor(config: DictConfig, requests: Sequence[Request], *, probing: bool) -> int:
    """Check each thing that a sweep needs, a line for each; with --probe a short job checks a node as well."""
    from onecycle_sweeps.launching import doctor as checks

    return checks.examine(requests, composing.launcher(config), with_job=probing)


def list_sweeps(runs_dir: Path) -> int:
    """List the sweeps in runs_dir, the latest first: what they compare, how their trials stand, and what is best."""
    found = list(sweep.find_all(runs_dir, complain))
    report.show_list(found, Console(highlight=False))
    if not found:
        say(f"there is no sweep in {runs_dir / 'sweeps'}; runs_dir=... looks elsewhere")
    return 0


def status(which: Sweep) -> int:
    """Show the status of each trial of the sweep; with --watch until all have ended."""
    _refresh_jobs(which)
    _report_earlier(which)
    report.show_status(which, Console(highlight=False))
    if is_own(which.folder) and not jobs.goes_on_alone(which, least=1):
        complain(
            "trials wait for room among your jobs, and no job of the sweep is left to submit them: run status --watch"
        )
    return 0


def watch(which: Sweep) -> int:
    """Show the progress of the trials until all have ended; resubmit jobs that a time limit ended."""
    from onecycle_sweeps.launching.slurm import watch as slurm_watch

    _refresh_jobs(which)
    trials = [entry for entry in which.trials if not which.trial(entry.signature).state().has_result]
    with Display(which, trials) as display:
        for event in slurm_watch.watch(which, trials):
            display.show(event)
        for line in slurm_watch.submit_report(which):
            display.show(Event(news=line))
    return status(which)


def cancel(which: Sweep) -> int:
    """Cancel the trials that have not ended; running ones save a checkpoint first. `resume` continues them."""
    from onecycle_sweeps.launching.slurm import watch as slurm_watch

    trials = [which.trial(entry.signature) for entry in which.trials]
    _report_unreadable(which)
    for trial in (open_trials := [trial for trial in trials if not trial.state().has_result]):
        trial.write("cancel", {"time": time.time()})
    for line in (remarks := slurm_watch.cancel(which)):
        complain(f"{line}: each job ends by itself once it sees that it is cancelled")
    if open_trials:
        say(f"{len(open_trials)} of {len(trials)} trials are cancelled; resume {which.id} continues them")
    else:
        say(f"nothing to cancel: all trials of sweep {which.id} have ended")
    return FAILURE if remarks else 0


def write_report(which: Sweep) -> int:
    """Write the report and its figures from what has finished so far."""
    _refresh_jobs(which)
    _report_earlier(which)
    comparison = report.compare(which)
    # Another user's sweep can be read where its report cannot be written.
    report.show(comparison, Console(highlight=False))
    page, *others = report.write(comparison)
    say(f"report (with {len(others)} files beside it): {page}")
    return 0


def sync(which: Sweep) -> int:
    """Bring MLflow up to date with the sweep's journals."""
    _refresh_jobs(which)
    _report_earlier(which)
    _report_unreadable(which)
    if not tracking.is_current(which):
        comparison = report.compare(which)
        files = report.write(comparison)
        if undelivered := tracking.deliver(which, files, report.markdown(comparison), comparison.findings):
            return _mistake(undelivered)
    say(f"sweep {which.id} is in MLflow: {tracking.overlay_link(which)}")
    return 0


def resume(which: Sweep, of_launcher: Sequence[str] = ()) -> int:
    """Run the unfinished trials of the sweep from the configs that it recorded; what has finished is kept."""
    check_owner(which.folder / "sweep.json")
    for entry in which.trials:
        try:
            which.trial(entry.signature).check_config()
        except Damaged as error:
            raise LookupError(f"{error}, and its trial cannot be resumed without it: {error.remedy}") from error
    typed_in = Path.cwd()
    _enter(which)
    launcher = which.launcher
    try:
        config, requests = composing.composed(composing.options(which.command), jobs=not which.single)
        if which.single:
            requests = [Request(composing.plain(config))]
        change = None if which.sequential else differences.difference(requests, which.configs())
        if launcher is None and not which.single:
            launcher = composing.launcher(config)
    except Exception as error:  # the sweep runs from its records even if its command can no longer be composed
        change = f"cannot be composed ({textwrap.shorten(str(error), ERROR_WIDTH)})"
    if change:
        complain(f"the command of sweep {which.id} {change}; the sweep continues as recorded")
    if which.sequential:
        complain(
            f"sweep {which.id} runs only the trials that its sweeper had requested; "
            "to search further, repeat its command, which starts another sweep"
        )
    return commands.resume(which, _launcher(launcher, of_launcher), typed_in)


def _enter(which: Sweep) -> None:
    """Change to the folder in which a sweep's command was typed; if it was moved with the sweep, to its new place."""
    folder = before = Path(which.cwd)
    trials = [which.trial(entry.signature) for entry in which.trials]
    if not before.is_dir():
        made_in = before / trials[0].config()["runs_dir"]
        above = len(made_in.relative_to(before).parts) if made_in.is_relative_to(before) else 0
        folder = which.runs_dir.parents[above - 1] if above else Path.cwd()
        for trial in trials:
            if (found := paths.moved(config := trial.config(), before, folder)) != config:
                trial.write_config(found)
    os.chdir(folder)
    command_line.add_code(which.command, folder)


def _launcher(recorded: Mapping[str, Any] | None, changes: Sequence[str]) -> dict[str, Any] | None:
    """The recorded keys of hydra.launcher, changed by the typed ones; None for a single trial, which has none."""
    if recorded is None:
        if changes:
            raise ValueError(
                f"{changes[0]} is for sweeps, and this is a single trial, which has no launcher: leave it out"
            )
        return None
    choice = "hydra/launcher"
    name = "slurm" if commands.is_slurm(recorded) else "local"
    with mistakes.as_config_errors():
        config, _ = composing.composed(composing.options([f"{choice}={name}", *changes]), jobs=False)
    asked = composing.launcher(config)
    if config.hydra.runtime.choices[choice] != name:
        return asked
    changed = {_key(override).removeprefix("hydra.launcher.").partition(".")[0] for override in changes}
    # A key that the launcher did not have when the sweep was recorded gets its default.
    return {**asked, **recorded, **{key: value for key, value in asked.items() if key in changed}}


def ui(which: Sweep) -> int:
    """Serve MLflow's UI of the sweep's store, or of tracking.uri, on this machine only, until Ctrl-C."""
    if not tracking.is_server(which.tracking_uri):
        try:
            tracking.make_view_again(which)
        except tracking.StoreUnreachable as error:
            complain(str(error))
    return commands.become_ui(which.tracking_uri, which)


def _key(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def _check_overrides(verb: str, overrides: Sequence[str]) -> None:
    """Raise ConfigError for an override that does not locate a sweep or its store."""
    for override in overrides:
        key = _key(override)
        if key not in (*LOCATIONS, "tracking", *GLOBAL_GROUPS, "hydra.searchpath"):
            launcher = " and hydra.launcher" if verb == RESUME else ""
            raise ConfigError(
                f"{verb} is about a recorded sweep, which {override} cannot change: leave it out, or start another "
                f"sweep with it; {verb} takes {', '.join(LOCATIONS)}{launcher}"
            )


def _found(config: Config, overrides: Sequence[str], names: Sequence[str], *, writes: bool) -> Sweep:
    """The sweep with this name, with the tracker that was typed; raises LookupError.

    `writes`: whether the verb writes to the sweep's store, which is then checked, because it may have been moved.
    """
    which = sweep.find(Path(config["runs_dir"]), names[0] if names else None, _warn_of_skipped)
    command_line.add_code(which.command, Path(which.cwd))
    keys = {_key(override) for override in overrides}
    if keys & {"tracking.uri", "tracking"}:
        tracking.check_uri(config["tracking"]["uri"])
        which = replace(which, tracking_uri=config["tracking"]["uri"])
    elif writes:
        tracking.check_store(which)
    if keys & {"tracking.experiment", "tracking"}:
        which = replace(which, experiment=config["tracking"]["experiment"])
    return which


def _needs_no_sweep(config: Config, overrides: Sequence[str]) -> bool:
    """Whether `ui` serves a store without a sweep: the store's URI was typed, or there is no sweep yet."""
    typed_store = {_key(override) for override in overrides} & {"tracking.uri", "tracking"}
    return bool(typed_store) or not any(Path(config["runs_dir"], "sweeps").glob("*/sweep.json"))


def _warn_of_skipped(line: str) -> None:
    complain(f"{line}; the latest of the others is used")


def _report_earlier(which: Sweep) -> None:
    """Report how many trials have records of an earlier version, which are shown but not continued."""
    found = [entry for entry in which.trials if which.trial(entry.signature).is_of_earlier_version()]
    if found:
        complain(
            f"{len(found)} of {len(which.trials)} trials were recorded by an earlier version of the "
            "program: they are shown as recorded, and the sweep's command trains them again"
        )


def _report_unreadable(which: Sweep) -> None:
    """Report each trial that has an unreadable record."""
    for entry in which.trials:
        state = which.trial(entry.signature).state()
        if state.is_unreadable:
            complain(str(state.cause))


def _refresh_jobs(which: Sweep) -> None:
    """Update the status of the sweep's jobs from the cluster; report each of SLURM's programs that fails."""
    for line in jobs.refresh(which):
        complain(f"{line}; their last known status is shown")


DOCTOR, LIST, SYNC, RESUME, UI, COMPARE = "doctor", "list", "sync", "resume", "ui", "compare"
WITHOUT_SWEEP = (DOCTOR, LIST)
VERBS: dict[str, Callable[[Sweep], int]] = {
    "status": status,
    "cancel": cancel,
    "report": write_report,
    SYNC: sync,
    RESUME: resume,
    UI: ui,
}
FLAGS = {"status": "--watch", DOCTOR: "--probe"}


def _mistake(line: str) -> int:
    complain(line)
    return MISTAKE
