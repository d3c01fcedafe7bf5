"""Preflight checks: before the first trial runs, each distinct config takes a step on a few samples.

They run in this process, or in another one, which a crash may kill: forked from the workers' server, or a fresh Python.
"""

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe, connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Literal

from onecycle_sweeps.config import function_node, schema
from onecycle_sweeps.config.schema import Config, ConfigError
from onecycle_sweeps.launching import pool
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.planning import Trial
from onecycle_sweeps.terminal import in_one_line, with_traceback

# Keys of a config that have no influence on whether the trial can take a step.
IRRELEVANT = (
    *("seed", "epochs", "evaluations_per_epoch", "runs_dir", "tracking", "threads", "rerun"),
    *("target", "target_accuracy"),
)
# How often to check whether the process is alive: a process that it has started may hold its pipes open.
POLL_SECONDS = 0.2
# How long the process may take to end after it was killed, or after it has closed its pipe.
END_SECONDS = 1.0


@dataclass(frozen=True)
class Check:
    """A trial to be checked: its config, where its decoded data is, and whether it will run on another machine."""

    config: Config
    runs_dir: str
    elsewhere: bool


@dataclass(frozen=True)
class Refusal:
    """Why a trial cannot take a step, in one line, with a traceback if there is one.

    `killed`: the process was killed with SIGKILL, as the system does when memory is short.
    """

    line: str
    traceback: str = ""
    killed: bool = False


Perform = Callable[[Sequence[Check]], Refusal | None]


@dataclass(frozen=True)
class Preflight:
    """The checks of one command; a config that has passed in one launch is not checked again in the next."""

    perform: Perform
    elsewhere: bool = False
    _passed: set[str] = field(default_factory=set)

    def check(self, trials: Sequence[Trial], runs_dir: Path) -> None:
        """Raise ConfigError for the first trial that cannot take a step."""
        checks: dict[str, Check] = {}
        headlines: dict[Measure, Config] = {}
        for trial in trials:
            # What a user's own function would do with a few samples is unknown; the plan has checked its parameters.
            if schema.LOOP in trial.config:
                if trial.config["task"] == schema.TRAIN:
                    headlines.setdefault(function_node.measure(trial.config), trial.config)
                continue
            config = {key: value for key, value in trial.config.items() if key not in IRRELEVANT}
            # Sorted by model, so that each net is built once.
            key = json.dumps([config["model"], config["data"], config["batch_size"], config], sort_keys=True)
            if key not in self._passed:
                checks[key] = Check(trial.config, str(runs_dir), self.elsewhere)
        if line := _unlike(headlines):
            raise ConfigError(line)
        if not checks:
            return
        refusal = self.perform([checks[key] for key in sorted(checks)])
        # Another machine may have the memory that this one lacks.
        if refusal and not (refusal.killed and self.elsewhere):
            error = ConfigError(refusal.line)
            if refusal.traceback:
                error.add_note(refusal.traceback)
            raise error
        self._passed.update(checks)


def in_this_process(checks: Sequence[Check], begin: Callable[[Check], None] = lambda _: None) -> Refusal | None:
    """Perform checks here, which imports torch; returns the first refusal. `begin` is called before each check."""
    from onecycle_sweeps import datasets, torch_settings
    from onecycle_sweeps.config import nodes
    from onecycle_sweeps.trial.rehearsal import Rehearsal

    rehearsal, headlines = Rehearsal(), dict[Measure, Config]()
    for check in checks:
        begin(check)
        config = check.config
        try:
            with nodes.environment(config), torch_settings.kept():
                cache = Path(check.runs_dir) / "data" / config["needs"]["data"]
                facts = datasets.prepare(nodes.loader(config), cache, **schema.split(config))
                headline = rehearsal.attempt(config, facts, elsewhere=check.elsewhere)
        except (Exception, SystemExit) as error:
            return Refusal(in_one_line(error), with_traceback(error))
        if headline and config["task"] == schema.TRAIN:
            headlines.setdefault(headline, config)
    line = _unlike(headlines)
    return Refusal(line) if line else None


def _unlike(headlines: Mapping[Measure, Config]) -> str | None:
    """Why trainings that are judged by these measures, each with the config of one of them, cannot be one sweep."""
    if len({(headline.name, headline.goal) for headline in headlines}) < 2:
        return None
    named = (f"{headline.name} ({headline.goal}) of {_what(config)}" for headline, config in headlines.items())
    return (
        f"a sweep compares its trainings by one measure, but this one's have several: {'; '.join(named)}. "
        "Run a sweep for each, or choose a measure that all have: objective.headline=loss, or `measure` of a training "
        "function"
    )


def _what(config: Config) -> str:
    """What a trial trains, for a message."""
    node = config[schema.LOOP] if schema.LOOP in config else config["data"]
    return " ".join(str(node[key]) for key in ("_target_", "name", "path") if node.get(key))


def in_a_fork(checks: Sequence[Check]) -> Refusal | None:
    """Perform checks in a process forked from the workers' server."""
    return _in_another_process("forkserver", checks)


def in_a_fresh_process(checks: Sequence[Check]) -> Refusal | None:
    """Perform checks in a new Python, whose torch takes no memory afterwards."""
    return _in_another_process("spawn", checks)


def serve(answers: Connection, checks: Sequence[Check]) -> None:
    """In the other process: send each model's target before its check, and the refusal or None in the end."""
    try:
        refusal = in_this_process(checks, lambda check: answers.send(check.config["model"]["_target_"]))
    except KeyboardInterrupt as error:
        refusal = Refusal(in_one_line(error), with_traceback(error))
    answers.send(refusal)


def _in_another_process(method: Literal["forkserver", "spawn"], checks: Sequence[Check]) -> Refusal | None:
    """Perform checks in another process; raises OSError if it cannot be started."""
    receiver, sender = Pipe(duplex=False)
    with receiver, tempfile.NamedTemporaryFile() as output:
        with sender:
            process = pool.start_process(method, __name__, {}, Path(output.name), sender, list(checks))
        target = ""
        try:
            for message in _messages(receiver, process):
                if not isinstance(message, str):
                    return message
                target = message
            return _death(process, target, output)
        finally:
            _end(process)


def _messages(receiver: Connection, process: BaseProcess) -> Iterator[str | Refusal | None]:
    """What a process sends until it ends."""
    with suppress(EOFError):
        while True:
            connection.wait([receiver, process.sentinel], POLL_SECONDS)
            has_ended = process.exitcode is not None
            while receiver.poll():
                yield receiver.recv()
            if has_ended:
                return
    process.join(END_SECONDS)


def _end(process: BaseProcess) -> None:
    """Kill a process, and all that the user's code has started in it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join(END_SECONDS)


def _death(process: BaseProcess, target: str, output: IO[bytes]) -> Refusal:
    """The refusal if the process has ended without sending one."""
    last = output.read().decode(errors="replace").strip().splitlines()[-1:]
    how = pool.how_it_ended(process.exitcode)
    line = f"model._target_={target} was tried on a few samples, and the process that tried it {how}"
    return Refusal(": ".join([line, *last]), killed=process.exitcode == -signal.SIGKILL)
