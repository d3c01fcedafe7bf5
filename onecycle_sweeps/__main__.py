"""The program: a verb goes to the verbs, everything else to Hydra."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from onecycle_sweeps import cli, credentials

INTERRUPTED = 130


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="config")
def one_trial(config: DictConfig) -> None:
    """What Hydra calls without -m; with -m its launcher is called instead."""
    from onecycle_sweeps.launch import commands

    commands.one_trial(config, HydraConfig.get())


def main() -> None:
    """Run the program.

    The exit status is 0 if no trial failed, 1 if one did, 2 for a mistake in what was asked, 130 after Ctrl-C.
    """
    # Code of the user's that a config names lies in the folder that the command is typed in.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    if (arguments := credentials.without(sys.argv[1:])) != sys.argv[1:]:
        # Every user of a machine reads the arguments of its processes.
        os.execv(sys.executable, [*sys.orig_argv[: -len(arguments)], *arguments])
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        sys.exit(cli.main(sys.argv[1:]) if cli.is_verb(first) else _command())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _command() -> int:
    one_trial()
    if "onecycle_sweeps.launch.commands" not in sys.modules:
        return 0
    from onecycle_sweeps.launch import commands

    return commands.conclude_sweep()


if __name__ == "__main__":
    main()
