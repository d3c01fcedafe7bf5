"""The program's entry: a verb goes to `cli`, everything else to Hydra."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onecycle_sweeps import command_line, credentials, memory, terminal
from onecycle_sweeps.config import paths
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.launching import pool

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Run the program.

    The exit status is 0 if no trial failed, 1 if one did, 2 for a mistake in what was typed, 130 after Ctrl-C.
    """
    _name_files_in_utf8()
    memory.collect_seldom()
    terminal.replace_unencodable()
    sys.argv[1:] = paths.typed_with_homes(sys.argv[1:])
    command_line.add_code(sys.argv[1:], Path.cwd())
    if (shown := credentials.scrubbed(sys.argv[1:])) != sys.argv[1:]:
        # Every user of a machine can read the arguments of its processes.
        os.execv(sys.executable, [*sys.orig_argv[: -len(shown)], *shown])
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        if command_line.asks_for_help(sys.argv[1:]):
            sys.exit(_help())
        if "--version" in sys.argv[1:] and not command_line.is_verb(first):
            from onecycle_sweeps import usage

            sys.exit(print(usage.version()))
        sys.exit(_verb() if command_line.is_verb(first) else _command())
    except ConfigError as error:
        sys.exit(terminal.refuse(error))
    except KeyboardInterrupt:
        sys.exit(terminal.INTERRUPTED)


def _name_files_in_utf8() -> None:
    """Start again in Python's UTF-8 mode if the locale encodes file names otherwise: records on disk name files."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def _help() -> int:
    from onecycle_sweeps import cli

    return cli.show_help(sys.argv[1:])


def _verb() -> int:
    _start_no_threads()
    from onecycle_sweeps import cli

    try:
        return cli.main(sys.argv[1:])
    finally:
        pool.stop_server()


def _start_no_threads() -> None:
    """Keep the libraries that are loaded from here on from starting threads: `threads` sets how many a trial has."""
    os.environ.update(dict.fromkeys(pool.THREAD_VARIABLES, "1"))


def _command() -> int:
    _start_no_threads()
    # The fork server takes a second or two to import torch, while Hydra composes the jobs.
    if command_line.wants_workers(sys.argv[1:]):
        with suppress(OSError):
            pool.start_server()
    try:
        status = one_trial()
        if "onecycle_sweeps.launching.commands" not in sys.modules:
            return 0
        from onecycle_sweeps.launching import commands

        return commands.conclude_sweep() or status
    finally:
        pool.stop_server()


def one_trial() -> int:
    """Let Hydra compose the config and run it as one trial; with -m Hydra calls its launcher instead.

    Returns 1 if the sweeper ended early, since a trial gave it no value.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from onecycle_sweeps import hydra_internals, hydra_job, mistakes

    @hydra.main(version_base=hydra_internals.VERSION_BASE, config_path=str(command_line.CONF), config_name="config")
    def run(config: "DictConfig") -> None:
        from onecycle_sweeps.launching import commands

        commands.one_trial(config, HydraConfig.get())

    sys.argv[1:] = mistakes.checked_arguments(sys.argv[1:])
    try:
        with mistakes.as_config_errors():
            run()
    except hydra_job.NoValue as error:
        terminal.complain(str(error))
        return terminal.FAILURE
    return 0


if __name__ == "__main__":
    main()
