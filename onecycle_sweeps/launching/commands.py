"""The commands that train: one trial in this process, a sweep through a launcher, and the rest of a recorded sweep."""

import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from onecycle_sweeps import composing, tracking
from onecycle_sweeps.config import schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.launching import pool, preflight
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.launching.session import Run, Session, say_how_to_continue, say_how_to_resume, say_how_to_watch
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.planning import Request
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.terminal import FAILURE, INTERRUPTED, complain, in_one_line, refuse, say

# Keys that only a sweep reads.
OF_A_SWEEP = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep.")
OF_ONE_TRIAL = ("hydra.run.",)
DEFAULTS = ("hydra/launcher=local", "hydra/sweeper=grid")
# Keys by which sweepers (Optuna, Ax, Nevergrad) are told a direction: the value that minimises, the one that maximises.
DIRECTIONS = {"direction": ("minimize", "maximize"), "minimize": (True, False), "maximize": (False, True)}
LAST_PORT = 65536
# This process's sweep: Hydra calls a launcher several times, and says nothing at the end.
_sessions: list[Session] = []
_workers = pool.WorkerPool()


def one_trial(config: Any, hydra: Any) -> None:
    """Run one trial here, with the range test it needs; leaves with the exit status unless all went well."""
    with _ending_in_a_line():
        _check_one_trial(hydra)
        request = Request(composing.plain(config, hydra), tuple(hydra.overrides.task), dict(hydra.runtime.choices))
        schema.check(request.config)
        session = Session(request.config, Preflight(preflight.in_this_process), single=True)
        with _interruptible(session, say_how_to_continue):
            session.launch([request], _in_this_process)
            status = session.conclude()
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
        if chosen not in DEFAULTS:
            raise ConfigError(f"{chosen} needs a sweep: add -m")


def check_sweep(hydra: Any) -> None:
    """Exit with a line for an override of Hydra's own config that this program's sweeps cannot respect."""
    with _ending_in_a_line():
        _check_hydra(hydra, OF_ONE_TRIAL, "is for one trial: leave out -m, or set hydra.sweep.dir")
        schema.check_env_set(name for name in hydra.job.env_set if name not in hydra.job.env_copy)


def _check_hydra(hydra: Any, elsewhere: tuple[str, ...], where: str) -> None:
    """Raise ConfigError for a typed override of Hydra's own config that is read `elsewhere`, or nowhere."""
    for override in composing.typed(hydra, "hydra"):
        if override.lstrip("+~").startswith(elsewhere):
            raise ConfigError(f"{override} {where}")
    if hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true cannot be done, since paths in a config count from where the command is typed: leave "
            "it out, hydra.runtime.output_dir names a job's folder"
        )


def _warn_of_hydra(hydra: Any, config: Mapping[str, Any]) -> None:
    """Warn of a sweeper that minimises, and of an output folder of Hydra's that gets no results."""
    if config["task"] == TRAIN and (key := maximising_override(hydra.sweeper)):
        complain(f"the sweeper minimises, but a higher final val accuracy is better: add {key}")
    if Path(hydra.sweep.dir).absolute() != Path(config["runs_dir"]) / "sweeps":
        complain(
            f"{hydra.sweep.dir} gets only what Hydra writes about its jobs; trials, results and the report are in "
            f"{config['runs_dir']} (runs_dir=...)"
        )


def sweep(requests: Sequence[Request], hydra: Any, launcher: Mapping[str, Any], *, sequential: bool) -> list[float]:
    """Run a sweeper's jobs on this machine's workers; returns each one's objective."""
    with _ending_in_a_line():
        config = requests[0].config
        schema.check_launcher(launcher, schema.LOCAL_LAUNCHER)
        schema.check(config)
        if not _sessions:
            _warn_of_hydra(hydra, config)
            checks_in_forks = Preflight(preflight.in_a_fork)
            _sessions.append(Session(config, checks_in_forks, single=False, sequential=sequential, launcher=launcher))
        with _interruptible(_sessions[0], say_how_to_continue):
            return _sessions[0].launch(requests, _on_workers(config, launcher))


def submit(requests: Sequence[Request], hydra: Any, launcher: Mapping[str, Any], *, sequential: bool) -> list[float]:
    """Submit a sweeper's jobs to a SLURM cluster; returns each one's objective, NaN if nothing waits for the jobs."""
    from onecycle_sweeps.launching.slurm import dry_run, options, watch

    with _ending_in_a_line():
        # The fork server runs unless the command line itself named this launcher.
        pool.stop_server()
        config, waits = requests[0].config, launcher["wait"]
        options.check(launcher)
        schema.check(config)
        if sequential and (launcher["dry_run"] or not waits):
            key = "dry_run=true" if launcher["dry_run"] else "wait=false"
            raise ConfigError(f"hydra.launcher.{key} gives no results to a sweeper that learns from them")
        if not _sessions:
            _warn_of_hydra(hydra, config)
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
        with _interruptible(session, say_how_to_watch):
            run = partial(watch.run, launcher, report=not sequential)
            return session.launch(requests, run)


def resume(recorded: Sweep, launcher: Mapping[str, Any] | None, typed_in: Path) -> int:
    """Run the unfinished trials of a recorded sweep by `launcher`, or in this process; returns the exit status.

    `typed_in` is the shell's folder, for the commands that are suggested at the end: this process has left it.
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
        how = say_how_to_resume
        if not launcher:
            session, run = begun(), _in_this_process
        elif is_slurm(launcher):
            options.check(launcher)
            session = begun(ships=launcher["wait"])
            run, how = partial(watch.run, launcher, report=True), say_how_to_watch
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


def become_ui(uri: str, which: Sweep | None = None) -> NoReturn:
    """Replace this process by MLflow's UI on a store, at the first free port; raises ValueError for a server's URI."""
    port = next(port for port in range(tracking.PORT, LAST_PORT) if _is_free(port))
    command = tracking.ui_command(uri, port)
    say(f"MLflow: {tracking.overlay_link(which, port) if which else f'http://127.0.0.1:{port}'}")
    os.execvpe(command[0], command, tracking.ui_environment(uri))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def maximising_override(node: Any, path: str = "hydra.sweeper") -> str | None:
    """The override that makes a minimising sweeper maximise; None where its config does not say that it minimises."""
    if not isinstance(node, Mapping):
        return None
    for key, value in node.items():
        minimal, maximal = DIRECTIONS.get(str(key), (None, None))
        # Optuna's direction is a word or a member of an enumeration.
        if minimal is not None and getattr(value, "name", value) == minimal:
            return f"{path}.{key}={str(maximal).lower()}"
        if deeper := maximising_override(value, f"{path}.{key}"):
            return deeper
    return None


def conclude_sweep() -> int:
    """End the sweep that this process launched, if it launched one; returns the exit status."""
    if not _sessions:
        return 0
    session = _sessions.pop()
    if not session.ships:
        say_how_to_watch(session.sweep, session.typed_in)
        return 0
    with _ending_in_a_line(), _interruptible(session, say_how_to_continue):
        _workers.leave()
        return session.conclude()


def _in_this_process(sweep: Sweep, trials: Sequence[Entry]) -> Generator[Event]:
    from onecycle_sweeps.launching import job

    yield from job.run_here(sweep, trials)


def _on_workers(config: Mapping[str, Any], launcher: Mapping[str, Any]) -> Run:
    """A function that runs trials on this machine's workers."""
    threads = 1 if config["threads"] == "auto" else config["threads"]
    workers = None if launcher["workers"] == "auto" else launcher["workers"]
    slots = partial(pool.slots, config["device"], threads, workers, launcher["jobs_per_gpu"])
    return lambda sweep, todo: pool.run(_workers, sweep, todo, slots(len(todo)))


@contextmanager
def _ending_in_a_line() -> Iterator[None]:
    """Turn a mistake of the user's, a worker that cannot start, or a full disk into one line and an exit status."""
    try:
        yield
    except ConfigError as error:
        sys.exit(refuse(error))
    except (pool.WorkerLost, SlurmError, Unreadable, OSError) as error:
        complain(str(error))
        sys.exit(FAILURE)


@contextmanager
def _interruptible(session: Session, say_how: Callable[[Sweep, Path], None]) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, once the running trials have saved: ship what there is, say how to continue, and exit.

    A second Ctrl-C leaves the shipping to `sync`. A KeyboardInterrupt without a signal is a mistake in the user's code.
    """
    has_signal = False

    def interrupt(*_: object) -> None:
        nonlocal has_signal
        has_signal = True
        raise KeyboardInterrupt

    # A shell's background job ignores Ctrl-C.
    signals = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) != signal.SIG_IGN else [])]
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    except KeyboardInterrupt as error:
        with suppress(KeyboardInterrupt):
            session.close()
        if not has_signal:
            raise ConfigError(in_one_line(error)) from error
        say_how(session.sweep, session.typed_in)
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
