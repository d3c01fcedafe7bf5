"""What Hydra's two ways lead to: one trial in this process, or a sweep through a launcher."""

import math
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from onecycle_sweeps import composing
from onecycle_sweeps.config import schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.launching import conclusion, pool, preflight
from onecycle_sweeps.launching.direction import minimising
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.launching.session import Run, Session
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.planning import Request
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.terminal import in_one_line

INTERRUPTED = 130
# What only a sweep reads.
OF_A_SWEEP = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep.")
OF_ONE_TRIAL = ("hydra.run.",)
USUAL = ("hydra/launcher=local", "hydra/sweeper=grid")
# The sweep that this process's launches belong to: Hydra calls a launcher several times and ends without a word.
_sessions: list[Session] = []
_workers = pool.WorkerPool()


def one_trial(config: Any, hydra: Any) -> None:
    """Run one trial here, with the range test it needs; leaves with the exit status unless all went well."""
    with _ending_in_a_line():
        _check_one_trial(hydra)
        request = Request(composing.plain(config, hydra), tuple(hydra.overrides.task), dict(hydra.runtime.choices))
        schema.check(request.config)
        session = Session(request.config, Preflight(preflight.in_this_process), single=True)
        with _interruptible(session, conclusion.say_how_to_continue):
            session.launch([request], _in_this_process)
            status = conclusion.conclude(session)
        if status:
            sys.exit(status)


def _check_one_trial(hydra: Any) -> None:
    """Raise ConfigError where a sweep was asked for: typed, or in a file that was chosen."""
    launcher, sweeper = (
        f"hydra/{group}={hydra.runtime.choices[f'hydra/{group}']}" for group in ("launcher", "sweeper")
    )
    if hydra.mode.name == "MULTIRUN":
        raise ConfigError(f"{launcher} cannot run this program's sweeps: leave it out, or take local")
    _check_hydra(hydra, OF_A_SWEEP, "needs a sweep: add -m")
    for chosen in (launcher, sweeper):
        if chosen not in USUAL:
            raise ConfigError(f"{chosen} needs a sweep: add -m")


def check_sweep(hydra: Any) -> None:
    """Leave with a line and a status for what is asked of Hydra and cannot be done around a sweep's jobs."""
    with _ending_in_a_line():
        _check_hydra(hydra, OF_ONE_TRIAL, "is of one trial: leave out -m, or set hydra.sweep.dir")
        schema.check_env_set(name for name in hydra.job.env_set if name not in hydra.job.env_copy)


def _check_hydra(hydra: Any, elsewhere: tuple[str, ...], where: str) -> None:
    """Raise ConfigError for what was typed of Hydra's own config and is read `elsewhere`, or nowhere."""
    for override in composing.typed(hydra, "hydra"):
        if override.lstrip("+~").startswith(elsewhere):
            raise ConfigError(f"{override} {where}")
    if hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true cannot be done, since paths in a config count from where the command is typed: leave "
            "it out, hydra.runtime.output_dir names a job's folder"
        )


def _say_what_sweeps_the_jobs(hydra: Any, config: Mapping[str, Any]) -> None:
    """Say, once, what of the sweeper's or of Hydra's own folder may not be as it was meant."""
    if config["task"] == TRAIN and (key := minimising(hydra.sweeper)):
        conclusion.complain(
            f"onecycle_sweeps: the sweeper minimises, and final val accuracy is better where it is higher: add {key}"
        )
    if Path(hydra.sweep.dir).absolute() != Path(config["runs_dir"]) / "sweeps":
        conclusion.complain(
            f"onecycle_sweeps: {hydra.sweep.dir} takes what Hydra writes of its jobs; trials, results and the report "
            f"are in {config['runs_dir']} (runs_dir=...)"
        )


def sweep(requests: Sequence[Request], hydra: Any, launcher: Mapping[str, Any], *, sequential: bool) -> list[float]:
    """Run a sweeper's jobs on this machine's workers; returns each one's objective."""
    with _ending_in_a_line():
        config = requests[0].config
        schema.check_launcher(launcher, schema.LOCAL_LAUNCHER)
        schema.check(config)
        if not _sessions:
            _say_what_sweeps_the_jobs(hydra, config)
            checks_in_forks = Preflight(preflight.in_a_fork)
            _sessions.append(Session(config, checks_in_forks, single=False, sequential=sequential, launcher=launcher))
        with _interruptible(_sessions[0], conclusion.say_how_to_continue):
            return _sessions[0].launch(requests, _on_workers(config, launcher))


def submit(requests: Sequence[Request], hydra: Any, launcher: Mapping[str, Any], *, sequential: bool) -> list[float]:
    """Submit a sweeper's jobs to a SLURM cluster; returns each one's objective, which is no number without a wait."""
    from onecycle_sweeps.launching.slurm import dry_run, options, watch

    with _ending_in_a_line():
        # It was started if the command line did not name the launcher.
        pool.stop_server()
        config, waits = requests[0].config, launcher["wait"]
        options.check(launcher)
        schema.check(config)
        if sequential and (launcher["dry_run"] or not waits):
            key = "dry_run=true" if launcher["dry_run"] else "wait=false"
            raise ConfigError(f"hydra.launcher.{key} leaves a sweeper that learns from results without any")
        if not _sessions:
            _say_what_sweeps_the_jobs(hydra, config)
        checks_apart = Preflight(preflight.in_a_fresh_process, elsewhere=True)
        if launcher["dry_run"]:
            dry_run.show(requests, launcher, checks_apart)
            return [math.nan] * len(requests)
        if not _sessions:
            made = Session(
                config,
                checks_apart,
                single=False,
                sequential=sequential,
                cpus_elsewhere=launcher["cpus_per_task"],
                launcher=launcher,
                ships=waits,
            )
            _sessions.append(made)
        session = _sessions[0]
        with _interruptible(session, conclusion.say_how_jobs_go_on):
            run = partial(watch.run, launcher, report=not sequential)
            return session.launch(requests, run)


def resume(recorded: Sweep, launcher: Mapping[str, Any] | None, typed_in: Path) -> int:
    """Run what is left of a recorded sweep, where `launcher` says; returns the exit status.

    `typed_in` is the folder of the shell, for the commands that are suggested at the end: this process has left it.
    """
    from onecycle_sweeps.launching.slurm import options, watch

    with _ending_in_a_line():
        config = recorded.trial(recorded.trials[0].signature).config()
        tracker = {"uri": recorded.tracking_uri, "experiment": recorded.experiment}
        begun = partial(
            Session,
            {"runs_dir": str(recorded.runs_dir), "tracking": tracker},
            Preflight(preflight.in_this_process),
            single=recorded.single,
            sequential=recorded.sequential,
            launcher=launcher,
            typed_in=typed_in,
        )
        how = conclusion.say_how_to_resume
        if not launcher:
            session, run = begun(), _in_this_process
        elif is_slurm(launcher):
            options.check(launcher)
            session = begun(ships=launcher["wait"])
            run, how = partial(watch.run, launcher, report=True), conclusion.say_how_jobs_go_on
        else:
            schema.check_launcher(launcher, schema.LOCAL_LAUNCHER)
            session, run = begun(), _on_workers(config, launcher)
        _sessions.append(session)
        with _interruptible(session, how):
            session.resume(recorded, run)
    return conclude_sweep()


def is_slurm(launcher: Mapping[str, Any]) -> bool:
    """Whether these are the keys of hydra/launcher=slurm."""
    return "timeout_min" in launcher


def conclude_sweep() -> int:
    """End the sweep that this process launched, if it launched one; returns the exit status."""
    if not _sessions:
        return 0
    session = _sessions.pop()
    if not session.ships:
        conclusion.say_how_jobs_go_on(session.sweep, session.typed_in)
        return 0
    with _ending_in_a_line(), _interruptible(session, conclusion.say_how_to_continue):
        _workers.leave()
        return conclusion.conclude(session)


def _in_this_process(sweep: Sweep, trials: Sequence[Entry]) -> Generator[Event]:
    from onecycle_sweeps.launching import job

    yield from job.run_here(sweep, trials)


def _on_workers(config: Mapping[str, Any], launcher: Mapping[str, Any]) -> Run:
    """What runs trials on this machine's workers."""
    threads = 1 if config["threads"] == "auto" else config["threads"]
    workers = None if launcher["workers"] == "auto" else launcher["workers"]
    slots = partial(pool.slots, config["device"], threads, workers, launcher["jobs_per_gpu"])
    return lambda sweep, todo: pool.run(_workers, sweep, todo, slots(len(todo)))


@contextmanager
def _ending_in_a_line() -> Iterator[None]:
    """Turn a mistake of the user's, a worker that cannot start, or a disk that is full, into one line and a status."""
    try:
        yield
    except ConfigError as error:
        sys.exit(conclusion.refuse(error))
    except (pool.WorkerLost, SlurmError, Unreadable, OSError) as error:
        conclusion.complain(f"onecycle_sweeps: {error}")
        sys.exit(conclusion.FAILURE)


@contextmanager
def _interruptible(session: Session, say_how: Callable[[Sweep, Path], None]) -> Iterator[None]:
    """On Ctrl-C or SIGTERM the trials at work have saved by now: ship what there is, say how to go on, and leave.

    A second Ctrl-C leaves the shipping to `sync`. A KeyboardInterrupt that no signal has raised is a mistake in the
    user's code.
    """
    asked = False

    def interrupt(*_: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    # What a shell has started in its background ignores Ctrl-C.
    signals = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) != signal.SIG_IGN else [])]
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    except KeyboardInterrupt as error:
        with suppress(KeyboardInterrupt):
            session.close()
        if not asked:
            raise ConfigError(in_one_line(error)) from error
        say_how(session.sweep, session.typed_in)
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
