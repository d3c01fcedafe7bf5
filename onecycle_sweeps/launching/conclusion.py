"""The end of a command: the report is written, published and printed, every failure listed, and where to look."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

from onecycle_sweeps import report, tracking
from onecycle_sweeps.config import paths
from onecycle_sweeps.launching.session import Session
from onecycle_sweeps.planning import outdated
from onecycle_sweeps.sweep import RANGE_TEST, Sweep
from onecycle_sweeps.terminal import invocation, wants_tracebacks, with_traceback

FAILURE, MISTAKE = 1, 2


def conclude(session: Session) -> int:
    """Write, publish and print the comparison; returns the exit status, non-zero if a trial has no result."""
    sweep, typed_in = session.sweep, session.typed_in
    comparison = report.compare(sweep)
    say()
    report.show(comparison, Console(highlight=False))
    if all(entry.kind == RANGE_TEST for entry in sweep.trials):
        for entry in sweep.trials:
            say(f"curve: {sweep.trial(entry.signature).path / 'range_test.png'}")
    if line := _other_code(sweep):
        say(line)
    undelivered = session.deliver(report.write(comparison), report.markdown(comparison))
    session.close()
    say(f"report: {sweep.report / report.PAGE}; later: {invocation()} report {sweep.id}{_place(sweep, typed_in)}")
    if undelivered:
        say(
            f"not all of it is in MLflow: {undelivered}; later: {invocation()} sync {sweep.id}{_place(sweep, typed_in)}"
        )
    elif tracking.is_server(sweep.tracking_uri):
        say(f"MLflow: {tracking.overlay_link(sweep)}")
    else:
        say(f"MLflow: {invocation()} ui {sweep.id}{_place(sweep, typed_in)}  opens  {tracking.overlay_link(sweep)}")
    return 0 if all(outcome.result for outcome in comparison.outcomes) else FAILURE


def say(line: str = "") -> None:
    """A line for the user, on standard output, at any width."""
    print(line, flush=True)


def complain(line: str) -> None:
    """A line for the user about what went wrong, on standard error."""
    print(line, file=sys.stderr, flush=True)


def refuse(error: Exception) -> int:
    """Tell a mistake of the user's in one line, behind its traceback where Hydra is to show it; the exit status."""
    if wants_tracebacks():
        print(with_traceback(error), end="", file=sys.stderr)
    complain(f"onecycle_sweeps: {error}")
    return MISTAKE


def say_how_to_continue(sweep: Sweep, _: Path) -> None:
    """After an interruption: nothing is lost, and the same command goes on."""
    say(f"stopped; what had been done is saved. To go on: {invocation()} {shlex.join(sweep.command)}")


def say_how_to_resume(sweep: Sweep, typed_in: Path) -> None:
    """After an interruption of what is resumed: the recorded command may ask for something else by now."""
    say(f"stopped; what had been done is saved. To go on: {invocation()} resume {sweep.id}{_place(sweep, typed_in)}")


def say_how_jobs_go_on(sweep: Sweep, typed_in: Path) -> None:
    """After a submission that nobody waits for any more: what was submitted goes on by itself."""
    where = f"{sweep.id}{_place(sweep, typed_in)}"
    say(f"sweep {sweep.id} goes on without this command; how it stands: {invocation()} status --watch {where}")
    say(f"to end it: {invocation()} cancel {where}; its table later: {invocation()} report {where}")


def _place(sweep: Sweep, typed_in: Path) -> str:
    """The overrides that a verb typed in this folder needs to find the sweep and its store."""
    typed = dict(override.split("=", 1) for override in sweep.command if "=" in override)
    found = {}
    if sweep.runs_dir != typed_in / "runs":
        asked = typed.get("runs_dir", "")
        found["runs_dir"] = asked if asked and typed_in / asked == sweep.runs_dir else str(sweep.runs_dir)
    uri, experiment = "tracking.uri", "tracking.experiment"
    if uri in typed and paths.absolute_uri(typed[uri], typed_in) == sweep.tracking_uri:
        found[uri] = typed[uri]
    if typed.get(experiment) == sweep.experiment:
        found[experiment] = sweep.experiment
    return "".join(f" {shlex.quote(f'{key}={value}')}" for key, value in found.items())


def _other_code(sweep: Sweep) -> str | None:
    """A line that says how many results were reused that other code or another torch made, and what has changed."""
    found = outdated(sweep.trial(entry.signature) for entry in sweep.trials if entry.reused)
    if not found.count:
        return None
    told = f"{found.count} of {len(sweep.trials)} results were made by other code or versions: rerun=true repeats them"
    return f"{found.words}: {told}" if found.words else told
