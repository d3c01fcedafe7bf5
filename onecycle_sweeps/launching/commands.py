"""The commands that train: one trial in this process, a sweep through a launcher, and the rest of a recorded sweep."""

import math
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

from onecycle_sweeps import composing, measures, tracking
from onecycle_sweeps.config import function_node, schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.launching import pool, preflight
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.queue import Event
from onecycle_sweeps.launching.session import Run, Session, say_how_to_continue, say_how_to_resume, say_how_to_watch
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.planning import Request
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.terminal import FAILURE, INTERRUPTED, complain, in_one_line, refuse, say

# The keys of hydra/launcher.
LauncherKeys = Mapping[str, Any]

# Keys of Hydra's config that only a sweep reads, and those that only a single trial reads.
SWEEP_KEYS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep.")
TRIAL_KEYS = ("hydra.run.",)
DEFAULTS = ("hydra/launcher=local", "hydra/sweeper=grid")
# The keys that give sweepers (Optuna, Ax, Nevergrad) their direction, and the value of each for a measure's goal.
DIRECTIONS = {
    "direction": {"min": "minimize", "max": "maximize"},
    "minimize": {"min": True, "max": False},
    "maximize": {"min": False, "max": True},
}
LAST_PORT = 65535
# How often MLflow's UI is asked whether it is up.
UP_SECONDS = 0.2
# The sweep of this process, if it has one. Hydra calls a launcher several times and does not announce the last call.
_sessions: list[Session] = []
_workers = pool.WorkerPool()


def one_trial(config: Any, hydra: Any) -> None:
    """Run one trial here, with the range test that it needs; exits with a status unless all went well."""
    with errors_in_one_line():
        _check_one_trial(hydra)
        request = Request(composing.plain(config, hydra), tuple(hydra.overrides.task), dict(hydra.runtime.choices))
        schema.check(request.config)
        session = Session(request.config, Preflight(preflight.in_this_process), single=True)
        with interruptible(session, say_how_to_continue):
            session.launch([request], _in_this_process)
            status = session.conclude()
        if status:
            sys.exit(status)


def _check_one_trial(hydra: Any) -> None:
    """Raise ConfigError where the overrides or a config file ask for a sweep."""
    launcher, sweeper = (
        f"hydra/{group}={hydra.runtime.choices[f'hydra/{group}']}" for group in ("launcher", "sweeper")
    )
    if hydra.mode.name == "MULTIRUN":
        raise ConfigError(f"{launcher} cannot run this program's sweeps: leave it out, or use local")
    _check_hydra(hydra, SWEEP_KEYS, "needs a sweep: add -m")
    for chosen in (launcher, sweeper):
        if chosen not in DEFAULTS:
            raise ConfigError(f"{chosen} needs a sweep: add -m")


def check_sweep(hydra: Any) -> None:
    """Exit with one line if an override of Hydra's own config has no effect on this program's sweeps."""
    with errors_in_one_line():
        _check_hydra(hydra, TRIAL_KEYS, "is for one trial: leave out -m, or set hydra.sweep.dir")
        directions = hydra.sweeper.get("direction")
        if isinstance(directions, Sequence) and not isinstance(directions, str) and len(directions) > 1:
            raise ConfigError(
                f"hydra.sweeper.direction has {len(directions)} directions, but a trial gives the sweeper one value, "
                "that of the headline measure: name one"
            )
        schema.check_env_set(name for name in hydra.job.env_set if name not in hydra.job.env_copy)


def _check_hydra(hydra: Any, unread: tuple[str, ...], reason: str) -> None:
    """Raise ConfigError for an override whose key begins with one of `unread`, and for a key that cannot be used."""
    for override in composing.typed(hydra, "hydra"):
        if override.lstrip("+~").startswith(unread):
            raise ConfigError(f"{override} {reason}")
    if hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true cannot be used, since paths in a config are relative to the folder in which the "
            "command is typed: leave it out, hydra.runtime.output_dir is a job's folder"
        )


def _warn_of_hydra(hydra: Any, config: Mapping[str, Any]) -> None:
    """Warn of a sweeper that optimises in the wrong direction or over seeds, and of a typed hydra.sweep.dir.

    That folder gets no results.
    """
    measure = _headline(config)
    if composing.searches_seeds(hydra):
        complain(
            "the sweeper searches for the best seed as it does for other values, so that luck counts as merit: let it "
            "search with one seed, and compare what it finds over seed=0,1,2 in a sweep without it"
        )
    if config["task"] == TRAIN and measure and (override := direction_override(hydra.sweeper, measure.goal)):
        does, better = ("minimises", "higher") if measure.goal == "max" else ("maximises", "lower")
        complain(f"the sweeper {does}, but a {better} {measure.final_val} is better: add {override}")
    if Path(hydra.sweep.dir).absolute() != Path(config["runs_dir"]) / "sweeps":
        complain(
            f"{hydra.sweep.dir} gets only what Hydra writes about its jobs; trials, results and the report are in "
            f"{config['runs_dir']} (runs_dir=...)"
        )


def _warn_of_idle_gpus(launcher: LauncherKeys) -> None:
    from onecycle_sweeps.launching.slurm import options

    if line := options.idle_gpus(launcher):
        complain(line)


def _headline(config: Mapping[str, Any]) -> Measure | None:
    """The measure that a sweeper optimises; None if it depends on the data or on the user's code."""
    if config.get(schema.LOOP):
        return function_node.measure(config)
    objective = config["objective"]
    if (name := objective.get("headline")) is not None:
        return measures.LOSS if name == measures.LOSS.name else None
    return measures.HEADLINES.get(objective["_target_"])


def direction_override(node: Any, goal: Literal["max", "min"], path: str = "hydra.sweeper") -> str | None:
    """The override that makes a sweeper optimise towards a goal; None unless its config has the opposite direction."""
    if not isinstance(node, Mapping):
        return None
    opposite = "min" if goal == "max" else "max"
    for key, value in node.items():
        directions = DIRECTIONS.get(str(key))
        # Optuna's direction is a word or a member of an enumeration.
        if directions and getattr(value, "name", value) == directions[opposite]:
            return f"{path}.{key}={str(directions[goal]).lower()}"
        if deeper := direction_override(value, goal, f"{path}.{key}"):
            return deeper
    return None


def sweep(requests: Sequence[Request], hydra: Any, launcher: LauncherKeys, *, sequential: bool) -> list[float]:
    """Run a sweeper's jobs on workers or on a SLURM cluster; returns the value of each for the sweeper.

    A value is NaN if this process does not wait for the job.
    """
    with errors_in_one_line():
        config, on_slurm = requests[0].config, is_slurm(launcher)
        if on_slurm:
            # The fork server was started, unless the command line names this launcher.
            pool.stop_server()
        check_launcher(launcher)
        schema.check(config)
        dry, waits = launcher.get("dry_run", False), launcher.get("wait", True)
        if sequential and (dry or not waits):
            key = "dry_run=true" if dry else "wait=false"
            raise ConfigError(f"hydra.launcher.{key} gives no results to a sweeper that learns from them")
        if not _sessions:
            _warn_of_hydra(hydra, config)
            # A training function of the user's may use all of them.
            if on_slurm and not config.get(schema.LOOP):
                _warn_of_idle_gpus(launcher)
        checks = Preflight(preflight.in_a_fresh_process, elsewhere=True) if on_slurm else Preflight(preflight.in_a_fork)
        if dry:
            from onecycle_sweeps.launching.slurm import dry_run

            dry_run.show(requests, launcher, checks)
            return [math.nan] * len(requests)
        if not _sessions:
            cpus = launcher.get("cpus_per_task")
            _sessions.append(
                Session(config, checks, sequential=sequential, launcher=launcher, cpus_elsewhere=cpus, ships=waits)
            )
        with interruptible(_sessions[0], say_how_to_watch if on_slurm else say_how_to_continue):
            return _sessions[0].launch(requests, _runner(config, launcher, report=not sequential))


def resume(recorded: Sweep, launcher: LauncherKeys | None, typed_in: Path) -> int:
    """Run the unfinished trials of a recorded sweep by `launcher`, or in this process; returns the exit status.

    `typed_in` is the folder in which the command was typed, for the commands that are suggested at the end.
    """
    with errors_in_one_line():
        config = recorded.trial(recorded.trials[0].signature).config()
        session = Session(
            {
                "runs_dir": str(recorded.runs_dir),
                "tracking": {
                    "uri": recorded.tracking_uri,
                    "experiment": recorded.experiment,
                    "every": recorded.tracking_every,
                    "ui_uri": recorded.ui_uri,
                },
            },
            Preflight(preflight.in_this_process),
            launcher=launcher,
            ships=launcher is None or launcher.get("wait", True),
            typed_in=typed_in,
        )
        if launcher:
            check_launcher(launcher)
        _sessions.append(session)
        with interruptible(session, say_how_to_watch if launcher and is_slurm(launcher) else say_how_to_resume):
            session.resume(recorded, _runner(config, launcher, report=True))
    return conclude_sweep()


def conclude_sweep() -> int:
    """End the sweep that this process launched, if it launched one; returns the exit status."""
    if not _sessions:
        return 0
    session = _sessions.pop()
    if not session.ships:
        say_how_to_watch(session.sweep, session.typed_in)
        return 0
    with errors_in_one_line(), interruptible(session, say_how_to_continue):
        _workers.leave()
        return session.conclude()


def is_slurm(launcher: LauncherKeys) -> bool:
    """Whether these are the keys of hydra/launcher=slurm."""
    return "timeout_min" in launcher


def check_launcher(launcher: LauncherKeys) -> None:
    """Raise ConfigError for a value of hydra.launcher that cannot be used."""
    from onecycle_sweeps.launching.slurm import options

    if is_slurm(launcher):
        options.check(launcher)
    else:
        schema.check_launcher(launcher, schema.LOCAL_LAUNCHER)


def _runner(config: Mapping[str, Any], launcher: LauncherKeys | None, *, report: bool) -> Run:
    """The function that runs a sweep's trials; with `report`, a cluster's last job writes the report."""
    if launcher is None:
        return _in_this_process
    if is_slurm(launcher):
        from onecycle_sweeps.launching.slurm import watch

        return partial(watch.run, launcher, report=report)
    threads = 1 if config["threads"] == "auto" else config["threads"]
    workers = None if launcher["workers"] == "auto" else launcher["workers"]
    slots = partial(pool.slots, config["device"], threads, workers, launcher["jobs_per_gpu"])
    # The record of an earlier sweep lacks the key.
    packed = launcher.get("packed", 1)
    return lambda sweep, todo: pool.run(_workers, sweep, todo, slots(len(todo)), packed)


def _in_this_process(which: Sweep, trials: Sequence[Entry]) -> Generator[Event]:
    from onecycle_sweeps.launching import execution

    yield from execution.run_here(which, trials)


def become_ui(uri: str, which: Sweep | None = None) -> NoReturn:
    """Replace this process by MLflow's UI on a store, at the first free port; raises ValueError for a server's URI.

    The UI prints nothing of its own, and its link is printed once it answers, so that the link is the last line.
    """
    port = next(port for port in range(tracking.PORT, LAST_PORT + 1) if _is_free(port))
    command, address = tracking.ui_command(uri, port), f"http://127.0.0.1:{port}"
    say("MLflow's UI starts; Ctrl-C ends it:")
    _print_once_up(address, tracking.overlay_link(which, port) if which else address)
    os.execvpe(command[0], command, tracking.ui_environment(uri))


def _print_once_up(address: str, link: str) -> None:
    """Print a link once a server of this process, which is about to become it, answers; returns at once."""
    server = os.getpid()
    if os.fork():
        os.wait()
        return
    if os.fork():
        # The process between this one and the server ends at once, so that the server has no child that it does not
        # know.
        os._exit(0)
    with suppress(KeyboardInterrupt, ProcessLookupError):
        while not _is_up(address):
            os.kill(server, 0)
            time.sleep(UP_SECONDS)
        say(link)
    os._exit(0)


def _is_up(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1) as answer:
        return answer.status == 200
    return False


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn a mistake of the user's, a worker that cannot start, or a full disk into one line and an exit status."""
    try:
        yield
    except ConfigError as error:
        sys.exit(refuse(error))
    except (pool.WorkerLost, SlurmError, Unreadable) as error:
        complain(str(error))
        sys.exit(FAILURE)
    except OSError as error:
        complain(in_one_line(error))
        sys.exit(FAILURE)


@contextmanager
def interruptible(session: Session, say_how: Callable[[Sweep, Path], None]) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, once the running trials have saved: fill MLflow, say how to continue, and exit.

    A second Ctrl-C leaves MLflow to `sync`. A KeyboardInterrupt without a signal is a mistake in the user's code.
    """
    has_signal = False

    def interrupt(*_: object) -> None:
        nonlocal has_signal
        has_signal = True
        raise KeyboardInterrupt

    # A shell lets its background jobs ignore Ctrl-C.
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
